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

from diffplan.functional._box_qp import (
    active_set,
    factor_free,
    is_free,
    solve_free,
    solve_with,
)
from diffplan.functional._chain import flatten_batch, zero_unless
from diffplan.functional._derivatives import is_followed
from diffplan.functional._lqr_kkt import Vectors
from diffplan.functional.box_lqr import IncrementalLQR

_ROUNDS = 8
"""Newton steps of the quadratic program; where it needs more, a step is not exact, and
the next iteration goes on from there."""


_FEW = 24
"""Largest T · A for which this is no slower than a sweep at batch 64 on a CPU, where
each element has matrices of its own for each step."""

_FEW_OF_AFFINE = 160
"""The same for affine dynamics, whose first program is the whole problem."""


def is_short(count: int, *, affine: bool) -> bool:
    """Return whether so many actions, T · A, are better off without the states.

    Args:
        count: Of one problem: what a batch would gain must not change its plans.
        affine: Whether the dynamics say that they are affine.
    """
    return count <= (_FEW_OF_AFFINE if affine else _FEW)


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


class _Program(NamedTuple):
    """A quadratic program in a box: Hessian `[B, n, n]`, and rows `[B, 1, n]`."""

    hessian: Tensor
    gradient: Tensor
    low: Tensor
    high: Tensor


class _Point(NamedTuple):
    """Where some actions are held.

    Attributes:
        moves: Inside the limits, `[B, 1, n]`.
        free: Which of them no limit holds, `[B, 1, n]` bool.
        ok: Whether the Hessian is positive definite in the free ones, `[B]` bool.
    """

    moves: Tensor
    free: Tensor
    ok: Tensor


class Condensed(NamedTuple):
    """A linear-quadratic problem without its states; n = T·A columns, one per action.

    Attributes:
        hessian: Of the cost by all actions, `[B, n, n]`.
        states: How x_1 … x_T answer to an action, `[B, T, S, n]`.
        costates: How the costates λ_0 … λ_T answer, `[B, T+1, S, n]`.
    """

    hessian: Tensor
    states: Tensor
    costates: Tensor

    def slope(self, vectors: Vectors) -> Tensor:
        """Return the derivative of the cost by the actions at zero, `[B, n, 1]`.

        Args:
            vectors: Linear costs, offsets and the given state, of any size.
        """
        q, r, offset, start = vectors
        inflow = torch.cat((start.unsqueeze(1), offset), 1)
        by_state = _column(q[:, 1:]).mT @ self.states.flatten(1, 2)
        by_offset = _column(inflow).mT @ self.costates.flatten(1, 2)
        return _column(r) + (by_state + by_offset).mT


def condensed_step(
    problem: IncrementalLQR,
    low: Tensor,
    high: Tensor,
    damping: Tensor,
    *,
    slope: Tensor | None = None,
    look: bool = False,
) -> CondensedStep:
    """Minimise a linear-quadratic problem over actions in a box.

    Differentiable to any order; which actions are held is piecewise constant.

    Args:
        problem: With the leading dimensions of `damping`.
        low: Lower bounds of the increments, at most zero, `[…, T, A]`.
        high: Upper bounds, at least zero, `[…, T, A]`.
        damping: Twice the weight of ‖du‖² in the cost of a step, `[…]`.
        slope: Derivative of the cost by the actions, `[…, T, A]`, where it is known.
        look: Whether numbers may be looked at from the host, to stop when the held
            actions are known.
    """
    batch, lead, shape = damping.shape, damping.dim(), low.shape
    if slope is None:
        slope = problem.slope(problem.costates())
    problem = IncrementalLQR(*(flatten_batch(part, lead) for part in problem))
    low, high, gradient = (
        flatten_batch(row, lead).flatten(1).unsqueeze(1) for row in (low, high, slope)
    )
    amount = flatten_batch(damping, lead)[:, None].expand(-1, low.shape[-1])
    hessian = condensed(problem).hessian + torch.diag_embed(amount)
    program = _Program(hessian, gradient, low, high)
    with torch.no_grad():
        found, solved = _free(_Program(*(part.detach() for part in program)), look=look)
    moves, ok = found.moves, found.ok
    if not solved or is_followed(*program):
        moves, ok = _solved(program, found)
    change = moves.detach()
    sloped = torch.baddbmm(gradient.detach(), change, hessian.detach(), alpha=0.5)
    decrease = -(change * sloped).sum((1, 2))
    ok = ok & torch.isfinite(decrease)
    moves = zero_unless(ok, moves).reshape(shape)
    return CondensedStep(
        moves, zero_unless(ok, decrease).reshape(batch), ok.reshape(batch)
    )


