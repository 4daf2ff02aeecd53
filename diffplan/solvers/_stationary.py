"""Minima made stationary by Newton's method, and an honest word on how far they are.

The implicit-function theorem needs a point where the gradient vanishes on the free
variables and the Hessian is positive definite there. A planner that was stopped early
has neither; `polish` takes Newton steps until it has, and says where that failed.

Everything is batched over B independent minimisations with n variables each. The
loops stop as soon as every element has: unlike the planners themselves this file
looks at numbers from the host.

Symbols: z variables, F cost, g = ∇F, H Hessian.

References:
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 7.1.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan.errors import GradientError, NumericsWarning, UnsupportedGradientError
from diffplan.functional._conjugate_gradients import LinearSolution
from diffplan.functional._derivatives import constants, in_forward_mode, is_mapped
from diffplan.gradients import Implicit

_SHORTEST_STEP = 2.0**-10
_FIRST_ORDER = (
    "gradient: Implicit(order=1) has no second derivative; use Implicit(order=2)"
)


@runtime_checkable
class Local(Protocol):
    """What Newton's method knows about a point.

    Attributes:
        gradient: ∇F `[B, n]`, without a graph.
        free: One where no bound holds a variable against the descent, else zero.
    """

    gradient: Tensor
    free: Tensor

    def solve(self, rhs: Tensor) -> LinearSolution:
        """Return H⁻¹ rhs `[B, n]` on the free variables, zero on the others."""
        ...

    def descend(self, slope: Tensor) -> Tensor:
        """Return a positive definite matrix times a slope `[B, n]`, for fallbacks."""
        ...


@dataclass(frozen=True)
class Minimum:
    """A point that should be a minimum, and how far it is from one.

    Attributes:
        variables: z `[B, n]`.
        stationarity: Norm of the Newton step that is left over 1 + ‖z‖, `[B]`.
        stationary: Whether that is within the tolerance, `[B]` bool.
        definite: Whether no direction of negative curvature was met, `[B]` bool.
        local: What is known about the point.
    """

    variables: Tensor
    stationarity: Tensor
    stationary: Tensor
    definite: Tensor
    local: Local

    @property
    def sound(self) -> Tensor:
        """Return whether the theorem applies as far as was seen, `[B]` bool."""
        return self.stationary & self.definite


@runtime_checkable
class Smooth(Protocol):
    """A function to minimise inside bounds, seen through Newton's eyes."""

    @property
    def strategy(self) -> Implicit:
        """Tolerances and limits."""
        ...

    @property
    def low(self) -> Tensor | None:
        """Lower bounds `[B, n]`, or None."""
        ...

    @property
    def high(self) -> Tensor | None:
        """Upper bounds `[B, n]`, or None."""
        ...

    @property
    def cost(self) -> Callable[[Tensor], Tensor]:
        """F, from variables `[B, n]` to `[B]`."""
        ...

    def local(self, variables: Tensor) -> Local:
        """Return what Newton's method needs at variables `[B, n]`."""
        ...


def polish(problem: Smooth, start: Tensor) -> Minimum:
    """Take Newton steps until the point is stationary, and say how far it is.

    Where the Hessian is not positive definite the step is the preconditioned
    gradient instead, and every step is shortened until the cost does not rise.

    Args:
        problem: What is minimised.
        start: z `[B, n]`, inside the bounds.

    Raises:
        UnsupportedGradientError: `torch.func.vmap` maps over the variables: how many
            steps they take depends on numbers that it hides.
    """
    strategy = problem.strategy
    variables = start.detach()
    if is_mapped(variables):
        raise UnsupportedGradientError(
            "gradient: Implicit() cannot be mapped by torch.func.vmap; give the "
            "planner all states at once, [B, S], or use Unroll()"
        )
    for step in range(strategy.polish + 1):
        local = problem.local(variables)
        newton = _newton_step(local)
        length = newton.step.norm(dim=1) / (1 + variables.norm(dim=1))
        stationary = length <= tolerance_or(strategy.tolerance, variables, 1e-9, 1e-4)
        if step == strategy.polish or bool((stationary | newton.failed).all()):
            break
        moved = _line_search(problem, variables, newton)
        variables = torch.where(stationary[:, None], variables, moved)
    return Minimum(variables, length, stationary, newton.definite, local)


@dataclass(frozen=True)
class _NewtonStep:
    step: Tensor
    definite: Tensor
    failed: Tensor


