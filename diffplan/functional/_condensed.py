"""A step of the regulator with limited actions, by elimination of the states.

Written in the actions alone, the linear-quadratic problem of the increments is one
quadratic program in a box of T·A variables,

    minimise ½ u'H u + g'u  subject to  low ≤ u ≤ high,   dx = X u,

whose Hessian costs a few products of matrices where a sweep of dynamic programming has
a hundred small operations for each step. For short horizons that is several times
faster, and its limits are met by the optimum of all steps together; it grows with the
cube of T·A, the sweep with T.

References:
    Bock and Plitt 1984, "A multiple shooting algorithm for direct solution of optimal
    control problems" (condensing); Bertsekas 1982, see `_box_qp`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffplan.functional._box_qp import active_set, solve_free
from diffplan.functional._chain import flatten_batch, times, zero_unless
from diffplan.functional.box_lqr import IncrementalLQR

_ROUNDS = 8
"""Newton steps of the quadratic program; where it needs more, a step is not exact, and
the next iteration goes on from there."""


SMALL = 24
"""Largest T · A for which this is no slower than a sweep at batch 64 on a CPU."""


class CondensedStep(NamedTuple):
    """The increments of all actions, zero for an element that failed.

    Attributes:
        moves: Inside the limits, `[…, T, A]`.
        decrease: How much they lower the model's cost, `[…]`; without a graph.
        ok: Whether the damped Hessian is positive definite in the free actions, and all
            is finite, `[…]` bool.
    """

    moves: Tensor
    decrease: Tensor
    ok: Tensor


def condensed_step(
    problem: IncrementalLQR,
    low: Tensor,
    high: Tensor,
    damping: Tensor,
    *,
    look: bool = False,
) -> CondensedStep:
    """Minimise a linear-quadratic problem over actions in a box.

    Differentiable to any order; which actions are held is piecewise constant.

    Args:
        problem: With the leading dimensions of `damping`.
        low: Lower bounds of the increments, at most zero, `[…, T, A]`.
        high: Upper bounds, at least zero, `[…, T, A]`.
        damping: Twice the weight of ‖du‖² in the cost of a step, `[…]`.
        look: Whether numbers may be looked at from the host, to stop when the held
            actions are known.
    """
    batch, lead = damping.shape, damping.dim()
    problem = IncrementalLQR(*(flatten_batch(part, lead) for part in problem))
    shape = low.shape
    low, high = (flatten_batch(part, lead).flatten(1) for part in (low, high))
    hessian, gradient = condensed(problem)
    amount = flatten_batch(damping, lead)[:, None].expand_as(gradient)
    hessian = hessian + torch.diag_embed(amount)
    free = _free(hessian, gradient, low, high, look=look)
    if free is None:
        wanted, where = -gradient, None
    else:
        # All that is held is at one of its limits, which may be the same.
        held = torch.where(free[0] <= low, low, high)
        held = torch.where(free[1], 0.0, held)
        wanted = torch.where(free[1], -gradient - times(held, hessian), held)
        where = free[1].unsqueeze(-1)
    found, ok = solve_free(hessian, wanted.unsqueeze(-1), where)
    # Rounding may carry a free action over its limit, and so may rounds that ran out.
    moves = found.squeeze(-1).clamp(low, high)
    change = moves.detach()
    curved = times(change, hessian.detach())
    decrease = -(change * (gradient.detach() + 0.5 * curved)).sum(-1)
    ok = ok & torch.isfinite(decrease)
    moves = zero_unless(ok, moves).reshape(shape)
    return CondensedStep(
        moves, zero_unless(ok, decrease).reshape(batch), ok.reshape(batch)
    )


def condensed(problem: IncrementalLQR) -> tuple[Tensor, Tensor]:
    """Return Hessian `[B, T·A, T·A]` and gradient `[B, T·A]` of the cost by actions.

    Args:
        problem: With one leading dimension.
    """
    by_action, by_state = problem.action_jacobian, problem.state_jacobian
    count, horizon, _, width = by_action.shape
    size = horizon * width
    response = by_action[:, 0]
    rows = [pad(response, (0, size - width))]
    for step in range(1, horizon):
        response = torch.cat((by_state[:, step] @ response, by_action[:, step]), -1)
        rows.append(pad(response, (0, size - response.shape[-1])))
    states = torch.stack(rows, 1)  # of x_1 … x_T by all actions, [B, T, S, T·A]
    end = problem.end_hessian.unsqueeze(1)
    curvature = torch.cat((problem.hessian[:, 1:, width:, width:], end), 1)
    flat = states.flatten(1, 2)
    hessian = flat.mT @ (curvature @ states).flatten(1, 2)
    blocks = torch.diag_embed(problem.hessian[..., :width, :width].permute(0, 2, 3, 1))
    hessian = hessian + blocks.permute(0, 3, 1, 4, 2).reshape(count, size, size)
    cross = problem.hessian[:, 1:, :width, width:] @ states[:, :-1]
    cross = pad(cross.flatten(1, 2), (0, 0, width, 0))
    hessian = hessian + cross + cross.mT
    end_slope = problem.end_gradient.unsqueeze(1)
    slopes = torch.cat((problem.gradient[:, 1:, width:], end_slope), 1)
    gradient = problem.gradient[..., :width].flatten(1) + times(slopes.flatten(1), flat)
    return hessian, gradient


def _free(
    hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, *, look: bool
) -> tuple[Tensor, Tensor] | None:
    """Return a point and where it is free, `[B, T·A]`; None if everything is free."""
    with torch.no_grad():
        given = (hessian.detach(), gradient.detach(), low.detach(), high.detach())
        if look:
            movable = given[2] < given[3]
            free, point = movable, torch.zeros_like(gradient).clamp(*given[2:])
            for _ in range(_ROUNDS):
                point, after = _exchanged(*given, point, free)
                after = after & movable  # the others would be freed in vain each time
                if torch.equal(free, after):
                    return None if bool(free.all()) else (point, free)
                free = after
        return active_set(*given, torch.zeros_like(gradient), _ROUNDS)


def _exchanged(
    hessian: Tensor,
    gradient: Tensor,
    low: Tensor,
    high: Tensor,
    point: Tensor,
    free: Tensor,
) -> tuple[Tensor, Tensor]:
    """Solve with some actions free, the others held where they are; choose them anew.

    The primal-dual active set method (Hintermüller, Ito and Kunisch 2002): one solve a
    round, a few rounds as a rule, and the optimum where nothing changes any more. It
    can cycle, which projected Newton cannot.
    """
    held = torch.where(free, 0.0, point)
    wanted = torch.where(free, -gradient - times(held, hessian), held)
    solved, _ = solve_free(hessian, wanted.unsqueeze(-1), free.unsqueeze(-1))
    point = solved.squeeze(-1)
    slope = gradient + times(point, hessian)
    pushed = torch.where(point <= low, slope >= 0, slope <= 0)
    inside = (point >= low) & (point <= high)
    after = torch.where(free, inside, ~pushed)
    return torch.clamp(point, low, high), after
