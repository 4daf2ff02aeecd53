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

from diffplan.functional.conjugate_gradients import (
    LinearSolution,
    Solve,
    conjugate_gradients,
)
from diffplan.gradients import Implicit
from diffplan.solvers.stationary import (
    Minimum,
    Refuse,
    free_variables,
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
        low: Lower bounds `[n]`, or None; may carry a graph.
        high: Upper bounds `[n]`, likewise.
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
        gradient, self.product = _hessian(problem.cost, variables)
        self.gradient = gradient.detach()
        with torch.no_grad():
            self.descend = problem.precondition(variables)
        self.free = free_variables(variables, self.gradient, problem.low, problem.high)

    def solve(self, rhs: Tensor) -> LinearSolution:
        """Solve by conjugate gradients; see `Local`."""
        free = self.free
        with torch.no_grad():
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
    """
    return _Solution(problem, minimum).attached(problem.strategy.order)


class _Solution:
    """A minimum whose Hessian can be solved with, any number of times."""

    def __init__(self, problem: Minimization, minimum: Minimum) -> None:
        self.problem = problem
        self.minimum = minimum
        self.free = minimum.local.free
        zero = problem.strategy.on_failure == "zero"
        self.without_derivative = zero and not bool(minimum.sound.any())

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
            found = self.minimum.local.solve(rhs)
            sound = self.minimum.sound & found.converged
            solution = report(found.solution, sound, rhs, strategy.on_failure)
        if not torch.is_grad_enabled():
            return solution
        if strategy.order == 1:
            # it depends on all that the gradient depends on, and so must the refusal:
            # autograd only visits nodes on a way to what it was asked for
            gradient = _gradient(self.problem.cost, self._on_bounds())
            return Refuse.apply(solution, rhs, gradient)
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
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None]:
        step = -ctx.solution.solve(cotangent)
        if ctx.solution.without_derivative:
            return None, None  # zeros would meet what is not finite on their way
        return step, None


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

    return gradient, product


def _hessian_product(cost: Cost, point: Tensor, vector: Tensor) -> Tensor:
    """H v at a point with a graph, itself with a graph."""
    gradient = _gradient(cost, point)
    (image,) = torch.autograd.grad(
        gradient, point, vector, create_graph=True, materialize_grads=True
    )
    return image