def refusing(solution: Tensor, depends_on: Callable[[], tuple[Tensor, ...]]) -> Tensor:
    """Return a derivative that refuses to be differentiated itself.

    Args:
        solution: The derivative.
        depends_on: Returns the tensors that it depends on.
    """
    if not (torch.is_grad_enabled() or in_forward_mode()):
        return solution
    return _Refuse.apply(solution, *depends_on())


class _Refuse(torch.autograd.Function):
    """The first argument, whose derivative was not asked for when planning."""

    generate_vmap_rule = True

    @staticmethod
    def forward(solution: Tensor, *depends_on: Tensor) -> Tensor:
        del depends_on
        return solution.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, ...]:  # noqa: ARG004
        raise UnsupportedGradientError(_FIRST_ORDER)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:  # noqa: ARG004
        raise UnsupportedGradientError(_FIRST_ORDER)


def _newton_step(local: Local) -> _NewtonStep:
    """Return the free variables' Newton step; downhill also where H is indefinite."""
    slope = local.gradient * local.free
    found = local.solve(-slope)
    step = found.solution
    if not bool(found.definite.all()):
        fallback = -local.descend(slope) * local.free
        step = torch.where(found.definite[:, None], step, fallback)
    finite = torch.isfinite(step).all(dim=1) & torch.isfinite(slope).all(dim=1)
    # NaN would pass for a step of unknown length, infinity never as stationary
    step = torch.where(finite[:, None], step, torch.inf)
    return _NewtonStep(step, found.definite & finite, ~finite)


def _line_search(problem: Smooth, variables: Tensor, newton: _NewtonStep) -> Tensor:
    """Halve the step of each element until its cost does not rise."""
    with constants():
        cost = problem.cost(variables)
        slack = 10 * torch.finfo(cost.dtype).eps * (1 + cost.abs())
        chosen, waiting = variables, ~newton.failed
        length = 1.0
        while length >= _SHORTEST_STEP and bool(waiting.any()):
            trial = variables + length * newton.step
            if problem.low is not None and problem.high is not None:
                trial = trial.clamp(problem.low, problem.high)
            better = waiting & (problem.cost(trial) <= cost + slack)
            chosen = torch.where(better[:, None], trial, chosen)
            waiting = waiting & ~better
            length /= 2
    return chosen


def free_variables(
    variables: Tensor, gradient: Tensor, low: Tensor | None, high: Tensor | None
) -> Tensor:
    """Return one where no bound holds a variable against the descent, else zero."""
    free = torch.ones_like(variables, dtype=torch.bool)
    if low is not None and high is not None:
        free = free & ~((variables <= low) & (gradient > 0))
        free = free & ~((variables >= high) & (gradient < 0))
        free = free & (low < high)
    return free.to(variables.dtype)


def report(solution: Tensor, sound: Tensor, rhs: Tensor, on_failure: str) -> Tensor:
    """Raise for elements without a derivative, or replace theirs, as asked for.

    Where `torch.func.vmap` hides for which elements a solve converged, as `jacrev` may,
    nothing can be raised: the derivative is NaN there, unless zero was asked for.

    Args:
        solution: What was found for the cotangents `rhs`, `[B, n]`.
        sound: For which elements it is a derivative, `[B]` bool.
        rhs: `[B, n]`; an element whose cotangent is zero is sound, where numbers can be
            looked at (`jacrev` maps over cotangents).
        on_failure: See `Implicit`.

    Raises:
        GradientError: names the elements, if so asked.
    """
    if not is_mapped(rhs):
        # an element that nobody differentiates cannot get a wrong answer
        sound = sound | (rhs == 0).all(dim=1)
    fill = 0.0 if on_failure == "zero" else torch.nan
    if is_mapped(sound):
        return torch.where(sound[:, None], solution, fill)
    if bool(sound.all()):
        return solution
    elements = torch.nonzero(~sound).flatten().tolist()
    message = (
        f"gradient: Implicit() has no derivative for the batch elements {elements}: "
        "their plan is not stationary, or the Hessian there is not positive definite "
        "(see plan.status); use more iterations, Unroll(), or "
        "on_failure='zero'"
    )
    if on_failure == "raise":
        raise GradientError(message)
    if on_failure == "zero":
        warnings.warn(message, NumericsWarning, stacklevel=2)
    return torch.where(sound[:, None], solution, fill)


def tolerance_or(
    given: float | None, like: Tensor, double: float, single: float
) -> float:
    """Return a tolerance that was given, else the one of the dtype of `like`."""
    if given is not None:
        return given
    return double if like.dtype == torch.float64 else single
