"""The arguments of a planner: a problem, and an earlier plan of the same problems."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from diffplan._checks import is_traced, require_finite, require_shape, require_tensor
from diffplan.constraints.categorical import Categorical
from diffplan.errors import (
    ArgumentError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.plan import Plan
from diffplan.problem import PlanningProblem

Form = Literal["auto", "sweep", "condensed"]
"""How the model of an iteration of `ILQR` and `ShootingGN` is minimised."""

Init = Literal["normal", "uniform"]
"""Where random starts come from: N(centre, half width²) of the box, or all of it."""


def require_kinds(
    problem: PlanningProblem, state: Tensor, warm_start: Plan | None, evaluate: bool
) -> None:
    """Check that a problem and a state are given, in this order, and the options.

    Raises:
        TensorTypeError: the first is no problem, the second no tensor, or the third
            neither a plan nor None.
        ArgumentError: the last is neither True nor False.
    """
    if not isinstance(problem, PlanningProblem):
        swapped = isinstance(state, PlanningProblem)
        hint = ": planner(problem, state), in this order" if swapped else ""
        raise TensorTypeError(
            f"problem: expected a PlanningProblem, got {type(problem).__name__}{hint}"
        )
    require_tensor("state", state)
    if warm_start is not None and not isinstance(warm_start, Plan):
        raise TensorTypeError(
            "warm_start: expected a diffplan.Plan, such as plan.shifted(), got "
            f"{type(warm_start).__name__}"
        )
    if not isinstance(evaluate, bool):
        raise ArgumentError(f"evaluate: expected True or False, got {evaluate!r}")


def require_warm_start(
    problem: PlanningProblem, state: Tensor, warm_start: Plan, horizon: int
) -> None:
    """Check that an earlier plan is one of these problems; its dtype does not matter.

    Args:
        problem: What is planned.
        state: `[…, S]`.
        warm_start: The earlier plan.
        horizon: T.

    Raises:
        TensorTypeError: it holds complex numbers.
        ShapeError: its batch, horizon, state size or action size differ.
        NonFiniteError: its actions are not finite.
    """
    if warm_start.batch_shape != state.shape[:-1]:
        raise ShapeError(
            f"warm_start: expected the state's batch shape "
            f"{list(state.shape[:-1])}, got {list(warm_start.batch_shape)}"
        )
    parts = {"actions": warm_start.actions, "states": warm_start.states}
    parts |= {f"memory[{k!r}]": value for k, value in warm_start.memory.items()}
    for name, value in parts.items():
        if value.is_complex():
            raise TensorTypeError(
                f"warm_start.{name}: expected real numbers, got {value.dtype}"
            )
        if value.shape[: state.ndim - 1] != state.shape[:-1]:
            raise ShapeError(
                f"warm_start.{name}: expected the leading dimensions "
                f"{list(state.shape[:-1])} of the state, got {list(value.shape)}"
            )
    warm = warm_start.to(state)
    problem.check_actions("warm_start.actions", warm.actions, horizon)
    require_finite("warm_start.actions", warm.actions)
    sizes = (horizon + 1, state.shape[-1])
    why = "must be [horizon + 1, state size]"
    require_shape("warm_start.states", warm.states, sizes, why)


def refuse_categories(problem: PlanningProblem, planner: str, *, plans: bool) -> None:
    """Refuse actions that are choices, where a planner cannot choose.

    Args:
        problem: What is planned.
        planner: Its name, for the message.
        plans: Whether it plans choices, though no constraints on them.

    Raises:
        UnsupportedProblemError: they are, and it cannot.
    """
    space = problem.action_space
    if not isinstance(space, Categorical):
        return
    if not plans:
        raise UnsupportedProblemError(
            f"action_space: {planner} moves actions by small steps, and so needs a "
            f"dp.Box, got {space}; dp.CEM, dp.DCEM and dp.MPPI plan choices"
        )
    if problem.action_constraints:
        raise UnsupportedProblemError(
            f"constraints: expected none on the actions of {space}, got "
            f"{', '.join(map(repr, problem.action_constraints))}; let dynamics or "
            "objective rule choices out, by a cost of infinity"
        )


def require_callback(callback: Any, state: Tensor, compiled: bool) -> None:
    """Check that iterates can be shown: what is compiled makes no calls.

    Args:
        callback: What they are to be shown to.
        state: The given one.
        compiled: Whether the planner is.

    Raises:
        TensorTypeError: it cannot be called.
        ArgumentError: iterates cannot be shown.
    """
    if not callable(callback):
        raise TensorTypeError(
            f"callback: expected a function of one Iterate, got "
            f"{type(callback).__name__}"
        )
    if compiled or is_traced(state):
        raise ArgumentError(
            "callback: expected None where a planner is compiled or transformed, by "
            "planner.compile(), torch.compile or torch.func: a graph calls no "
            "function of yours; plan.diagnostics has the traces there"
        )


def moved_to(problem: PlanningProblem, state: Tensor) -> PlanningProblem:
    """Return the problem with its box in the dtype and on the device of a state.

    Once per plan: a box on the host would be copied, and waited for, at each use.

    Args:
        problem: What is planned.
        state: `[…, S]`.
    """
    box = problem.action_space.to(state)
    if box is problem.action_space:
        return problem
    moved = copy.copy(problem)
    moved.action_space = box
    return moved


def flattened(value: Tensor, lead: torch.Size) -> Tensor:
    """Return a tensor with one dimension in the place of the leading ones.

    Args:
        value: `[*lead, …]`, or with ones there, where problems share it.
        lead: The leading dimensions of the state.
    """
    count = value.shape[: len(lead)].numel()
    return value.reshape(count, *value.shape[len(lead) :])
