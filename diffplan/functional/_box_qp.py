"""Small quadratic programs in a box, many at once: projected Newton.

    minimise ½ x'H x + g'x  subject to  low ≤ x ≤ high,   H positive definite.

The control-limited step of differential dynamic programming is one of these per time
step, with as many variables as there are actions. Each iteration holds the variables
whose bound the gradient pushes against, takes the Newton step of the others, and goes
along it, clipped to the box, to the lowest point. Once the right variables are held,
the next step is exact; few more than half as many steps as variables find them.

Which variables are held is piecewise constant; the solution as a function of H, g and
the bounds is that of a linear system in the free variables, and that is what is
differentiated, to any order.

References:
    Tassa, Mansard and Todorov 2014, "Control-limited differential dynamic programming"
    (ICRA), Algorithm 1 (with an exact search along the path in place of Armijo's);
    Bertsekas 1982, "Projected Newton methods for optimization problems with simple
    constraints" (SIAM J. Control Optim. 20).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffplan._checks import require_count
from diffplan._shapes import Precise
from diffplan.functional._chain import flatten_batch, times, zero_unless
from diffplan.functional._derivatives import apply, is_followed, keep, or_zero
from diffplan.functional._safe_math import cholesky_solve


class BoxQPSolution(NamedTuple):
    """The minimiser in a box.

    Attributes:
        solution: `[…, A]`, inside the box exactly.
        free: Which variables no bound holds, `[…, A]` bool.
        converged: Whether the conditions of optimality hold with these `free`
            variables, `[…]` bool.
        ok: Whether H is positive definite, everything finite and no `low` above its
            `high`, `[…]` bool. Where it is False the solution is the allowed point
            nearest to zero (some bound where none is allowed), a constant.
    """

    solution: Tensor
    free: Tensor
    converged: Tensor
    ok: Tensor


def box_qp(
    hessian: Precise[Tensor, "*#batch some=A A"],
    linear: Precise[Tensor, "*#batch A"],
    low: Precise[Tensor, "*#batch A"],
    high: Precise[Tensor, "*#batch A"],
    *,
    start: Precise[Tensor, "*#batch A"] | None = None,
    iterations: int = 10,
) -> BoxQPSolution:
    """Minimise ½ x'H x + g'x in a box, differentiably in H, g and the bounds.

    Never raises for numerical reasons and never looks at a number from the host.

    Args:
        hessian: H, `[…, A, A]`; only its symmetric part counts.
        linear: g, `[…, A]`.
        low: `[…, A]`, -inf where a side is open.
        high: `[…, A]`, inf where a side is open, at least `low`.
        start: Where to begin, clipped to the box, `[…, A]`; None and what is not
            finite stand for zero.
        iterations: Newton steps, always all of them. Each costs a few small operations;
            A/2 + 3 were enough for each of 4000 random programs of up to 8 variables.

    All leading dimensions broadcast.

    Raises:
        ShapeError: the sizes differ.
        ArgumentError: `iterations` is negative.

    Example:
        >>> low = torch.zeros(2)
        >>> box_qp(torch.eye(2), torch.tensor([1.0, -0.5]), low, low + 1).solution
        tensor([0.0000, 0.5000])
    """
    require_count("iterations", iterations, 0)
    size = linear.shape[-1]
    given = (linear, low, high, torch.zeros_like(linear) if start is None else start)
    leads = (value.shape[:-1] for value in given)
    batch = torch.broadcast_shapes(hessian.shape[:-2], *leads)
    matrix = flatten_batch(hessian.expand(*batch, size, size), len(batch))
    matrix = torch.lerp(matrix, matrix.mT, 0.5)
    slope, low, high, point = (
        flatten_batch(value.expand(*batch, size), len(batch)) for value in given
    )
    found = _flat_box_qp(matrix, slope, low, high, point, iterations)
    return BoxQPSolution(*(value.view((*batch, *value.shape[1:])) for value in found))


def _flat_box_qp(
    hessian: Tensor,
    linear: Tensor,
    low: Tensor,
    high: Tensor,
    start: Tensor,
    iterations: int,
) -> BoxQPSolution:
    finite = torch.isfinite(hessian).flatten(1).all(1) & torch.isfinite(linear).all(1)
    hessian, linear = zero_unless(finite, hessian), zero_unless(finite, linear)
    form, slope = hessian.detach(), linear.detach()
    lower, upper = low.detach(), high.detach()
    begin = start.detach().nan_to_num(0.0, 0.0, 0.0).clamp(lower, upper)
    point, free = active_set(form, slope, lower, upper, begin, iterations)
    ok = torch.linalg.cholesky_ex(form).info == 0
    ok = ok & (lower <= upper).all(-1)
    at_low = point <= lower
    held = torch.where(free, 0.0, torch.where(at_low, low, high))
    finite = torch.isfinite(held).all(-1)
    held = zero_unless(finite, held)
    wanted = torch.where(free, -linear - times(held, hessian), held)
    found, solved = solve_free(hessian, wanted.unsqueeze(-1), free.unsqueeze(-1))
    raw = found.squeeze(-1)
    ok = ok & solved & finite & torch.isfinite(raw).all(-1)
    nearest = torch.zeros_like(linear).clamp(lower, upper)
    converged = ok & _is_optimal(form, slope, lower, upper, raw.detach(), free)
    solution = torch.where(ok[:, None], raw.clamp(low, high), nearest)
    return BoxQPSolution(solution, free, converged, ok)


def active_set(
    hessian: Tensor,
    linear: Tensor,
    low: Tensor,
    high: Tensor,
    start: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Find which variables are free at the minimum; to be called without a graph.

    Args:
        hessian: Symmetric, `[B, A, A]`.
        linear: `[B, A]`.
        low: `[B, A]`.
        high: `[B, A]`.
        start: Inside the box, `[B, A]`.
        iterations: Newton steps.

    Returns:
        The point that was reached, and where it is free, both `[B, A]`.
    """
    point = start
    tiny, eps = torch.finfo(low.dtype).tiny, torch.finfo(low.dtype).eps
    most = (high - low) / eps  # so far beyond the box a step only overflows
    slope = torch.baddbmm(linear.unsqueeze(1), point.unsqueeze(1), hessian).squeeze(1)
    free = is_free(point, slope, low, high)
    for _ in range(iterations):
        row = free.unsqueeze(-1)
        newton = torch.where(row, -slope.unsqueeze(-1), 0.0)
        unit = newton.abs().amax(1, keepdim=True).clamp_min(tiny)
        step = unit * solve_free(hessian, newton / unit, row)[0]
        step = step.squeeze(-1).clamp(-most, most)
        point, slope = _lowest_along(point, step, hessian, slope, low, high)
        free = is_free(point, slope, low, high)
    return point, free


