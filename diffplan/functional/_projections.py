"""Nearest points of balls and simplices inside a box, exactly, and of intersections.

Each set {x : Σ_i h_i(x_i) ≤ r} here is a bound on a sum over coordinates. With one
multiplier for that bound, the problem

    min ½‖x - point‖²  subject to  low ≤ x ≤ high  and  Σ_i h_i(x_i) ≤ r

splits into coordinates, each of which is its unbounded minimiser, clipped. What
remains is to find the root of a monotone function of one number, made of pieces that
end where a coordinate meets a bound. All ends are tried, which gives the piece exactly,
and on a piece the root has a closed form. Which coordinates are free on it is piecewise
constant and carries no gradient; the closed form does: derivatives with respect to the
point, the bounds, the centre and the size are right to any order, almost everywhere.

Everything holds for any leading dimensions; bounds and centres broadcast. NaN in a
point stays NaN, and a radius that is not above zero makes all NaN.

References:
    Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high
    dimensions" (without a box); Boyd and Vandenberghe, *Convex Optimization*, section
    5.5 (the dual of one constraint).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import require_count
from diffplan._kinds import OrInfinite
from diffplan._shapes import fitted
from diffplan.errors import ArgumentError
from diffplan.functional._derivatives import constants
from diffplan.functional._safe_math import safe_norm

Projection = Callable[[Tensor], Tensor]
"""`point […, A] → nearest point of a closed convex set […, A]`."""

NORMS = (1, 2, float("inf"))

ROOT_STEPS = 30
"""Evaluations in search of the root of `project_ball_within`; 15 are usual."""

DYKSTRA_CYCLES = 100
"""Rounds over all sets of `project_intersection`."""


def project_ball(
    point: Float[Tensor, "*#batch some=A"],
    radius: Float[Tensor, ""],
    center: Float[Tensor, "*#batch #A"],
    norm: OrInfinite,
    low: Float[Tensor, "*#batch #A"],
    high: Float[Tensor, "*#batch #A"],
) -> Tensor:
    """Return the nearest point of {x : ‖x - center‖ ≤ radius, low ≤ x ≤ high}.

    Where the ball and the box do not meet, the answer lies in the box near the ball.

    Args:
        point: `[…, A]`.
        radius: A scalar tensor above zero.
        center: `[A]`.
        norm: 1, 2 or infinity.
        low: `[A]`; -inf leaves a side open.
        high: `[A]`; inf leaves a side open.

    Raises:
        ArgumentError: another norm.

    Example:
        >>> wide = torch.tensor([torch.inf])
        >>> project_ball(
        ...     torch.tensor([3.0, 4.0]),
        ...     torch.tensor(1.0),
        ...     torch.zeros(2),
        ...     2,
        ...     -wide,
        ...     wide,
        ... )
        tensor([0.6000, 0.8000])
    """
    center = torch.where(radius > 0, center, torch.nan)
    if norm == 2:
        return _project_round_ball(point, radius, center, low, high)
    if norm == 1:
        return _project_diamond(point, radius, center, low, high)
    if norm == float("inf"):
        nearest = torch.maximum(torch.minimum(point, center + radius), center - radius)
        return nearest.clamp(low, high)
    raise ArgumentError(f"norm: expected one of {NORMS}, got {norm!r}")


def project_simplex(
    point: Float[Tensor, "*#batch some=A"],
    total: Float[Tensor, ""],
    low: Float[Tensor, "*#batch #A"],
    high: Float[Tensor, "*#batch #A"],
) -> Tensor:
    """Return the nearest point of {x : x ≥ 0, Σ x = total, low ≤ x ≤ high}.

    With a shift τ for the sum, x_i = clip(point_i - τ, low_i, high_i). Where the set is
    empty, the answer lies in the box and its sum is as near to the total as may be.

    Args:
        point: `[…, A]`; -inf stands for farther off than any other.
        total: A scalar tensor above zero.
        low: `[A]`; below zero is the same as zero.
        high: `[A]`; inf leaves a side open.

    Example:
        >>> project_simplex(
        ...     torch.tensor([0.5, 0.7, -3.0]),
        ...     torch.tensor(1.0),
        ...     torch.zeros(3),
        ...     torch.full((3,), torch.inf),
        ... )
        tensor([0.4000, 0.6000, 0.0000])
    """
    low = low.clamp_min(0)
    # No coordinate can exceed what the lower bounds of the others leave to it: finite.
    room = (total - low.sum(dim=-1, keepdim=True)).clamp_min(0)
    high = torch.minimum(high, low + room)
    # A shift of all changes nothing; about the largest, far points keep their digits.
    top = point.detach().amax(dim=-1, keepdim=True)
    point = point - top.clamp_min(torch.finfo(point.dtype).min)
    with constants():
        # What is at -inf gets a share only after all others have met their bound.
        gone = point == -torch.inf
        last = torch.where(gone, 0, point - high).amin(dim=-1, keepdim=True)
    point = torch.where(gone, last, point)
    with constants():
        ends = torch.cat([point - low, point - high], dim=-1)
        shift = _bracket(
            ends,
            lambda shift: (
                (point - shift).clamp(low, high).sum(-1, keepdim=True) - total
            ),
        )
        at = point - shift
        free = (low < at) & (at < high)
    fixed = _held(at, low, high)
    spent = torch.where(free, 0, fixed).sum(dim=-1, keepdim=True)
    summed = torch.where(free, point, 0).sum(dim=-1, keepdim=True)
    count = free.sum(dim=-1, keepdim=True)
    shift = (summed + spent - total) / count.clamp_min(1)
    return torch.where(free, point - shift, fixed).clamp(low, high)


def project_ball_within(
    point: Float[Tensor, "*#batch some=A"],
    radius: Float[Tensor, ""],
    center: Float[Tensor, "*#batch #A"],
    project: Projection,
) -> Tensor:
    """Return the nearest point of a ball (norm 2) and of any other convex set.

    The multiplier of the ball only moves the point towards the centre: the answer is
    project(center + s (point - center)) for some share s in [0, 1], and its distance
    from the centre grows with s. The root is bracketed without a graph; two Newton
    steps from there carry it, which makes derivatives right to third order (or as far
    as `project` goes).

    The answer lies in the other set as exactly as `project` puts it there, and in the
    ball up to rounding. Where the two do not meet, it is the other set's point nearest
    to the centre.

    Args:
        point: `[…, A]`.
        radius: A scalar tensor above zero.
        center: `[A]`.
        project: Onto the other set.

    Example:
        >>> left = lambda x: torch.cat([x[..., :1].clamp_max(0.6), x[..., 1:]], dim=-1)
        >>> origin = torch.zeros(2)
        >>> project_ball_within(
        ...     torch.tensor([3.0, 3.0]), torch.tensor(1.0), origin, left
        ... )
        tensor([0.6000, 0.8000])
    """
    center = torch.where(radius > 0, center, torch.nan)
    offset, onto = point - center, _fitting("project", project)

    def excess(share: Tensor) -> Tensor:
        # In units of the radius, whose square may leave the range.
        found = (onto(center + share * offset) - center) / radius
        return found.square().sum(dim=-1, keepdim=True) - 1

    with constants():
        one = torch.ones_like(point[..., :1])
        inside = excess(one) <= 0
        # Where the centre is in the other set, the ball alone asks for no smaller one.
        least = (radius / safe_norm(offset)).clamp_max(1)
        least = torch.where(excess(least) <= 0, least, 0)
        share = torch.where(inside, one, _root(excess, least, one))
    for _ in range(2):
        beyond, pullback = torch.func.vjp(excess, share)  # type: ignore[misc]
        (slope,) = pullback(one)
        movable = ~inside & (slope > 0)
        step = torch.where(movable, beyond, 0) / torch.where(movable, slope, 1)
        share = (share - step).clamp(0, 1)
    return onto(torch.where(inside, point, center + share * offset))


def project_intersection(
    point: Float[Tensor, "*batch A"],
    projections: Sequence[Projection],
    cycles: int = DYKSTRA_CYCLES,
) -> Tensor:
    """Return the nearest point of an intersection of convex sets, by Dykstra's method.

    The answer lies in the last set exactly. It converges to the nearest point wherever
    the intersection is not empty, for curved sets often slowly: hundreds of cycles may
    leave several digits. A gradient is that of all cycles, so its memory grows with
    them. Prefer the functions above where they apply.

    Args:
        point: `[…, A]`.
        projections: One per set.
        cycles: Rounds over all sets, at least 1; always all of them.

    References:
        Boyle and Dykstra 1986, "A method for finding projections onto the intersection
        of convex sets in Hilbert spaces".

    Example:
        >>> halves = [lambda x: x.clamp_min(0), lambda x: x.clamp_max(1)]
        >>> project_intersection(torch.tensor([-2.0, 0.5, 3.0]), halves)
        tensor([0.0000, 0.5000, 1.0000])
    """
    corrections = [torch.zeros_like(point) for _ in projections]
    onto = [_fitting("projections", project) for project in projections]
    for _ in range(require_count("cycles", cycles)):
        for index, project in enumerate(onto):
            wanted = point + corrections[index]
            point = project(wanted)
            corrections[index] = wanted - point
    return point


def _fitting(name: str, project: Projection) -> Projection:
    """Return a projection whose answers are checked to be points as those given."""
    return lambda point: fitted(name, project(point), point.shape, point)


def _project_round_ball(
    point: Tensor, radius: Tensor, center: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """x(s) = clip(center + s (point - center)) for the share s in [0, 1]."""
    offset = point - center

    def left(used: Tensor) -> Tensor:
        # What is left of the squared radius, in units of it: squares of small and
        # large numbers leave the range. Beyond two radii all is the same.
        ratio = (used / radius).clamp(-2, 2)
        return 1 - ratio.square().sum(dim=-1, keepdim=True)

    def used(share: Tensor) -> Tensor:
        return (center + share * offset).clamp(low, high) - center

    with constants():
        step = torch.where(offset == 0, torch.ones_like(offset), offset)
        ends = torch.cat([(low - center) / step, (high - center) / step], dim=-1)
        edge = torch.zeros_like(point[..., :1])
        share = _bracket(
            torch.cat([ends.clamp(0, 1), edge, edge + 1], dim=-1),
            lambda share: left(used(share)),  # falls as the share grows
        )
        at = center + share * offset
        free = (low < at) & (at < high)
        inside = left(used(edge + 1)) >= 0
    fixed = _held(at, low, high)
    rest = left(torch.where(free, 0, fixed - center))
    length = safe_norm(torch.where(free, offset, 0))
    # Both branches stay finite, also in their derivatives: see `safe_sqrt`.
    solvable = (rest > 0) & (length > 0)
    reach = radius * torch.where(solvable, rest, 1).sqrt()
    share = torch.where(solvable, reach / torch.where(solvable, length, 1), 0)
    shrunk = torch.where(free, center + share * offset, fixed)
    return torch.where(inside, point, shrunk).clamp(low, high)


def _project_diamond(
    point: Tensor, radius: Tensor, center: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """x(λ) = clip(center + sign(d) max(|d| - λ, 0)) with d = point - center."""
    offset = point - center
    sign = offset.sign()
    with constants():
        most = offset.abs().amax(dim=-1, keepdim=True)
    # Sizes and λ count from the largest size: far points keep their digits.
    size = offset.abs() - most

    def excess(shift: Tensor) -> Tensor:
        shrunk = center + sign * (size - shift).clamp_min(0)
        used = (shrunk.clamp(low, high) - center).abs()
        return used.sum(dim=-1, keepdim=True) - radius

    with constants():
        # 0 · inf, of a coordinate at the centre, is no end.
        to_low = (size - sign * (low - center)).nan_to_num(0.0)
        to_high = (size - sign * (high - center)).nan_to_num(0.0)
        ends = torch.cat([size, to_low, to_high, -most], dim=-1)
        shift = _bracket(torch.maximum(ends.clamp_max(0), -most), excess)
        centred = size <= shift
        at = center + sign * (size - shift).clamp_min(0)
        free = ~centred & (low < at) & (at < high)
        inside = excess(-most) <= 0
    fixed = torch.where(centred, center.clamp(low, high), _held(at, low, high))
    spent = torch.where(free, 0, (fixed - center).abs()).sum(dim=-1, keepdim=True)
    summed = torch.where(free, size, 0).sum(dim=-1, keepdim=True)
    count = free.sum(dim=-1, keepdim=True)
    shift = (summed + spent - radius) / count.clamp_min(1)
    shrunk = torch.where(free, center + sign * (size - shift), fixed)
    return torch.where(inside, point, shrunk).clamp(low, high)


def _held(at: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clip constants to bounds that carry a graph, also where both are equal."""
    return torch.where(at <= low, low, torch.where(at >= high, high, at))


