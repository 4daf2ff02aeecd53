"""Derivatives of a minimiser by the implicit-function theorem, with the true Hessian.

At a minimum z*(θ) of F(z; θ) the gradient vanishes on the free variables, so that
dz* = -H⁻¹ d(∇F) with the exact Hessian H. Nothing is ever formed: products H v are
second derivatives by autodiff, and systems are solved by conjugate gradients with a
preconditioner that the planner knows (the factorisation of its Gauss-Newton step).

Everything is batched over B independent minimisations with n variables each. The
loops stop as soon as every element has: unlike the planners themselves this file
looks at numbers from the host.

Symbols: z variables, g = ∇F, H Hessian, w = H⁻¹ v, M preconditioner.

References:
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 7.1.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffplan.errors import (
    GradientError,
    NumericsWarning,
    UnsupportedGradientError,
)
from diffplan.functional.conjugate_gradients import Solve, conjugate_gradients
from diffplan.gradients import Implicit

Cost = Callable[[Tensor], Tensor]
"""`z [B, n] → F [B]`, twice differentiable (three times for second derivatives)."""

_SHORTEST_STEP = 2.0**-10


@dataclass(frozen=True)
class Minimization:
    """What is minimised, and how its Newton systems are solved.

    Attributes:
        cost: F.
        precondition: From variables `[B, n]` to a solve with a positive definite
            approximation of the Hessian there.
        strategy: Tolerances and limits.
        low: Lower bounds `[n]`, or None; may carry a graph.
        high: Upper bounds `[n]`, likewise.
    """

    cost: Cost
    precondition: Callable[[Tensor], Solve]
    strategy: Implicit
    low: Tensor | None = None
    high: Tensor | None = None


@dataclass(frozen=True)
class Minimum:
    """A point that should be a minimum, and how far it is from one.

    Attributes:
        variables: z `[B, n]`.
        stationarity: Norm of the Newton step that is left over 1 + ‖z‖, `[B]`.
        stationary: Whether that is within the tolerance, `[B]` bool.
        definite: Whether no direction of negative curvature was met, `[B]` bool.
    """

    variables: Tensor
    stationarity: Tensor
    stationary: Tensor
    definite: Tensor

    @property
    def sound(self) -> Tensor:
        """Whether the theorem applies as far as was seen, `[B]` bool."""
        return self.stationary & self.definite


def polish(problem: Minimization, start: Tensor) -> Minimum:
    """Take Newton steps until the point is stationary, and say how far it is.

    Where the Hessian is not positive definite the step is the preconditioned
    gradient instead, and every step is shortened until the cost does not rise.

    Args:
        problem: What is minimised.
        start: z `[B, n]`, inside the bounds.
    """
    strategy = problem.strategy
    variables = start.detach()
    for step in range(strategy.polish + 1):
        newton = _newton_step(problem, variables)
        length = newton.step.norm(dim=1) / (1 + variables.norm(dim=1))
        stationary = length <= _tolerance(strategy.tolerance, variables, 1e-9, 1e-4)
        if step == strategy.polish or bool((stationary | newton.failed).all()):
            break
        moved = _line_search(problem, variables, newton)
        variables = torch.where(stationary[:, None], variables, moved)
    return Minimum(variables, length, stationary, newton.definite)


def differentiable(problem: Minimization, minimum: Minimum) -> Tensor:
    """Return the minimum with its derivative in everything that the cost closes over.

    The derivative can be differentiated again if `strategy.order` is 2.

    Args:
        problem: Its cost (and bounds) carry the graph.
        minimum: From `polish`.

    Raises:
        GradientError: later, in `backward`, for elements without such a derivative,
            if the strategy says so.
    """
    return _Solution(problem, minimum).attached(problem.strategy.order)


@dataclass(frozen=True)
class _NewtonStep:
    step: Tensor
    slope: Tensor
    definite: Tensor
    failed: Tensor


class _Solution:
    """A minimum whose Hessian can be solved with, any number of times."""

    def __init__(self, problem: Minimization, minimum: Minimum) -> None:
        self.problem = problem
        self.minimum = minimum
        with torch.no_grad():
            self.precondition = problem.precondition(minimum.variables)
        gradient, self.product = _hessian(problem.cost, minimum.variables)
        self.free = _free(problem, minimum.variables, gradient)

    def attached(self, order: int) -> Tensor:
        """The minimum, a function of everything that the cost closes over.

        One Newton step from a constant has the right first derivative; a step from
        there has the right second one, as Newton's method doubles what is right.
        """
        point = self._on_bounds()
        for _ in range(order):
            gradient = _gradient(self.problem.cost, point)
            point = point + _MinusInverse.apply(gradient * self.free, self)
        return point

    def solve(self, rhs: Tensor) -> Tensor:
        """H⁻¹ rhs on the free variables, differentiable if gradients are recorded."""
        strategy, free = self.problem.strategy, self.free
        with torch.no_grad():
            found = conjugate_gradients(
                lambda v: self.product(v) * free,
                rhs * free,
                lambda v: self.precondition(v) * free,
                iterations=strategy.solver_iterations,
                tolerance=_tolerance(strategy.solver_tolerance, rhs, 1e-10, 1e-5),
            )
            sound = self.minimum.sound & found.converged
            solution = _report(found.solution, sound, rhs, strategy.on_failure)
        if not torch.is_grad_enabled():
            return solution
        if strategy.order == 1:
            # it depends on all that the gradient depends on, and so must the refusal:
            # autograd only visits nodes on a way to what it was asked for
            gradient = _gradient(self.problem.cost, self._on_bounds())
            return _Refuse.apply(solution, rhs, gradient)
        # H w = rhs defines w as ∇F = 0 defines z: the same theorem once more
        image = _hessian_product(self.problem.cost, self.attached(order=1), solution)
        left = torch.where(sound[:, None], image - rhs, 0.0)
        return solution + _MinusInverse.apply(left * free, self)

    def _on_bounds(self) -> Tensor:
        """The variables; those held by a bound are that bound, with its graph."""
        point, low, high = self.minimum.variables, self.problem.low, self.problem.high
        if low is None or high is None:
            return point
        # not by clamp, whose derivative at a bound is the variable's
        held = torch.where(point <= low, low, high)
        return torch.where(self.free > 0, point, held)


class _MinusInverse(torch.autograd.Function):
    """Zero, with the derivative -H⁻¹: adds what the theorem says to a solution."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        solution: _Solution,
    ) -> Tensor:
        ctx.solution = solution
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return -ctx.solution.solve(cotangent), None


