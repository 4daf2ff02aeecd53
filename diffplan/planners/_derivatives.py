"""Is there a derivative to descend? Asked once per problem, before any work is done.

A graph that is cut (dynamics under `torch.no_grad`, an objective through numpy, a
`detach`) gives a planner the gradient zero, which it would take for an optimum.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from diffplan._segments import at
from diffplan.capabilities import knows_curvature
from diffplan.errors import (
    ConstantPlanWarning,
    DiffplanError,
    ShapeError,
    UnsupportedGradientError,
    UnsupportedProblemError,
)
from diffplan.gradients import Derivatives, Detach, GradientStrategy, Unroll
from diffplan.problem import Linearizable, PlanningProblem

_ADVICE = (
    "Is it computed under torch.no_grad(), through numpy, from detached tensors or "
    "from constants? CEM asks for costs only"
)


def require_promised(
    planner: nn.Module,
    gradient: GradientStrategy,
    supported: Mapping[type[GradientStrategy], Derivatives],
) -> None:
    """Refuse a planner that learns numbers which its gradient does not reach.

    Args:
        planner: Whose parameters they are.
        gradient: Its strategy.
        supported: What its strategies promise.

    Raises:
        UnsupportedGradientError: names the parameters.
    """
    if isinstance(gradient, Detach):
        return
    promised = next(
        derivatives.wrt
        for kind, derivatives in supported.items()
        if isinstance(gradient, kind)
    )
    learnt = [name for name, p in planner.named_parameters() if p.requires_grad]
    if learnt and "planner" not in promised:
        raise UnsupportedGradientError(
            f"gradient: {gradient} of {type(planner).__name__} does not differentiate "
            f"with respect to the planner's own {', '.join(learnt)}: call "
            "requires_grad_(False) on it, or use Unroll()"
        )


def require_derivatives(
    problem: PlanningProblem,
    state: Tensor,
    horizon: int,
    *,
    needed_by: str,
    by_hand: bool = False,
) -> None:
    """Refuse dynamics or an objective that autograd sees no way through.

    One step of the dynamics and one cost are differentiated at the middle of the
    allowed actions. A derivative that is zero there is one; a result without a graph
    has none. So a cost that is constant is refused too, unless it is one of its
    arguments times zero.

    Args:
        problem: The problem, already checked.
        state: `[…, S]`.
        horizon: T.
        needed_by: The planner's name.
        by_hand: Whether dynamics that know their Jacobian, or an objective that knows
            its second derivatives, are never differentiated by autograd.

    Raises:
        UnsupportedProblemError: names what is cut.
    """
    # What was made in inference mode cannot be differentiated, but copied.
    with torch.inference_mode(mode=False), torch.enable_grad():
        here = state.detach().clone()
        moves = problem.middle(here, horizon).detach().clone()
        # such as of particles, whose cost is no function of one trajectory
        whole = type(problem).evaluate is not PlanningProblem.evaluate
        moving = by_hand and problem.find(Linearizable) is not None
        if not moving and (not whole or problem.is_random):
            inputs = (here, moves[..., 0, :])
            start = torch.zeros((), dtype=torch.int64, device=state.device)
            dynamics = at(problem.dynamics, problem.uses_time, start)
            found = _require("dynamics", dynamics, inputs, "state or action", needed_by)
            moving = found[1] is not None
        if whole:
            realized = problem.realize(here, horizon)
            cost = lambda given: realized.cost(here, given)  # noqa: E731
            _require("objective", cost, (moves,), "its actions", needed_by)
            return
        if moving and by_hand and knows_curvature(problem.objective):
            return
        states = here.unsqueeze(-2).expand(*here.shape[:-1], horizon + 1, -1)
        objective, inputs = problem.objective, (states, moves)
        found = _require("objective", objective, inputs, "states or actions", needed_by)
        if not moving and found[1] is None:
            raise UnsupportedProblemError(
                f"dynamics: {needed_by} descends the cost by its derivative, and "
                "neither the next state nor the objective has a graph that leads to "
                f"the action. {_ADVICE}"
            )


def _require(
    name: str,
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    arguments: str,
    needed_by: str,
) -> tuple[Tensor | None, ...]:
    """Return the derivatives of a result by some inputs, None without a graph."""
    leaves = tuple(value.detach().clone().requires_grad_() for value in inputs)
    found: tuple[Tensor | None, ...] = ()
    try:
        result = function(*leaves)
        if isinstance(result, Tensor) and result.requires_grad:
            found = torch.autograd.grad(result.sum(), leaves, allow_unused=True)
    except (ShapeError, RuntimeError, TypeError) as error:
        if isinstance(error, DiffplanError) and not isinstance(error, ShapeError):
            raise
        # It passed the border without a graph: a shape is not what is wrong with it.
        told = error.__cause__ if isinstance(error, ShapeError) else error
        raise UnsupportedProblemError(
            f"{name}: {needed_by} differentiates it, and it fails for {arguments} that "
            f"require a gradient: {told or error}. {_ADVICE}"
        ) from error
    if all(gradient is None for gradient in found):
        raise UnsupportedProblemError(
            f"{name}: {needed_by} descends the cost by its derivative, and the result "
            f"has no graph that leads to {arguments}. {_ADVICE}"
        )
    return found


def refuse_export(name: str, needs_derivatives: bool) -> None:
    """Raise if `torch.export` traces a planner that differentiates while it plans.

    Args:
        name: The planner's.
        needs_derivatives: Whether it does.

    Raises:
        UnsupportedProblemError: says what can be exported.
    """
    if torch.compiler.is_exporting() and needs_derivatives:
        raise UnsupportedProblemError(
            f"torch.export: {name} differentiates while it plans, which torch.export "
            "cannot trace by itself; planner.export(problem, state) returns a program"
        )


def refuse_inference_mode(needed_by: str) -> None:
    """Refuse to plan with `Implicit()` where nothing can be differentiated.

    Args:
        needed_by: The planner's name.

    Raises:
        UnsupportedGradientError: `torch.inference_mode()` is on.
    """
    if torch.is_inference_mode_enabled():
        raise UnsupportedGradientError(
            f"gradient: {needed_by} with Implicit() takes derivatives to polish its "
            "plan, which torch.inference_mode() forbids: plan under torch.no_grad(), "
            "or with gradient=Detach()"
        )


def tell_of_constants(planner: str) -> None:
    """Warn that nobody chose to cut the graph that a state comes with.

    Args:
        planner: Its name.
    """
    warnings.warn(
        f"{planner} does not differentiate its actions (gradient=Detach()), though the "
        "state that it was given requires a gradient: plan.actions are constants, and "
        "only plan.cost has a graph. Take a planner that supports Unroll(), such as "
        "DCEM; or say that this is meant: gradient=Detach(), or torch.no_grad() around "
        "the call",
        ConstantPlanWarning,
        stacklevel=6,
    )


def default_strategy(
    supported: Iterable[type[GradientStrategy]], given: GradientStrategy | None
) -> GradientStrategy:
    """Return the strategy that was given, else the default of all planners.

    That is `Unroll()` where it is supported, else `Detach()`.
    """
    if given is not None:
        return given
    return Unroll() if Unroll in tuple(supported) else Detach()


def require_supported(
    planner: str,
    gradient: GradientStrategy,
    supported: Iterable[type[GradientStrategy]],
) -> GradientStrategy:
    """Return `gradient` if the planner supports it, else raise.

    Raises:
        UnsupportedGradientError: names the strategies that are supported.
    """
    kinds = tuple(supported)
    if not isinstance(gradient, kinds):
        names = ", ".join(f"{kind.__name__}()" for kind in kinds)
        given = gradient if isinstance(gradient, GradientStrategy) else repr(gradient)
        raise UnsupportedGradientError(
            f"gradient: {planner} supports {names}; got {given}"
        )
    return gradient