def _root(rising: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return a root `[…, 1]` of a rising function between two numbers.

    Regula falsi with the Illinois rule, every third step a bisection: superlinear
    where the function is smooth, and never slower than a bisection in three.

    Args:
        rising: `[…, 1] → […, 1]`, above zero at `high`. Where it is so at `low` too,
            the answer is `low`.
        low: `[…, 1]`, at least zero.
        high: `[…, 1]`.
    """
    below, above = rising(low), rising(high)
    kept = torch.zeros_like(low)  # which end the last step kept: -1 low, 1 high
    for step in range(ROOT_STEPS):
        # far points have tiny shares: half of the digits, not of the length
        middle = torch.where(low > 0, low.sqrt() * high.sqrt(), high / 2)
        secant = (low * above - high * below) / (above - below)
        usable = (secant > low) & (secant < high)  # also False for NaN
        at = torch.where(usable, secant, middle) if step % 3 else middle
        value = rising(at)
        raised = value > 0
        # An end that is kept twice counts half, which draws the next secant to it.
        above = torch.where(raised, value, torch.where(kept > 0, above / 2, above))
        below = torch.where(raised, torch.where(kept < 0, below / 2, below), value)
        high, low = torch.where(raised, at, high), torch.where(raised, low, at)
        kept = torch.where(raised, -1.0, 1.0).to(low)
    return low


def _bracket(ends: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a number `[…, 1]` inside the piece that holds a falling function's root.

    Args:
        ends: Ends of all pieces `[…, K]`, in any order.
        value: The function, `[…, 1] → […, 1]`.
    """
    lower = ends.amin(dim=-1, keepdim=True)
    upper = ends.amax(dim=-1, keepdim=True)
    for end in ends.split(1, dim=-1):
        # Of a flat root the right end: left of it the pieces of far points collapse.
        before = value(end) >= 0
        lower = torch.where(before, torch.maximum(lower, end), lower)
        upper = torch.where(before, upper, torch.minimum(upper, end))
    # Where all values have one sign, both are the outermost end.
    return lower + (upper - lower) / 2
