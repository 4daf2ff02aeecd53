"""One plan, followed through the iterations of its planner, and what became of it."""

import io
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan._checks import require_tensor
from diffplan._files import read_sealed, reading, seal, write_atomically
from diffplan.agents._base import PLANNING, POSTERIOR
from diffplan.agents.planning import PlanningAgent
from diffplan.capabilities import Decoding, knows
from diffplan.errors import ShapeError
from diffplan.functional._random import fold
from diffplan.planners.base import Planner
from diffplan.planners.request import Iterate
from diffplan.problem import PlanningProblem
from diffplan.training._interaction import Environments
from diffplan.training.episode import _read_arrays
from diffplan.training.seeding import derive_seed
from diffplan.training.video import to_frames

_KIND = "diffplan.plan/1"
_EXPECTED = "a plan of diffplan.training"
_MOST_STRIPS = 12
"""Iterations whose images are kept: each has T + 1 of them."""
_IMAGE_AXES = 4


@dataclass(frozen=True)
class PlanRecord:
    """A plan from its start to the answer, and what happened when it was executed.

    `diffplan view` shows it; so does a notebook with the same arrays.

    Attributes:
        states: `[I + 1, T + 1, S]`, of each iteration what it began with, the answer
            last. Of a planner with several candidates the cheapest one.
        actions: `[I + 1, T, A]`.
        cost: `[I + 1]`, as the planner saw it; NaN where it failed.
        violation: `[I + 1]`, the largest entry of `|x_{t+1} - f(x_t, u_t)|`:
            collocation begins with states that do not follow from each other.
        planner: Its name and settings.
        images: uint8 `[K, T + 1, H, W, 3]`, the states of some iterations decoded; or
            None.
        image_iterations: `[K]`, of which ones.
        happened: `[≤ T + 1, S]`, the states that the actions of the answer led to.
        seen: uint8 `[≤ T + 1, H, W, 3]`, the images from there.
        rewards: `[≤ T]`.

    Raises:
        ShapeError: the arrays do not fit each other.
    """

    states: np.ndarray
    actions: np.ndarray
    cost: np.ndarray
    violation: np.ndarray
    planner: str = ""
    images: np.ndarray | None = None
    image_iterations: np.ndarray | None = None
    happened: np.ndarray | None = None
    seen: np.ndarray | None = None
    rewards: np.ndarray | None = None

    def __post_init__(self) -> None:
        count, steps = self.actions.shape[:2] if self.actions.ndim == 3 else (0, 0)
        wanted = {"cost": (count,), "violation": (count,)}
        wanted["states"] = (count, steps + 1, *self.states.shape[2:3])
        if self.images is not None:
            kept = getattr(self.image_iterations, "shape", ())
            wanted["images"] = (*kept, steps + 1, *self.images.shape[2:4], 3)
        if self.happened is not None:
            wanted["happened"] = (len(self.happened), *self.states.shape[2:3])
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape or count == 0:
                got = [getattr(self, each).shape for each in ("actions", name)]
                raise ShapeError(
                    f"{name}: expected {list(shape)} beside actions [I + 1, T, A], got "
                    f"actions and {name} of {got}"
                )

    def save(self, path: Path | str) -> None:
        """Write the record as `.npz`, sealed and atomically."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        np.savez(buffer, **arrays)
        data, _ = seal(buffer.getvalue(), _KIND)
        write_atomically(Path(path), lambda file: file.write(data))


def load_plan_record(path: Path | str) -> PlanRecord:
    """Read what `PlanRecord.save` wrote.

    Raises:
        FileError: the file is missing, damaged or holds something else.
    """
    content, _ = read_sealed(Path(path), _KIND, _EXPECTED)
    with reading(Path(path), _EXPECTED):
        arrays: dict[str, Any] = _read_arrays(content)
        return PlanRecord(**{**arrays, "planner": str(arrays["planner"])})


@torch.no_grad()
def record_plan(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    *,
    generator: torch.Generator | None = None,
    keys: Tensor | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> PlanRecord:
    """Plan for one problem, and keep what the planner looks at in each iteration.

    Args:
        planner: Any; it is called once.
        problem: What is planned.
        state: `[S]`.
        generator: As for the planner.
        keys: As for the planner: int64 `[]`.
        decode: States `[K, T + 1, S]` to images `[K, T + 1, 3, H, W]` in 0 … 1, such
            as `model.decode`; None keeps no images.

    Raises:
        ShapeError: more than one state is given.

    Example:
        >>> import diffplan as dp
        >>> goal = dp.objectives.GoalDistance(torch.zeros(2))
        >>> problem = dp.PlanningProblem(torch.add, goal, dp.Box([-1.0] * 2, [1.0] * 2))
        >>> planner = dp.LatCo(3, iterations=4)
        >>> record = dp.training.record_plan(planner, problem, torch.ones(2))
        >>> record.states.shape
        (5, 4, 2)
    """
    if require_tensor("state", state).ndim != 1:
        raise ShapeError(f"state: expected one state [S], got {list(state.shape)}")
    rows: list[tuple[Tensor, ...]] = []

    def keep(states: Tensor, actions: Tensor, cost: Tensor) -> None:
        times = problem.times(0, len(actions), states)
        gaps = problem.step(states[:-1], actions, times) - states[1:]
        rows.append((states, actions, cost, gaps.abs().amax()))

    def look(iterate: Iterate) -> None:
        best = int(iterate.cost.nan_to_num(torch.inf).argmin())
        actions, states = iterate.actions[best], iterate.states
        rolled = problem.rollout(state, actions) if states is None else states[best]
        keep(rolled, actions, iterate.cost[best])

    plan = planner(problem, state, generator=generator, keys=keys, callback=look)
    keep(plan.states, plan.actions, plan.cost)
    states, *others = (torch.stack(column) for column in zip(*rows, strict=True))
    actions, cost, violation = map(_numbers, others)
    record = PlanRecord(_numbers(states), actions, cost, violation, repr(planner))
    if decode is None:
        return record
    last, most = len(rows) - 1, range(_MOST_STRIPS)
    # The first iterations change most.
    kept = sorted({0, *(round(last ** (i / most[-1])) for i in most if last)})
    # A state that failed has no picture.
    pictures = decode(states[kept]).float().nan_to_num()
    images = np.stack([to_frames(each) for each in pictures])
    return replace(record, images=images, image_iterations=np.array(kept))


@torch.no_grad()
def record_agent_plan(
    agent: PlanningAgent, environments: Environments, *, seed: int = 0
) -> PlanRecord:
    """Plan from the start of an episode, and execute the plan open loop.

    What happens is seen by the agent's filter, so that both are states of its model;
    images are kept where it observes and decodes them. Filter and planner draw the
    random numbers of the episode with that seed: the answer is the plan that it begins
    with in `evaluate(agent, environments, [seed], agent_seed=seed)`.

    Args:
        agent: Its model, filter, planner and problem are used.
        environments: The first of them is acted in.
        seed: Of the episode and of the agent.
    """
    mask = np.arange(environments.num_envs) == 0
    observations, _ = environments.reset(seed=[seed] * len(mask))
    pixels = observations.ndim == _IMAGE_AXES
    key = torch.tensor([derive_seed(seed, "episode")])
    memory = agent.initial_state(1, seed=seed, keys=key)
    device = memory.action.device

    def believe(action: Tensor | None = None) -> Tensor:
        nonlocal memory
        if action is not None:
            memory = replace(memory, action=action, decision=memory.decision + 1)
        seen = torch.from_numpy(observations[:1]).to(device)
        keys = fold(memory.noise_keys(), POSTERIOR)
        memory = replace(memory, state=agent.filter(seen, memory, keys))
        return memory.state[0]

    decode = agent.model.decode if pixels and knows(agent.model, Decoding) else None
    keys = fold(memory.noise_keys(), PLANNING)[0]
    record = record_plan(
        agent.planner, agent.problem, believe(), keys=keys, decode=decode
    )
    beliefs, images, rewards = [memory.state[0]], [observations[0].copy()], []
    for action in record.actions[-1]:
        given = np.repeat(action[None].astype(np.float32), len(mask), axis=0)
        observations, reward, ended, cut, _ = environments.step(given, mask=mask)
        beliefs.append(believe(torch.from_numpy(given[:1]).to(device)))
        images.append(observations[0].copy())
        rewards.append(float(reward[0]))
        if ended[0] or cut[0]:
            break
    return replace(
        record,
        happened=_numbers(torch.stack(beliefs)),
        seen=to_frames(np.stack(images)) if pixels else None,
        rewards=np.array(rewards),
    )


def _numbers(values: Tensor) -> np.ndarray:
    # NumPy has no bfloat16.
    wide = values if values.dtype == torch.float64 else values.float()
    array: np.ndarray = wide.detach().cpu().numpy()
    return array
