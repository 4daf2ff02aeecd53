"""Derivatives of a minimiser by the implicit-function theorem, with the true Hessian.

At a minimum z*(θ) of F(z; θ) the gradient vanishes on the free variables, so that
dz* = -H⁻¹ d(∇F) with the exact Hessian H. Nothing is ever formed: products H v are
second derivatives by autodiff, and systems are solved by conjugate gradients with a
preconditioner that the planner knows (the factorisation of its Gauss-Newton step).

Symbols: z variables, g = ∇F, H Hessian, w = H⁻¹ v, M preconditioner.

References:
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 7.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType

from diffplan.errors import UnsupportedGradientError
from diffplan.functional._conjugate_gradients import (
    LinearSolution,
    Solve,
    conjugate_gradients,
)
from diffplan.functional._derivatives import (
    constants,
    in_forward_mode,
    inside_transform,
    levels,
)
from diffplan.functional._isolation import may_look
from diffplan.gradients import Implicit
from diffplan.solvers._stationary import (
    Minimum,
    free_variables,
    refusing,
    report,
    tolerance_or,
)

Cost = Callable[[Tensor], Tensor]
"""`z [B, n] → F [B]`, twice differentiable (three times for second derivatives)."""


@dataclass(frozen=True)
class Minimization:
    """What is minimised, and how its Newton systems are solved without a matrix.

    Attributes:
        cost: F.
        precondition: From variables `[B, n]` to a solve with a positive definite
            approximation of the Hessian there.
        strategy: Tolerances and limits.
        low: Lower bounds `[B, n]`, or None; may carry a graph.
        high: Upper bounds `[B, n]`, likewise.
    """

    cost: Cost
    precondition: Callable[[Tensor], Solve]
    strategy: Implicit
    low: Tensor | None = None
    high: Tensor | None = None

    def local(self, variables: Tensor) -> "MatrixFree":
        """Return what is known about a point: products with H, no matrix."""
        return MatrixFree(self, variables)


class MatrixFree:
    """A point whose Hessian is only multiplied with; see `Local`."""

    def __init__(self, problem: Minimization, variables: Tensor) -> None:
        self.strategy = problem.strategy
        with constants():
            self.gradient, pullback = _with_pullback(problem.cost, variables)
            self.descend = problem.precondition(variables)
        self.product = pullback
        self.free = free_variables(variables, self.gradient, problem.low, problem.high)

    def solve(self, rhs: Tensor) -> LinearSolution:
        """Solve by conjugate gradients; see `Local`."""
        free = self.free
        with constants():
            return conjugate_gradients(
                lambda v: self.product(v) * free,
                rhs * free,
                lambda v: self.descend(v) * free,
                iterations=self.strategy.solver_iterations,
                tolerance=tolerance_or(
                    self.strategy.solver_tolerance, rhs, 1e-10, 1e-5
                ),
            )


def differentiable(problem: Minimization, minimum: Minimum) -> Tensor:
    """Return the minimum with its derivative in everything that the cost closes over.

    The derivative can be differentiated again if `strategy.order` is 2.

    Args:
        problem: Its cost (and bounds) carry the graph.
        minimum: From `polish`.

    Raises:
        GradientError: later, in `backward`, for elements without such a derivative,
            if the strategy says so.
        UnsupportedGradientError: several transforms of `torch.func` differentiate: the
            solve belongs to the innermost, and the others cannot repeat it.
    """
    if inside_transform() and levels(TransformType.Grad, TransformType.Jvp) > 1:
        raise UnsupportedGradientError(
            "gradient: Implicit() by conjugate gradients (LatCo, large states) is "
            "differentiated by one transform of torch.func at most; use "
            "torch.autograd.grad(create_graph=True)"
        )
    return _Solution(problem, minimum).attached(problem.strategy.order)


class _Solution:
    """A minimum whose Hessian can be solved with, any number of times."""

    def __init__(self, problem: Minimization, minimum: Minimum) -> None:
        self.problem = problem
        self.minimum = minimum
        self.free = minimum.local.free
        zero, sound = problem.strategy.on_failure == "zero", minimum.sound
        known = zero and may_look(sound)
        self.without_derivative = known and not bool(sound.any())

    def attached(self, order: int) -> Tensor:
        """Return the minimum, a function of everything that the cost closes over.

        One Newton step from a constant has the right first derivative; a step from
        there has the right second one, as Newton's method doubles what is right.
        """
        point, slope = self._on_bounds(), _slope_of(self.problem.cost)
        for _ in range(order):
            point = point + _MinusInverse.apply(slope(point) * self.free, self)
        return point

    def solve(self, rhs: Tensor) -> Tensor:
        """H⁻¹ rhs on the free variables, differentiable if gradients are recorded."""
        strategy, free = self.problem.strategy, self.free
        slope = _slope_of(self.problem.cost)
        with constants():
            found = self.minimum.local.solve(rhs)
            sound = self.minimum.sound & found.converged
            solution = report(found.solution, sound, rhs, strategy.on_failure)
        if strategy.order == 1:
            # it depends on all that the gradient depends on, and so must the refusal:
            # autograd only visits nodes on a way to what it was asked for
            return refusing(solution, lambda: (rhs, slope(self._on_bounds())))
        if not torch.is_grad_enabled() and not in_forward_mode():
            return solution
        # H w = rhs defines w as ∇F = 0 defines z: the same theorem once more
        _, product = _with_pullback(self.problem.cost, self.attached(order=1))
        left = torch.where(sound[:, None], product(solution) - rhs, 0.0)
        return solution + _MinusInverse.apply(left * free, self)

    def _on_bounds(self) -> Tensor:
        """Return the variables; one held by a bound is that bound, with its graph."""
        point, low, high = self.minimum.variables, self.problem.low, self.problem.high
        if low is None or high is None:
            return point
        # not by clamp, whose derivative at a bound is the variable's
        held = torch.where(point <= low, low, high)
        return torch.where(self.free > 0, point, held)


class _MinusInverse(torch.autograd.Function):
    """Zero, with the derivative -H⁻¹: adds what the theorem says to a solution."""

    generate_vmap_rule = True

    @staticmethod
    def forward(residual: Tensor, solution: _Solution) -> Tensor:
        del solution
        return torch.zeros_like(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.solution = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None]:
        step = -ctx.solution.solve(cotangent)
        if ctx.solution.without_derivative:
            return None, None  # zeros would meet what is not finite on their way
        return step, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return -ctx.solution.solve(tangent)


def _slope_of(cost: Cost) -> Callable[[Tensor], Tensor]:
    """∇F as a function, with a graph to everything that the cost closes over."""
    return torch.func.grad(lambda point: cost(point).sum())


def _with_pullback(cost: Cost, point: Tensor) -> tuple[Tensor, Solve]:
    """∇F and v → H v at a point; H is symmetric, so that a backward pass multiplies."""
    gradient, pullback = torch.func.vjp(_slope_of(cost), point)  # type: ignore[misc]

    def product(vector: Tensor) -> Tensor:
        (image,) = pullback(vector)
        return image

    return gradient, product
