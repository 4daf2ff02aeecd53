"""Trying what is not known to be best: noise on actions, and random actions."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_count, require_share
from diffplan.agents._base import AgentState
from diffplan.constraints._box import require_bounded
from diffplan.functional._random import standard_normal, stream_keys, uniform
from diffplan.problem import Box

Exploration = Callable[[Tensor, Box, Tensor], Tensor]
"""`(actions [B, A], action_space, keys [B]) → actions [B, A]` in the action space.

The keys are for `diffplan.functional._random`: one stream per environment and decision.
"""


@dataclass(frozen=True)
class GaussianNoise:
    """Independent Gaussian noise on every action, then clipped to the action space.

    LatCo, PlaNet and Dreamer collect with a standard deviation of 0.3.

    Args:
        std: In units of the action, at least 0.

    Raises:
        ArgumentError: `std` is negative.

    Example:
        >>> noise = GaussianNoise(0.3)
        >>> noise(torch.zeros(4, 1), Box([-1.0], [1.0]), torch.arange(4)).shape
        torch.Size([4, 1])
    """

    std: float = 0.3

    def __post_init__(self) -> None:
        require_at_least("std", self.std, 0)

    def __call__(
        self, action: Tensor, action_space: Box, keys: Tensor | torch.Generator
    ) -> Tensor:
        """Return noisy actions of the same shape; a generator gives keys by itself."""
        if isinstance(keys, torch.Generator):
            keys = stream_keys(action.shape[:1], action.device, seed=keys)
        noise = standard_normal(keys, action.shape[1:], action)
        return action_space.project(action + self.std * noise)


@dataclass(frozen=True)
class RandomChoice:
    """With some probability another action, drawn uniformly: for choices.

    Noise that is added to a one-hot action seldom makes another choice of it.

    Args:
        probability: In 0 … 1. The action that is drawn may be the same one.

    Raises:
        ArgumentError: `probability` is out of range.

    Example:
        >>> import diffplan
        >>> explore, space = RandomChoice(1.0), diffplan.Categorical(2)
        >>> explore(torch.eye(2)[[0] * 50], space, torch.arange(50)).sum(0) > 0
        tensor([True, True])
    """

    probability: float = 0.3

    def __post_init__(self) -> None:
        require_share("probability", self.probability)

    def __call__(
        self, action: Tensor, action_space: Box, keys: Tensor | torch.Generator
    ) -> Tensor:
        """Return actions of the same shape; a generator gives keys by itself."""
        if isinstance(keys, torch.Generator):
            keys = stream_keys(action.shape[:1], action.device, seed=keys)
        shares = uniform(keys, (1 + action.shape[-1],), action)
        drawn = _spread(action_space, shares[:, 1:])
        return torch.where(shares[:, :1] < self.probability, drawn, action)


class UniformAgent:
    """Draws every action uniformly from the box: seed episodes and the baseline.

    Args:
        action_space: With finite bounds `[A]`.

    Raises:
        ArgumentError: a bound is infinite.
        ShapeError: the bounds depend on the step or the problem.

    Example:
        >>> agent = UniformAgent(Box([-1.0], [1.0]))
        >>> agent_state = agent.initial_state(3, seed=0)
        >>> action, agent_state = agent.act(torch.zeros(3, 5), agent_state)
        >>> action.shape
        torch.Size([3, 1])
    """

    def __init__(self, action_space: Box) -> None:
        self.action_space = require_bounded("action_space", action_space)

    def initial_state(
        self, batch_size: int, *, seed: int = 0, keys: Tensor | None = None
    ) -> AgentState:
        """Return an agent state that holds nothing but randomness."""
        batch_size = require_count("batch_size", batch_size)
        empty = torch.zeros(batch_size, 0, device=self.action_space.low.device)
        return AgentState.start(empty, self.action_space.dim, seed, keys)

    def act(
        self,
        observation: Tensor,
        agent_state: AgentState,
        *,
        explore: bool = False,
    ) -> tuple[Tensor, AgentState]:
        """Draw actions `[B, A]`; the observation is not looked at."""
        box = self.action_space.to(agent_state.action)
        share = uniform(agent_state.noise_keys(), (box.dim,), agent_state.action)
        action = _spread(box, share)
        decision = agent_state.decision + 1
        return action, replace(agent_state, action=action, decision=decision)

    def reset(
        self, agent_state: AgentState, mask: Tensor, *, keys: Tensor | None = None
    ) -> AgentState:
        """Start new episodes where `mask [B]` holds."""
        return agent_state.restarted(mask, agent_state.state, keys)


def _spread(box: Box, share: Tensor) -> Tensor:
    """Return the action at shares 0 … 1 of the box's width; of choices the largest."""
    return box.project(box.low + (box.high - box.low) * share)