class _Refuse(torch.autograd.Function):
    """The first argument, whose derivative was not asked for when planning."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ARG004
        solution: Tensor,
        *depends_on: Tensor,  # noqa: ARG004
    ) -> Tensor:
        return solution.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, ...]:  # noqa: ARG004
        raise UnsupportedGradientError(
            "gradient: Implicit(order=1) has no second derivative; use "
            "Implicit(order=2)"
        )


def _newton_step(problem: Minimization, variables: Tensor) -> _NewtonStep:
    """The Newton step on the free variables; downhill also where H is indefinite."""
    strategy = problem.strategy
    gradient, product = _hessian(problem.cost, variables)
    with torch.no_grad():
        precondition = problem.precondition(variables)
        free = _free(problem, variables, gradient)
        slope = gradient.detach() * free
        found = conjugate_gradients(
            lambda v: product(v) * free,
            -slope,
            lambda v: precondition(v) * free,
            iterations=strategy.solver_iterations,
            tolerance=_tolerance(strategy.solver_tolerance, variables, 1e-10, 1e-5),
        )
        fallback = -precondition(slope) * free
        step = torch.where(found.definite[:, None], found.solution, fallback)
        finite = torch.isfinite(step).all(dim=1) & torch.isfinite(slope).all(dim=1)
        # NaN would pass for a step of unknown length, infinity never as stationary
        step = torch.where(finite[:, None], step, torch.inf)
    return _NewtonStep(step, slope, found.definite & finite, ~finite)


def _line_search(
    problem: Minimization, variables: Tensor, newton: _NewtonStep
) -> Tensor:
    """Halve the step of each element until its cost does not rise."""
    with torch.no_grad():
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


def _free(problem: Minimization, variables: Tensor, gradient: Tensor) -> Tensor:
    """One where no bound holds a variable against the descent, else zero."""
    with torch.no_grad():
        free = torch.ones_like(variables, dtype=torch.bool)
        if problem.low is not None and problem.high is not None:
            free = free & ~((variables <= problem.low) & (gradient > 0))
            free = free & ~((variables >= problem.high) & (gradient < 0))
            free = free & (problem.low < problem.high)
        return free.to(variables.dtype)


def _gradient(cost: Cost, point: Tensor) -> Tensor:
    """∇F at a point, with a graph to everything that the cost closes over."""
    with torch.enable_grad():
        if not point.requires_grad:
            point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(
            cost(point).sum(), point, create_graph=True, materialize_grads=True
        )
    return gradient


def _hessian(cost: Cost, variables: Tensor) -> tuple[Tensor, Solve]:
    """∇F and v → H v at constant variables; one backward pass per product."""
    leaf = variables.detach().requires_grad_()
    gradient = _gradient(cost, leaf)

    def product(vector: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(
            gradient, leaf, vector, retain_graph=True, materialize_grads=True
        )
        return image

    return gradient.detach(), product


def _hessian_product(cost: Cost, point: Tensor, vector: Tensor) -> Tensor:
    """H v at a point with a graph, itself with a graph."""
    gradient = _gradient(cost, point)
    (image,) = torch.autograd.grad(
        gradient, point, vector, create_graph=True, materialize_grads=True
    )
    return image


def _report(solution: Tensor, sound: Tensor, rhs: Tensor, on_failure: str) -> Tensor:
    """Raise for elements without a derivative, or replace theirs, as asked for."""
    # an element that nobody differentiates (zero cotangent) cannot get a wrong answer
    sound = sound | (rhs == 0).all(dim=1)
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
    fill = 0.0 if on_failure == "zero" else torch.nan
    return torch.where(sound[:, None], solution, fill)


def _tolerance(
    given: float | None, like: Tensor, double: float, single: float
) -> float:
    if given is not None:
        return given
    return double if like.dtype == torch.float64 else single