def condensed(problem: IncrementalLQR) -> Condensed:
    """Eliminate the states, by two recursions: there and, for the costates, back.

    T products of S rows each; X'Q X itself would take T² of them.

    Args:
        problem: With one leading dimension; matrices that are one for all elements,
            expanded, are eliminated once.
    """
    by_action, by_state, form = problem[:3]
    end, count = problem.end_hessian, len(by_action)
    if all(part.stride(0) == 0 for part in (by_action, by_state, form, end)):
        by_action, by_state, form, end = (
            part[:1] for part in (by_action, by_state, form, end)
        )
    size, width = by_action.shape[2:]
    of_action, of_state = form.split_with_sizes((width, size), 2)
    cross = of_action[..., width:]
    # What each action does at its own step: to the state after, the costate, its slope
    own = torch.cat((by_action, cross.mT, of_action[..., :width]), 2)
    own = torch.diag_embed(own.permute(0, 2, 3, 1), dim1=1, dim2=3).flatten(3)
    enters, pushes, bends = own.split_with_sizes((size, size, width), 2)
    states = [torch.zeros_like(enters[:, 0])]
    for entering, matrix in zip(enters.unbind(1), by_state.unbind(1), strict=True):
        states.append(torch.baddbmm(entering, matrix, states[-1]))
    state = torch.stack(states, 1)
    inflow = pushes + of_state[..., width:] @ state[:, :-1]
    costates = [end @ states[-1]]
    backwards = zip(inflow.unbind(1)[::-1], by_state.mT.unbind(1)[::-1], strict=True)
    for row, matrix in backwards:
        costates.append(torch.baddbmm(row, matrix, costates[-1]))
    costate = torch.stack(costates[::-1], 1)
    hessian = bends + by_action.mT @ costate[:, 1:] + cross @ state[:, :-1]
    found = Condensed(hessian.flatten(1, 2), state[:, 1:], costate)
    return Condensed(*(part.expand(count, *part.shape[1:]) for part in found))


class CondensedFactor:
    """A problem without its states, to solve with several right-hand sides.

    Args:
        problem: The problem, without history.
        free: Which actions may move, `[B, T·A]` bool.
    """

    def __init__(self, problem: IncrementalLQR, free: Tensor) -> None:
        self.problem, self.free = condensed(problem), free.unsqueeze(-1)
        self.factor = factor_free(self.problem.hessian, self.free)

    def inverse(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Return H⁻¹ rhs `[B, T·A, 1]` in the free actions, rhs in the others.

        And where that exists, `[B]` bool; it is zero elsewhere.
        """
        root, ok = self.factor
        found = solve_with(self.problem.hessian, rhs, self.free, ok, root)
        return found, ok & torch.isfinite(found.detach().sum((1, 2)))

    def solve(self, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Return the best actions `[B, T, A]`, and where there are such, `[B]` bool.

        Differentiable in the vectors. Actions that are not free are minus their linear
        cost.

        Args:
            vectors: Linear costs, offsets and the given state.
        """
        linear = vectors.action_linear
        slope = torch.where(self.free, self.problem.slope(vectors), _column(linear))
        found, ok = self.inverse(-slope)
        return zero_unless(ok, found).reshape(linear.shape), ok


def _column(vectors: Tensor) -> Tensor:
    """Return `[B, T, A]` as columns `[B, T·A, 1]`."""
    return vectors.flatten(1).unsqueeze(-1)


def _free(program: _Program, *, look: bool) -> tuple[_Point, bool]:
    """Return a point with the actions that are free at the minimum, and if it is it."""
    gradient, low, high = program[1:]
    nowhere = torch.zeros_like(gradient)
    start = is_free(nowhere, gradient, low, high)
    now = found = _Point(nowhere, start, start[:, 0, 0])
    rows, given, movable = None, program, low < high
    for _ in range(_ROUNDS if look else 0):
        after = _exchanged(given, now)
        # the others would be freed in vain each time
        after = after._replace(free=after.free & movable)
        found = after if rows is None else _put(found, rows, after)
        changed = (after.free != now.free).flatten(1).any(1)
        if not bool(changed.any()):
            return found, True
        now = after
        if len(changed) > 1 and not bool(changed.all()):  # the others are done
            kept = changed.nonzero().squeeze(1)
            rows = kept if rows is None else rows[kept]
            given, now = _Program(*(p[kept] for p in given)), _picked(now, kept)
            movable = movable[kept]
    slope, least, most = (part.squeeze(1) for part in given[1:])
    begin = torch.zeros_like(slope)
    moves, free = active_set(given.hessian, slope, least, most, begin, _ROUNDS)
    after = _Point(moves.unsqueeze(1), free.unsqueeze(1), now.ok)
    return after if rows is None else _put(found, rows, after), False


def _picked(point: _Point, rows: Tensor) -> _Point:
    return _Point(*(part[rows] for part in point))


def _put(point: _Point, rows: Tensor, new: _Point) -> _Point:
    pairs = zip(point, new, strict=True)
    return _Point(*(old.index_copy(0, rows, part) for old, part in pairs))


def _exchanged(program: _Program, now: _Point) -> _Point:
    """Solve with some actions free, the others held where they are; choose them anew.

    The primal-dual active set method (Hintermüller, Ito and Kunisch 2002): one solve a
    round, a few rounds as a rule, and the optimum where nothing changes any more. It
    can cycle, which projected Newton cannot.
    """
    hessian, gradient, low, high = program
    held = torch.where(now.free, 0.0, now.moves)
    moves, ok = _solved_for(hessian, gradient, held, now.free)
    slope = torch.baddbmm(gradient, moves, hessian)
    inside = torch.clamp(moves, low, high)
    pushed = torch.where(moves <= low, slope >= 0, slope <= 0)
    return _Point(inside, torch.where(now.free, inside == moves, ~pushed), ok)


def _solved(program: _Program, found: _Point) -> tuple[Tensor, Tensor]:
    """Return the moves with the graph of everything, and where there are such."""
    hessian, gradient, low, high = program
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
