"""Sets of actions whose nearest point has a closed form, also inside a box."""

import math

import torch
from torch import Tensor

from diffplan._kinds import OrInfinite
from diffplan.constraints._base import ActionConstraint, as_tensor, require_above_zero
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional._projections import (
    NORMS,
    Projection,
    project_ball,
    project_ball_within,
    project_simplex,
)
from diffplan.functional._safe_math import safe_norm, safe_sqrt


class Ball(ActionConstraint):
    """Actions of a bounded norm: ‖action - center‖ ≤ radius, at each time step.

    Args:
        radius: Above zero; a number, or a scalar tensor, which may carry a graph.
        center: `[A]`; None stands for zero.
        norm: 2 (length), 1 (sum of sizes) or `math.inf` (largest size).

    Raises:
        ArgumentError: an argument is out of range.
        ShapeError: the center is no vector.

    Example:
        >>> Ball(1.0).project(torch.tensor([[3.0, 4.0], [0.1, 0.2]]))
        tensor([[0.6000, 0.8000],
                [0.1000, 0.2000]])
    """

    def __init__(
        self,
        radius: float | Tensor,
        center: Tensor | list[float] | None = None,
        norm: OrInfinite = 2,
    ) -> None:
        self.radius = require_above_zero("radius", as_tensor("radius", radius))
        self.center = None if center is None else as_tensor("center", center)
        if self.center is not None and self.center.ndim != 1:
            raise ShapeError(f"center: expected [A], got {list(self.center.shape)}")
        if norm not in NORMS:
            raise ArgumentError(f"norm: expected one of {NORMS}, got {norm!r}")
        self.norm = norm
        furthest = 0.0 if self.center is None else self.center.detach().abs().amax()
        self.size = self.radius.detach() + furthest

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest actions inside the ball, same shape `[…, A]`."""
        return self.project_within(actions, *_open_sides(actions))

    def project_within(self, actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the nearest actions inside the ball and inside a box, exactly."""
        radius, center = self.radius.to(actions), self._center_of(actions)
        return project_ball(actions, radius, center, self.norm, low, high)

    def project_with(self, actions: Tensor, project: Projection) -> Tensor:
        """Return the nearest actions inside the ball (norm 2) and another convex set.

        Args:
            actions: `[…, A]`.
            project: Onto the other set.
        """
        radius, center = self.radius.to(actions), self._center_of(actions)
        return project_ball_within(actions, radius, center, project)

    def excess(self, actions: Tensor) -> Tensor:
        """Return max(0, ‖action - center‖ - radius), per dimension for norm=inf."""
        radius, offset = self.radius.to(actions), actions - self._center_of(actions)
        if self.norm == math.inf:
            return self.beyond_rounding((offset.abs() - radius).relu())
        if self.norm == 1:
            length = offset.abs().sum(dim=-1, keepdim=True)
        else:
            length = safe_norm(offset)
        return self.beyond_rounding((length - radius).relu())

    def linearized_excess(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the excess and a Jacobian; for norm 2 with the ball's curvature.

        At a distance e from a ball of radius r the Hessian of ½ e² is
        n nᵀ + e / (r + e) (I - n nᵀ) for the outward normal n. Gauss-Newton would see
        n nᵀ alone, and overshoot along the surface.
        """
        if self.norm != 2:
            return super().linearized_excess(actions)
        excess = self.excess(actions)
        offset = actions - self._center_of(actions)
        beyond = excess > 0
        length = torch.where(beyond, self.radius.to(actions) + excess, 1)
        normal = torch.where(beyond, offset / length, 0).unsqueeze(-2)
        eye = torch.eye(actions.shape[-1], dtype=actions.dtype, device=actions.device)
        bend = safe_sqrt(excess / length).unsqueeze(-1)
        tangents = bend * (eye - normal.mT @ normal)
        values = torch.cat([excess, torch.zeros_like(actions)], dim=-1)
        return values, torch.cat([normal, tangents], dim=-2)

    def check_dim(self, name: str, dim: int) -> None:
        """Raise a `ShapeError` if the center has another size."""
        if self.center is not None and self.center.shape[0] != dim:
            raise ShapeError(
                f"{name}: expected a center [{dim}] (action_space.dim), got "
                f"{list(self.center.shape)}"
            )

    def _center_of(self, actions: Tensor) -> Tensor:
        if self.center is None:
            return actions.new_zeros(actions.shape[-1])
        return self.center.to(actions)

    def __repr__(self) -> str:
        center = None if self.center is None else self.center.tolist()
        return f"Ball(radius={self.radius.item()}, center={center}, norm={self.norm})"


class Simplex(ActionConstraint):
    """Actions that share out a total: action ≥ 0 and Σ action = total, at each step.

    Args:
        total: Above zero; a number, or a scalar tensor, which may carry a graph.

    Raises:
        ArgumentError: the total is not above zero.

    Example:
        >>> Simplex().project(torch.tensor([0.5, 0.7, -3.0]))
        tensor([0.4000, 0.6000, 0.0000])
    """

    def __init__(self, total: float | Tensor = 1.0) -> None:
        self.total = require_above_zero("total", as_tensor("total", total))
        self.size = self.total.detach()

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest actions inside the simplex, same shape `[…, A]`."""
        return self.project_within(actions, *_open_sides(actions))

    def project_within(self, actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the nearest actions inside the simplex and inside a box, exactly."""
        return project_simplex(actions, self.total.to(actions), low, high)

    def excess(self, actions: Tensor) -> Tensor:
        """Return max(0, -action) `[…, A]` and Σ action - total `[…, 1]` in one."""
        missing = actions.sum(dim=-1, keepdim=True) - self.total.to(actions)
        return self.beyond_rounding(torch.cat([(-actions).relu(), missing], dim=-1))

    def __repr__(self) -> str:
        return f"Simplex(total={self.total.item()})"


def _open_sides(actions: Tensor) -> tuple[Tensor, Tensor]:
    high = torch.full_like(actions[..., :1].detach(), torch.inf)
    return -high, high
