"""The nearest point of a polyhedron {x : G x ≤ h}, exactly.

At the nearest point x of p some sides are tight, and x = p - G'λ with multipliers λ ≥ 0
for those and zero for the others. Which ones they are is found by the dual active-set
method of Goldfarb and Idnani: it starts at p without any side and adds the one that is
broken most, giving up sides whose multiplier reaches zero on the way. Every step is
exact, so that nothing depends on how far away p is, and it ends after finitely many,
at the nearest point or with the proof that there is none.

Tight sides are piecewise constant. On them x is a closed form in p, G and h, and that
is what is differentiated: to any order, in any mode.

Symbols: p points `[B, A]`; G `[C, A]` with rows of length one; h `[C]`; v = G x - h;
K = G G'; S tight sides `[B, C]`.

References:
    Goldfarb and Idnani 1983, "A numerically stable dual method for solving strictly
    convex quadratic programs" (Mathematical Programming 27).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional._box_qp import solve_free
from diffplan.functional._derivatives import constants

_ROUNDING = 64.0
"""How many units of rounding a side may be broken by."""

_PARALLEL = 1e-13
"""Squared sine below which a side is no other direction than the tight ones are."""

_FALLS = 1e-12
"""Least fall of a multiplier, per step along a side, that is more than rounding."""


class Nearest(NamedTuple):
    """What was found for each point.

    Attributes:
        points: x, `[B, A]`; where it was not found, anything.
        tight: S, independent sides.
        found: Whether the conditions of optimality hold, `[B]` bool. Where not, the
            polyhedron is empty, or so thin that rounding decides.
    """

    points: Tensor
    tight: Tensor
    found: Tensor


def find_nearest(
    points: Tensor,
    matrix: Tensor,
    offset: Tensor,
    *,
    tight: Tensor | None = None,
    rounding: float = 0.0,
) -> Nearest:
    """Find the nearest points, without a graph; looks at numbers from the host.

    Args:
        points: p, finite.
        matrix: G.
        offset: h; infinite where a side is open.
        tight: A guess of S; None for none.
        rounding: By how much, relative to the numbers on both of its sides, a side may
            be broken at least: the precision that the numbers come in.
    """
    with constants():
        search = _Search(points.detach(), matrix.detach(), offset.detach(), rounding)
        if tight is not None:
            search.begin_with(tight)
        for _ in range(20 + 10 * len(offset)):
            if not search.step():
                break
        return Nearest(search.at, search.tight, search.ended & search.is_nearest())


def along_sides(
    nearest: Tensor, points: Tensor, matrix: Tensor, offset: Tensor, tight: Tensor
) -> Tensor:
    """Give nearest points their derivative: those of p where S are equations.

    Args:
        nearest: x, found before.
        points: p.
        matrix: G.
        offset: h.
        tight: S.

    Returns:
        The same x, differentiable in the other arguments.
    """
    closed, _ = _on_sides(points, matrix, offset, tight)
    return nearest + (closed - closed.detach())


def _on_sides(
    points: Tensor, matrix: Tensor, offset: Tensor, tight: Tensor
) -> tuple[Tensor, Tensor]:
    """X and λ where the tight sides are equations."""
    nearest, multipliers = points, torch.zeros_like(tight, dtype=points.dtype)
    products = (matrix @ matrix.mT).expand(len(points), -1, -1)
    for _ in range(2):  # the second time for what a far point lost to rounding
        broken = torch.where(tight, nearest @ matrix.mT - offset, 0.0)
        share, ok = solve_free(products, broken.unsqueeze(-1), tight.unsqueeze(-1))
        share = torch.where(ok[:, None], share.squeeze(-1), 0.0)
        nearest, multipliers = nearest - share @ matrix, multipliers + share
    return nearest, multipliers


class _Search:
    """The method of Goldfarb and Idnani, for all points side by side."""

    def __init__(
        self, points: Tensor, matrix: Tensor, offset: Tensor, rounding: float
    ) -> None:
        self.points, self.matrix, self.offset = points, matrix, offset
        self.rounding = max(rounding, _ROUNDING * torch.finfo(points.dtype).eps)
        self.products = matrix @ matrix.mT
        self.at = points
        self.tight = torch.zeros_like(points @ matrix.mT, dtype=torch.bool)
        self.multipliers = torch.zeros_like(points @ matrix.mT)
        none = torch.zeros_like(points[:, 0], dtype=torch.bool)
        self.ended, self.empty, self.halfway = none, none, none
        self.added = torch.zeros_like(points[:, 0], dtype=torch.long)

    def begin_with(self, tight: Tensor) -> None:
        """Take a guess of the tight sides where it is the answer."""
        found, multipliers = _on_sides(self.points, self.matrix, self.offset, tight)
        broken = torch.where(tight, 0.0, self._beyond(found))
        right = (broken <= 0).all(-1) & (multipliers >= 0).all(-1)
        right = right & (self._missed(found, tight) <= 0)
        self.at = torch.where(right[:, None], found, self.at)
        self.tight = self.tight | (right[:, None] & tight)
        self.multipliers = torch.where(right[:, None], multipliers, self.multipliers)

    def is_nearest(self) -> Tensor:
        """Return where the conditions of optimality hold, `[B]` bool."""
        left = self.points - self.multipliers @ self.matrix - self.at
        size = self.points.norm(dim=-1) + self.at.norm(dim=-1)
        stationary = left.norm(dim=-1) <= self.rounding * len(self.offset) * size
        inside = (self._beyond(self.at) <= 0).all(-1)
        slack = torch.where(self.tight, 0.0, self.multipliers.abs()).sum(-1) == 0
        return stationary & inside & slack & (self._missed(self.at, self.tight) <= 0)

    def _beyond(self, at: Tensor) -> Tensor:
        """Return how far sides are broken by more than rounding, `[B, C]`."""
        beyond = at @ self.matrix.mT - self.offset - self._slack(at)
        return torch.where(torch.isposinf(self.offset), -torch.inf, beyond)

    def _missed(self, at: Tensor, tight: Tensor) -> Tensor:
        """Return how far tight sides are missed at most, beyond rounding, `[B]`."""
        missed = (at @ self.matrix.mT - self.offset).abs() - self._slack(at)
        return torch.where(tight, missed, -torch.inf).amax(-1)

    def _slack(self, at: Tensor) -> Tensor:
        """By how much rounding may break each side, `[B, C]`."""
        slack = self.rounding * (at.norm(dim=-1, keepdim=True) + self.offset.abs())
        # at the apex of a cone about zero nothing but the point has a size
        way = self.points.norm(dim=-1, keepdim=True)
        return slack + 1e-3 * torch.finfo(at.dtype).eps * way

    def step(self) -> bool:
        """Add a side, or give one up for it; return whether there is more to do."""
        most, worst = torch.where(self.tight, -torch.inf, self._beyond(self.at)).max(-1)
        self.added = torch.where(self.halfway, self.added, worst)
        self.ended = self.ended | (~self.halfway & ~self.empty & (most <= 0))
        busy = ~(self.ended | self.empty)
        if not bool(busy.any()):
            return False
        column = self.added.unsqueeze(-1)
        falls = self._solve(self.products[self.added])
        way = self.matrix[self.added] - falls @ self.matrix
        length = (way * self.matrix[self.added]).sum(-1)
        free = length > _PARALLEL
        broken = self.at @ self.matrix.mT - self.offset
        gap = broken.gather(-1, column).squeeze(-1)
        whole = torch.where(free, gap / torch.where(free, length, 1.0), torch.inf)
        ends = torch.where(
            self.tight & (falls > _FALLS), self.multipliers / falls, torch.inf
        )
        until, given_up = ends.min(-1)
        size = torch.minimum(whole, until)
        self.empty = self.empty | (busy & torch.isinf(size))
        busy = busy & ~self.empty
        self._move(busy, size, way, falls, column, whole <= until, given_up)
        return True

    def _move(
        self,
        busy: Tensor,
        size: Tensor,
        way: Tensor,
        falls: Tensor,
        column: Tensor,
        whole: Tensor,
        given_up: Tensor,
    ) -> None:
        size = torch.where(busy, size, 0.0)[:, None]
        self.multipliers = (self.multipliers - size * falls).clamp_min(0.0)
        self.multipliers = self.multipliers.scatter_add(-1, column, size)
        moved = self.at - size * way
        adds, drops = busy & whole, busy & ~whole
        sides = torch.arange(len(self.offset), device=moved.device)
        self.tight = self.tight | (adds[:, None] & (sides == column))
        dropped = drops[:, None] & (sides == given_up[:, None])
        self.tight = self.tight & ~dropped
        self.multipliers = torch.where(dropped, 0.0, self.multipliers)
        self.halfway = drops
        # back onto the tight sides, which a far point misses by its rounding
        broken = moved @ self.matrix.mT - self.offset
        correction = self._solve(broken) @ self.matrix
        self.at = torch.where(busy[:, None], moved - correction, self.at)

    def _solve(self, rhs: Tensor) -> Tensor:
        """K⁻¹ rhs on the tight sides, zero on the others."""
        tight = self.tight
        products = self.products.expand(len(tight), -1, -1)
        masked = torch.where(tight, rhs, 0.0).unsqueeze(-1)
        return solve_free(products, masked, tight.unsqueeze(-1))[0].squeeze(-1)
