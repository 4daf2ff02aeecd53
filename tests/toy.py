"""A tiny world for tests of agents and training: a point on a line.

The environment follows the Gymnasium interface and costs microseconds; the model learns
its linear dynamics and reward exactly, so that tests have closed forms to compare with.
"""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from diffplan.envs.vector import VectorEnv
from diffplan.gradients import Detach
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.problem import Box

BOX = Box([-1.0], [1.0])


class PointEnv(gymnasium.Env):
    """Position p moves by 0.1 a; reward -p² on arrival; success where |p| < 0.1.

    Starts at a random position that the seed determines. `length` decisions.
    """

    def __init__(self, length: int = 8) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.length = length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = float(self.np_random.uniform(-1, 1))
        self.elapsed = 0
        return self._observation(), {"start": self.position, "name": "point"}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position += 0.1 * float(np.clip(action[0], -1, 1))
        self.elapsed += 1
        info = {"success": float(abs(self.position) < 0.1)}
        over = self.elapsed >= self.length
        return self._observation(), -(self.position**2), False, over, info

    def _observation(self) -> np.ndarray:
        return np.array([self.position], np.float32)


def make_envs(count: int = 2, length: int = 8) -> VectorEnv:
    return VectorEnv([partial(PointEnv, length)] * count)


class LinearModel(WorldModel):
    """State = observation; next = state + gain · action; reward = -scale · state²."""

    state_dim = 1
    action_dim = 1
    state_size = 1

    def __init__(self, gain: float = 0.05) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([gain]))
        self.scale = nn.Parameter(torch.ones(1))

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.gain * action

    def observe(
        self,
        state: Tensor,
        action: Tensor,
        observation: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        # A leaky filter, so that what came before (state and action) matters.
        mean = 0.75 * observation + 0.25 * self.step(state, action)
        return mean if noise is None else mean + 0.01 * noise

    def reward(self, state: Tensor) -> Tensor:
        return -self.scale * state[..., 0].square()

    def decode(self, state: Tensor) -> Tensor:
        return state

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        before, after = batch.observations[:, :-1], batch.observations[:, 1:]
        noise = torch.randn(before.shape, generator=generator)
        predicted = self.step(before + 0.01 * noise, batch.actions)
        dynamics = (predicted - after).square().mean()
        reward = (self.reward(after) - batch.rewards).square().mean()
        total = dynamics + reward
        metrics = {"loss": total.detach(), "dynamics": dynamics.detach()}
        return LossRecord(total, metrics)


class GreedyPlanner(Planner):
    """Deterministic: moves towards zero at full speed; counts its calls.

    With `noise`, adds that much randomness. With a warm start, a tenth of its actions
    is mixed in, so that tests can see whether one was given.
    """

    def __init__(self, horizon: int = 6, noise: float = 0.0) -> None:
        super().__init__()
        self.horizon, self.noise, self.gradient = horizon, noise, Detach()
        self.batches: list[int] = []
        self.warm: list[bool] = []

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...] | None:
        return (self.horizon, 1) if self.noise else None

    def solve(self, request: PlanRequest) -> Solution:
        state, noise, warm_start = request.state, request.noise, request.warm_start
        self.batches.append(len(state))
        self.warm.append(warm_start is not None)
        actions = -(state[:, None] * 5).tanh().expand(-1, self.horizon, -1)
        # Later actions are smaller, so that a test sees which one is executed.
        weights = torch.linspace(1.0, 0.5, self.horizon)[:, None]
        actions = actions * weights
        if noise is not None:
            actions = actions + self.noise * noise
        if warm_start is not None:
            actions = 0.9 * actions + 0.1 * warm_start.actions
        return Solution(
            actions,
            diagnostics={"trace": state.new_zeros(len(state), 3)},
            memory={"spread": torch.ones_like(actions)},
        )
