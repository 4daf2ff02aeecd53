"""The border's trial: model functions are called once as planners will call them.

Shapes alone do not tell whether a function takes any leading dimensions, nor whether
data of each problem that it closes over meet candidates by accident: a goal `[B, S]`
crosses silently with B candidates. So the trial has candidates whose number equals no
other size; what crosses raises an error then, or returns another shape.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from diffplan.constraints.box import Box
from diffplan.constraints.state import StateConstraint
from diffplan.errors import DiffplanError, ShapeError, describe

ResultT = TypeVar("ResultT")

ANY_LEAD = (
    "dynamics take any leading dimensions; a model that needs 2-D input does so by "
    "model(state.flatten(0, -2), action.flatten(0, -2)).unflatten(0, state.shape[:-1])"
)
ALIGNED = (
    "objectives and constraints take any leading dimensions, such as candidates "
    "[B, N]; data of each problem need their place, as in GoalDistance(goal), or "
    "goal[:, None] before candidates"
)


@runtime_checkable
class Triable(Protocol):
    """What the trial asks of a `PlanningProblem`."""

    dynamics: Callable[[Tensor, Tensor], Tensor]
    objective: Callable[[Tensor, Tensor], Tensor]
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
    with torch.no_grad(), full_precision(state):
        action = problem.project(problem.action_space.to(state).center)
        starts = [state.detach()]
        if horizon is not None:
            taken = [1, *state.shape, len(action), horizon, horizon + 1]
            spread: list[int] = []
            for _ in range(between):
                spread.append(unlike([*taken, *spread]))
            wide = state.detach().reshape(len(state), *(1,) * between, -1)
            starts.append(wide.expand(-1, *spread, -1).contiguous())
        for start in starts:
            _try_dynamics(problem, start, action)
        if horizon is not None:
            for start in starts:
                _try_objective(problem, start, action, horizon)


def _try_dynamics(problem: Triable, state: Tensor, action: Tensor) -> None:
    actions = action.expand(*state.shape[:-1], -1).contiguous()
    given = (
        f"a state of shape {list(state.shape)} ({state.dtype}, {state.device}) and an "
        f"action of shape {list(actions.shape)}"
    )
    # A state of another size is the commonest reason: the message begins with it.
    attempt(
        partial(problem.step, state, actions),
        "state: dynamics",
        problem.dynamics,
        given,
        ANY_LEAD,
    )


def _try_objective(
    problem: Triable, state: Tensor, action: Tensor, horizon: int
) -> None:
    lead, size = state.shape[:-1], state.shape[-1]
    states = state.unsqueeze(-2).expand(*lead, horizon + 1, size).contiguous()
    actions = action.expand(*lead, horizon, -1).contiguous()
    given = f"states {list(states.shape)} and actions {list(actions.shape)}"
    call = partial(problem.trajectory_cost, states, actions)
    attempt(call, "objective:", problem.objective, given, ALIGNED)
    for index, constraint in enumerate(problem.state_constraints):
        name = f"constraints[{index}]:"
        for tried in (
            partial(constraint.stages, states, actions),
            partial(constraint.end, states[..., -1, :]),
        ):
            attempt(tried, name, constraint, given, ALIGNED)


def attempt(
    call: Callable[[], ResultT],
    begins: str,
    function: object,
    given: str,
    advice: str,
) -> ResultT:
    """Call a function of the user, and say in our words that it failed.

    Args:
        call: Calls it.
        begins: How the message begins: what it was handed over as.
        function: It, for its name.
        given: What it was given, in words.
        advice: What it should do.

    Raises:
        ShapeError: it raised anything, other than an error of diffplan (world models
            name the argument themselves) or a lack of memory.
    """
    try:
        return call()
    except (DiffplanError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ShapeError(
            f"{begins} {describe(function)} fails on {given}: {error} ({advice})"
        ) from error


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
