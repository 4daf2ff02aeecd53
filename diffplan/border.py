"""The border's trial: model functions are called once as planners will call them.

Shapes alone do not tell whether a function takes any leading dimensions, nor whether
data of each problem that it closes over meet candidates by accident: a goal `[B, S]`
crosses silently with B candidates. So the trial has candidates whose number equals no
other size; what crosses raises an error then, or returns another shape.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan.constraints.box import Box
from diffplan.constraints.state import StateConstraint


@runtime_checkable
class Triable(Protocol):
    """What the trial asks of a `PlanningProblem`."""

    action_space: Box
    state_constraints: tuple[StateConstraint, ...]

    def project(self, actions: Tensor) -> Tensor:
        """Return allowed actions."""
        ...

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state, its shape checked."""
        ...

    def trajectory_cost(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost, its shape checked."""
        ...


def try_problem(
    problem: Triable, state: Tensor, horizon: int | None = None, between: int = 1
) -> None:
    """Call dynamics, objective and state constraints once as planners will call them.

    Args:
        problem: Whose.
        state: `[B, S]`.
        horizon: T; None tries the dynamics alone, for states of this shape.
        between: How many dimensions candidates, starts and particles add to the batch.

    Raises:
        ShapeError, TensorTypeError: a function fails, or returns another shape or
            dtype; the message names it.
    """
    # Contiguous, as planners have them: a model may call `view`.
    with torch.no_grad(), full_precision(state):
        action = problem.project(problem.action_space.to(state).center)
        starts = [state.detach()]
        if horizon is not None:
            taken = [1, *state.shape, len(action), horizon, horizon + 1]
            spread: list[int] = []
            for _ in range(between):
                spread.append(unlike([*taken, *spread]))
            wide = state.detach().reshape(len(state), *(1,) * between, state.shape[1])
            starts.append(wide.expand(-1, *spread, -1).contiguous())
        for start in starts:
            problem.step(start, action.expand(*start.shape[:-1], -1).contiguous())
        if horizon is not None:
            for start in starts:
                _try_objective(problem, start, action, horizon)


def _try_objective(
    problem: Triable, state: Tensor, action: Tensor, horizon: int
) -> None:
    lead, size = state.shape[:-1], state.shape[-1]
    states = state.unsqueeze(-2).expand(*lead, horizon + 1, size).contiguous()
    actions = action.expand(*lead, horizon, -1).contiguous()
    problem.trajectory_cost(states, actions)
    for constraint in problem.state_constraints:
        constraint.stages(states, actions)
        constraint.end(states[..., -1, :])


def unlike(sizes: Iterable[int]) -> int:
    """Return the smallest size above one that is not among those given."""
    taken, size = set(sizes), 2
    while size in taken:
        size += 1
    return size


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off on the device of a tensor.

    A plan is computed in the dtype of the states: half precision loses the differences
    between candidates, and has no factorisations.

    Args:
        like: On the device.
    """
    kind = like.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