def solve_free(
    hessian: Tensor, rhs: Tensor, free: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Solve H x = rhs in the free variables, with H as if 1 in the others.

    Args:
        hessian: Symmetric, `[B, A, A]`.
        rhs: `[B, A, M]`, M right-hand sides; in the held variables the solution itself.
        free: `[B, A, 1]` bool; None if all are.

    Returns:
        The solution `[B, A, M]`, differentiable to any order, and whether the free part
        of H is positive definite, `[B]`. Where it is not, the solution means nothing
        and has no gradient.
    """
    root, ok = factor_free(hessian, free)
    if not is_followed(hessian, rhs):
        return cholesky_solve(rhs, root), ok
    if free is None:
        free = torch.ones_like(rhs[..., :1], dtype=torch.bool)
    return solve_with(hessian, rhs, free, ok, root), ok


def factor_free(hessian: Tensor, free: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor of H in the free variables, and where there is one.

    Args:
        hessian: Symmetric, `[B, A, A]`.
        free: `[B, A, 1]` bool; None if all are.
    """
    matrix = hessian.detach()
    if free is not None:
        eye = torch.eye(free.shape[-2], dtype=hessian.dtype, device=hessian.device)
        matrix = torch.where(free & free.mT, matrix, eye)
    root, failed = torch.linalg.cholesky_ex(matrix)
    return root, failed == 0


def solve_with(
    hessian: Tensor, rhs: Tensor, free: Tensor, ok: Tensor, root: Tensor
) -> Tensor:
    """Solve as `solve_free` does, with a factor; zero where it is not ok."""
    arguments = (hessian, rhs, free, ok, root)
    if not is_followed(hessian, rhs):
        return _SolveFreeReverse.forward(*arguments)
    return apply(_SolveFree, _SolveFreeReverse, *arguments)


class _SolveFreeReverse(torch.autograd.Function):
    """The solve as one node of the graph; its backward is another one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        hessian: Tensor,  # noqa: ARG004 - its factor is what solves
        rhs: Tensor,
        free: Tensor,  # noqa: ARG004
        ok: Tensor,
        root: Tensor,
    ) -> Tensor:
        return zero_unless(ok, cholesky_solve(rhs, root))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        keep(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        hessian, _, free, ok, root, solution = ctx.saved_tensors
        adjoint = solve_with(hessian, cotangents[0], free, ok, root)
        by_hessian = None
        if ctx.needs_input_grad[0]:
            # an infinite solution has cotangent zero, and 0 · inf is none
            finite = torch.isfinite(solution).flatten(1).all(1)
            solution = zero_unless(finite, solution)
            by_hessian = torch.where(free & free.mT, -(adjoint @ solution.mT), 0.0)
        return by_hessian, adjoint, None, None, None


class _SolveFree(_SolveFreeReverse):
    """The same with forward mode: H dx = drhs - dH x."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        hessian, rhs, free, ok, root, solution = ctx.saved_tensors
        by_hessian, by_rhs = or_zero(tangents[:2], (hessian, rhs))
        moved = torch.where(free & free.mT, by_hessian, 0.0) @ solution
        return solve_with(hessian, by_rhs - moved, free, ok, root)


def is_free(point: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return where no bound holds a variable against the descent."""
    return torch.where(slope > 0, point > low, (point < high) | (slope == 0))


def _lowest_along(
    point: Tensor,
    step: Tensor,
    hessian: Tensor,
    slope: Tensor,
    low: Tensor,
    high: Tensor,
) -> tuple[Tensor, Tensor]:
    """Go along a step, clipped to the box, to the lowest point of that way.

    The way is straight between the lengths at which a variable meets its bound; on each
    piece the minimum has a closed form, and the least of them is the answer. That is
    below the start unless the start is the minimum, which no fixed set of lengths could
    promise for an ill-conditioned H.

    Returns:
        The point and its slope.
    """
    bound = torch.where(step > 0, high, low)
    ends = torch.where(step == 0, 1.0, (bound - point) / step).clamp_max(1.0)
    # piece j begins where variable j ends (and one at the start), and moves those
    # whose own end is still ahead, up to the nearest of these ends
    begins = pad(ends, (1, 0)).unsqueeze(-1)
    ends, step = ends.unsqueeze(1), step.unsqueeze(1)
    ahead = ends > begins
    moves = torch.where(ahead, step, 0.0)
    gone = torch.minimum(begins, ends) * step
    slopes = torch.baddbmm(slope.unsqueeze(1), gone, hessian)
    bends = torch.bmm(moves, hessian)
    nearest = torch.where(ahead, ends, torch.inf).amin(-1, keepdim=True)
    downhill = (slopes * moves).sum(-1, keepdim=True)
    curvature = (bends * moves).sum(-1, keepdim=True)
    length = torch.where(curvature > 0, -downhill / curvature, 0.0).clamp_min(0.0)
    length = torch.minimum(length, nearest - begins)
    steps = torch.addcmul(gone, length, moves)
    slopes = torch.addcmul(slopes, length, bends)
    # twice the change of the cost; as a difference of two it would drown in rounding
    change = ((slopes + slope.unsqueeze(1)) * steps).sum(-1)
    least, index = change.min(-1)
    chosen = torch.arange(len(index), device=index.device), index
    lower = (least < 0).unsqueeze(-1)
    moved = torch.clamp(point + steps[chosen], low, high)
    return (
        torch.where(lower, moved, point),
        torch.where(lower, slopes[chosen], slope),
    )


def _is_optimal(
    hessian: Tensor,
    linear: Tensor,
    low: Tensor,
    high: Tensor,
    point: Tensor,
    free: Tensor,
) -> Tensor:
    """Return whether the conditions of optimality hold, `[B]`; free slopes are zero."""
    slope = linear + times(point, hessian)
    inside = (point >= low) & (point <= high)
    held = torch.where(point <= low, slope >= 0, slope <= 0) | (low == high)
    return torch.where(free, inside, held).all(-1)
