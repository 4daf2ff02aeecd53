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

from diffplan.functional._box_qp import active_set, solve_free
from diffplan.functional._chain import flatten_batch, zero_unless
from diffplan.functional._derivatives import is_followed
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


class _Point(NamedTuple):
    """Where some actions are held; rows `[B, 1, T·A]`.

    Attributes:
        moves: Inside the limits.
        free: Which of them no limit holds.
        ok: Whether the Hessian is positive definite in the free ones, `[B]` bool.
        solved: Whether the moves are known to be the minimum.
    """

    moves: Tensor
    free: Tensor
    ok: Tensor | None = None
    solved: bool = False


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
    low, high = (
        flatten_batch(part, lead).flatten(1).unsqueeze(1) for part in (low, high)
    )
    hessian, gradient = condensed(problem)
    amount = flatten_batch(damping, lead)[:, None].expand(-1, low.shape[-1])
    hessian = hessian + torch.diag_embed(amount)
    with torch.no_grad():
        found = _free(hessian, gradient, low, high, look=look)
    moves, ok = found.moves, found.ok
    if ok is None or not found.solved or is_followed(hessian, gradient, low, high):
        moves, ok = _solved(hessian, gradient, low, high, found)
    change = moves.detach()
    sloped = torch.baddbmm(gradient.detach(), change, hessian.detach(), alpha=0.5)
    decrease = -(change * sloped).sum((1, 2))
    ok = ok & torch.isfinite(decrease)
    moves = zero_unless(ok, moves).reshape(shape)
    return CondensedStep(
        moves, zero_unless(ok, decrease).reshape(batch), ok.reshape(batch)
    )


def condensed(problem: IncrementalLQR) -> tuple[Tensor, Tensor]:
    """Return Hessian `[B, T·A, T·A]` and gradient `[B, 1, T·A]` of the cost by actions.

    Columns answer to one action each, from the first step to the last by the states X,
    and back by their costates W; the last column of W is that of the gradient. That
    costs T products where X'Q X would cost T².

    Args:
        problem: With one leading dimension.
    """
    by_action, by_state = problem.action_jacobian, problem.state_jacobian
    size, width = by_action.shape[2:]
    of_action, of_state = problem.hessian.split_with_sizes((width, size), 2)
    cross = of_action[..., width:]
    # What each action does at its own step: to the state after, the costate, its slope
    own = torch.cat((by_action, cross.mT, of_action[..., :width]), 2)
    own = torch.diag_embed(own.permute(0, 2, 3, 1), dim1=1, dim2=3).flatten(3)
    enters, pushes, bends = own.split_with_sizes((size, size, width), 2)
    state, before = enters[:, 0], []
    for entering, matrix in zip(
        enters.unbind(1)[1:], by_state.unbind(1)[1:], strict=True
    ):
        before.append(state)
        state = torch.baddbmm(entering, matrix, state)
    states = torch.stack((torch.zeros_like(state), *before), 1)
    inflow = torch.cat(
        (
            pushes + of_state[..., width:] @ states,
            problem.gradient[..., width:].unsqueeze(-1),
        ),
        -1,
    )
    end = problem.end_hessian @ state
    costate = torch.cat((end, problem.end_gradient.unsqueeze(-1)), -1)
    costates = [costate]
    backwards = zip(inflow.unbind(1)[:0:-1], by_state.mT.unbind(1)[:0:-1], strict=True)
    for row, matrix in backwards:
        costates.append(torch.baddbmm(row, matrix, costates[-1]))
    both = by_action.mT @ torch.stack(costates[::-1], 1)
    hessian = both[..., :-1] + bends + cross @ states
    gradient = both[..., -1] + problem.gradient[..., :width]
    return hessian.flatten(1, 2), gradient.flatten(1).unsqueeze(1)


def _free(
    hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, *, look: bool
) -> _Point:
    """Find which actions are free at the minimum."""
    given = (hessian.detach(), gradient.detach(), low.detach(), high.detach())
    nowhere = torch.zeros_like(gradient)
    if look:
        movable = given[2] < given[3]
        found = _Point(nowhere.clamp(*given[2:]), movable)
        for _ in range(_ROUNDS):
            after = _exchanged(*given, found)
            # the others would be freed in vain each time
            after = after._replace(free=after.free & movable)
            if torch.equal(found.free, after.free):
                return after._replace(solved=True)
            found = after
    rows = [row.squeeze(1) for row in (*given[1:], nowhere)]
    moves, free = active_set(given[0], rows[0], rows[1], rows[2], rows[3], _ROUNDS)
    return _Point(moves.unsqueeze(1), free.unsqueeze(1))


def _exchanged(
    hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, now: _Point
) -> _Point:
    """Solve with some actions free, the others held where they are; choose them anew.

    The primal-dual active set method (Hintermüller, Ito and Kunisch 2002): one solve a
    round, a few rounds as a rule, and the optimum where nothing changes any more. It
    can cycle, which projected Newton cannot.
    """
    free = now.free
    held = torch.where(free, 0.0, now.moves)
    moves, ok = _solved_for(hessian, gradient, held, free)
    slope = torch.baddbmm(gradient, moves, hessian)
    inside = torch.clamp(moves, low, high)
    pushed = torch.where(moves <= low, slope >= 0, slope <= 0)
    return _Point(inside, torch.where(free, inside == moves, ~pushed), ok)


def _solved(
    hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, found: _Point
) -> tuple[Tensor, Tensor]:
    """Return the moves with the graph of everything, and where there are such."""
    # All that is held is at one of its limits, which may be the same.
    held = torch.where(found.moves <= low, low, high)
    held = torch.where(found.free, 0.0, held)
    moves, ok = _solved_for(hessian, gradient, held, found.free)
    # Rounding may carry a free action over its limit, and so may rounds that ran out.
    return moves.clamp(low, high), ok


def _solved_for(
    hessian: Tensor, gradient: Tensor, held: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve for the free actions; `held` are the others, with zero in their place."""
    wanted = -torch.baddbmm(gradient, held, hessian)
    wanted = torch.where(free, wanted, held)
    found, ok = solve_free(hessian, wanted.mT, free.mT)
    return found.mT, ok
