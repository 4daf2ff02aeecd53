"""Preconditioned conjugate gradients for a batch of systems, matrix-free.

The loop stops as soon as every element has: unlike most of this room it looks at
numbers from the host, if they can be looked at (not those that `vmap` maps over).

References:
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 5.3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.functional._derivatives import is_mapped

Solve = Callable[[Tensor], Tensor]
"""A linear map of vectors `[B, n]`, element by element."""


@dataclass(frozen=True)
class LinearSolution:
    """Answer of `conjugate_gradients`.

    Attributes:
        solution: w `[B, n]`.
        converged: Whether the residual is within the tolerance, `[B]` bool.
        definite: Whether every direction had positive curvature, `[B]` bool; where
            not, `solution` is what was found before.
        iterations: How many products were taken.
    """

    solution: Tensor
    converged: Tensor
    definite: Tensor
    iterations: int


def conjugate_gradients(
    product: Solve,
    rhs: Tensor,
    precondition: Solve,
    *,
    iterations: int,
    tolerance: float,
) -> LinearSolution:
    """Solve H w = rhs for each element of a batch, preconditioned.

    Args:
        product: `v → H v`.
        rhs: `[B, n]`.
        precondition: `v → M⁻¹ v`.
        iterations: At most so many products.
        tolerance: Of ‖H w - rhs‖ relative to ‖rhs‖.
    """
    # in units of the largest entry no square leaves the range
    unit = rhs.detach().abs().amax(dim=1, keepdim=True)
    unit = torch.where((unit > 0) & (unit < torch.inf), unit, 1.0)
    rhs = rhs / unit
    solution = torch.zeros_like(rhs)
    residual = rhs
    conditioned = precondition(residual)
    direction = conditioned
    rho = _dot(residual, conditioned)
    goal = tolerance * rhs.norm(dim=1)
    definite = torch.isfinite(rho)
    active = definite & (residual.norm(dim=1) > goal)
    count = 0
    for count in range(1, iterations + 1):
        if not (is_mapped(active) or active.any()):
            count -= 1
            break
        image = product(direction)
        curvature = _dot(direction, image)
        # also False for NaN: such an element stops here and is reported
        positive = curvature > 0
        definite = definite & (positive | ~active)
        active = active & positive
        length = torch.where(active, rho / torch.where(active, curvature, 1.0), 0.0)
        solution = solution + length[:, None] * direction
        residual = residual - length[:, None] * torch.where(active[:, None], image, 0.0)
        conditioned = precondition(residual)
        following = _dot(residual, conditioned)
        ratio = torch.where(active, following / torch.where(active, rho, 1.0), 0.0)
        direction = conditioned + ratio[:, None] * direction
        rho = torch.where(active, following, rho)
        active = active & (residual.norm(dim=1) > goal)
    converged = definite & (residual.norm(dim=1) <= goal)
    return LinearSolution(unit * solution, converged, definite, count)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=1)
