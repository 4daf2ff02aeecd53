"""The border's trial: model functions are called once as planners will call them.

Shapes alone do not tell whether a function takes any leading dimensions, nor whether
data of each problem that it closes over meet candidates by accident: a goal `[B, S]`
crosses silently with B candidates. So the trial has candidates whose number equals no
other size; what crosses raises an error then, or returns another shape.
"""

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan._checks import describe, is_traced
from diffplan._segments import at, takes_time
from diffplan.constraints._box import Box
from diffplan.constraints.state import StateConstraint
from diffplan.errors import DiffplanError, UnsupportedProblemError

_IN_A_ROW = 4
"""States that are compared with each by itself: enough for weights to differ."""

_AGREEMENT = {torch.float32: 2e-3, torch.float64: 1e-6}
"""How far sums in another order, and TF32, may move a value (relative to the largest).

A discount of 0.999 has moved the last of four steps by 3e-3.
"""


@runtime_checkable
class Triable(Protocol):
    """What the trial asks of a `PlanningProblem`."""

    action_space: Box
    dynamics: Callable[[Tensor, Tensor], Tensor]
    objective: Callable[[Tensor, Tensor], Tensor]
    state_constraints: tuple[StateConstraint, ...]

    def project(self, actions: Tensor) -> Tensor:
        """Return allowed actions."""
        ...

    def middle(self, state: Tensor, horizon: int) -> Tensor:
        """Return allowed actions `[…, T, A]`."""
        ...

    def step(self, state: Tensor, action: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the next state, its shape checked."""
        ...

    def trajectory_cost(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost, its shape checked."""
        ...


@runtime_checkable
class Risky(Protocol):
    """What the trial asks of a `StochasticProblem` besides."""

    num_particles: int

    def risk_of(self, costs: Tensor) -> Tensor:
        """Return the risk of costs `[…, P]`, its shape checked."""
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
        UnsupportedProblemError: a function depends on where a step stands in its input.
    """
    # Contiguous, as planners have them: a model may call `view`.
    with torch.no_grad(), full_precision(state):
        actions = problem.middle(state, horizon or problem.action_space.steps)
        action, state = actions[..., :1, :], state.detach()
        if horizon is None:
            _try_step(problem, state, action)
            return
        taken = [1, *state.shape, action.shape[-1], horizon, horizon + 1]
        taken += [problem.num_particles] if isinstance(problem, Risky) else []
        spread: list[int] = []
        for _ in range(between):
            spread.append(unlike([*taken, *spread]))
        wide = state.reshape(len(state), *(1,) * between, state.shape[1])
        wide = wide.expand(-1, *spread, -1).contiguous()
        try:
            _try_step(problem, wide, action)
        except DiffplanError:
            # Where the given states fail as well, the message is about them.
            _try_step(problem, state, action)
            raise
        for start in (state, wide):
            _try_objective(problem, start, actions)
        _try_positions(problem, state, horizon)


def _try_positions(problem: Triable, state: Tensor, horizon: int) -> None:
    """Refuse functions that depend on where in their input a step stands."""
    # All states stand at one step, so that a function which takes the time may be
    # asked, whatever its data are indexed by.
    here = copy.copy(problem)
    here.action_space = box = problem.action_space.to(state).at(horizon - 1)
    width = torch.where(box.high - box.low < torch.inf, (box.high - box.low) / 2, 1.0)
    angle = torch.arange(_IN_A_ROW * box.dim, dtype=state.dtype).cos().to(state)
    shifts = 0.5 * angle.reshape(_IN_A_ROW, -1) * width
    actions = here.project(box.center + shifts).expand(len(state), -1, -1)
    time = torch.full((_IN_A_ROW,), horizon - 1, device=state.device)
    visited = [state]
    for action in actions.unbind(1)[1:]:
        visited.append(problem.step(visited[-1], action, time[0]))
    states = torch.stack(visited, dim=1)
    objective = problem.objective
    functions: list[tuple[str, Callable[..., Tensor]]]
    functions = [("function", item.function) for item in problem.state_constraints]
    functions.append(("dynamics", problem.step))
    if getattr(objective, "sums_steps", False):
        residual = hasattr(objective, "running_residual")
        name = "running_residual" if residual else "running_cost"
        functions.append(("objective", getattr(objective, name)))
    for name, function in functions:
        timed = takes_time(function)
        together = at(function, timed, time)(states, actions)
        again = at(function, timed, time)(states, actions)
        alone = [
            at(function, timed, time[:1])(states[:, step], actions[:, step])
            for step in (slice(t, t + 1) for t in range(_IN_A_ROW))
        ]
        # What differs from call to call says nothing about positions.
        if not _agree(together, torch.cat(alone, dim=1)) and _agree(together, again):
            named = problem.dynamics if name == "dynamics" else function
            raise UnsupportedProblemError(
                f"{name}: expected {describe(named)} to treat each step alike, got "
                "other values for steps in a row than for each by itself; a weight or "
                "reference that depends on the step needs the argument `time`, as in "
                "running_cost(self, state, action, time)"
            )


def _agree(one: Tensor, other: Tensor) -> bool:
    """Return whether two results are equal up to rounding, as far as one may look."""
    if is_traced(one) or one.is_meta or one.numel() == 0:
        return True
    both = torch.isfinite(one) & torch.isfinite(other)
    apart = torch.where(both, (one - other).abs(), 0.0).amax()
    scale = torch.where(both, one.abs(), 0.0).amax()
    return bool(apart <= _AGREEMENT[one.dtype] * scale)


def _try_step(problem: Triable, state: Tensor, action: Tensor) -> None:
    """Take a step from states `[B, …, S]` by actions `[B, 1, A]`."""
    time = torch.zeros((), dtype=torch.int64, device=state.device)
    problem.step(state, _spread(action, state).squeeze(-2), time)


def _try_objective(problem: Triable, state: Tensor, actions: Tensor) -> None:
    """Judge plans that stay at states `[B, …, S]`, by actions `[B, T, A]`."""
    actions = _spread(actions, state)
    states = state.unsqueeze(-2).expand(*state.shape[:-1], actions.shape[-2] + 1, -1)
    states = states.contiguous()
    cost = problem.trajectory_cost(states, actions)
    if isinstance(problem, Risky):
        count, *others = cost.shape
        each = cost.unsqueeze(1).expand(count, problem.num_particles, *others)
        problem.risk_of(each.contiguous().movedim(1, -1))  # as they lie in memory
    for constraint in problem.state_constraints:
        constraint.stages(states, actions)
        constraint.last(states)


def _spread(actions: Tensor, state: Tensor) -> Tensor:
    """Give actions `[B, T, A]` the leading dimensions of states `[B, …, S]`."""
    count, *sizes = actions.shape
    wide = actions.reshape(count, *(1,) * (state.ndim - 2), *sizes)
    return wide.expand(*state.shape[:-1], -1, -1).contiguous()


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
