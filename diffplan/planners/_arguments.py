"""The arguments of a planner: a problem, and an earlier plan of the same problems."""

from typing import Literal

from torch import Tensor

from diffplan._checks import require_finite, require_shape, require_tensor
from diffplan.errors import ShapeError, TensorTypeError
from diffplan.plan import Plan
from diffplan.problem import PlanningProblem

Init = Literal["normal", "uniform"]
"""Where random starts come from: N(centre, half width²) of the box, or all of it."""


def require_kinds(
    problem: PlanningProblem, state: Tensor, warm_start: Plan | None
) -> None:
    """Check that a problem and a state are given, in this order, and a plan or None.

    Raises:
        TensorTypeError: the first is no problem, the second no tensor, or the third
            something else.
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
