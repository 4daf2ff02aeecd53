"""Chain steps by dynamic programming over soft dynamics (the Riccati form).

The normal equations of a collocation step hold w J'J, and a large transition weight w
squares the condition number: in float32 they are useless from w = 1e4. This file never
builds them. It sweeps backwards over costs-to-go of the state increment,
V_{t+1}(x) = x'P x / 2 + p'x, and lets the transition stretch: with the prediction
y = A x + B u - c::

    min over x' of  w |x' - y|^2 / 2 + V(x')  =  y'P~ y / 2 + p~'y + const,
    K = (I + P/w)^{-1},   P~ = K P,   p~ = K p,   x' = K (y - p/w).

K is computed from a Cholesky factor of I + P/w, whose condition does not grow with w
(w -> infinity gives K = I, the hard constraint), and P~ is never written as the
difference w - w^2 (P + wI)^{-1}. What remains is a stage of the linear-quadratic
regulator with its action Hessian factored by Cholesky; a forward sweep recovers the
increments. All of it is O(T (S + A)^3). One correction by the residual, evaluated in
the symmetric form with costates, makes it accurate to float32 rounding, however
large w is. P holds squares of stage Jacobians: float32 loses digits where these exceed
both w and the damping a thousandfold.

Symbols as in `diffplan.functional._chain`; P, p cost-to-go; L the Cholesky factor of
I + P/w; M the one of the action Hessian Q_uu; gain Q_uu^{-1} Q_ux, so that the step's
action is u = k - gain x; F = A - B gain the closed loop (not kept: memory traffic is
what a sweep of vectors costs, and A and B are there anyway).

References:
    Bertsekas, *Dynamic Programming and Optimal Control*, vol. 1, section 4.1 (the
    regulator's recursion); the soft transition is its information-form measurement
    update. LatCo, the planner it serves: arXiv:2106.13229.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan._checks import require_count
from diffplan.functional._chain import (
    ChainRightHandSide,
    ChainSystem,
    chain_residual,
    times,
    with_given_state,
)
from diffplan.functional._chain_factor import ChainFactor
from diffplan.functional._derivatives import inside_transform
from diffplan.functional._safe_math import cholesky_solve


def riccati_factorize(system: ChainSystem, *, refinements: int = 1) -> ChainFactor:
    """Factor a chain system by the backward sweep of dynamic programming.

    Never raises and never looks at a number from the host: an element that is not
    positive definite, or not finite, is reported in `.ok` and solves to zeros.

    Args:
        system: Matrices with any leading batch dimensions.
        refinements: How often a solution is corrected by its own residual, at the cost
            of one more solve each. Where the damping is small against the costs, the
            sweep alone leaves up to 4e-5 in float32; one correction brings that to
            1e-6, a second one gains nothing.
    """
    refinements = require_count("refinements", refinements, 0)
    flat = system.flattened()
    with torch.no_grad():
        tensors, ok = _backward_sweep(flat.detach())
    solve = partial(_refined_sweep, refinements)
    return ChainFactor(solve, flat, tensors, ok, system.damping.shape)


def _backward_sweep(system: ChainSystem) -> tuple[tuple[Tensor, ...], Tensor]:
    """Costs-to-go, their factors and the gains, from the last step to the first."""
    steps = _steps(system)
    damping = system.damping[:, None]
    end = system.terminal_jacobian
    costs, factors = _workspace(system)
    cost_to_go = _add_to_diagonal(end.mT @ end, damping)
    hessians, gains = [], []
    failures = torch.zeros_like(system.damping, dtype=torch.int32)
    for t in reversed(range(len(steps))):
        step = steps[t]
        costs[t].copy_(cost_to_go)
        scaled = _add_to_diagonal(cost_to_go / step.weight, 1.0)
        factor, failed = torch.linalg.cholesky_ex(scaled)
        failures = failures + failed
        # the given state cannot move: at t = 0 only the action's part of P~ is needed
        soft = _stretch(factor, cost_to_go if t > 0 else step.by_action.mT @ cost_to_go)
        pulled = torch.bmm(step.by_action.mT, soft) if t > 0 else soft
        hessian, failed = torch.linalg.cholesky_ex(
            torch.baddbmm(step.curvature, pulled, step.by_action)
        )
        failures = failures + failed
        cross = torch.baddbmm(step.cross, pulled, step.by_state)
        gain = cholesky_solve(cross, hessian)
        factors[t].copy_(factor)
        hessians.append(hessian)
        gains.append(gain)
        if t > 0:
            cost_to_go = _add_to_diagonal(_cost_to_go(step, soft, gain), damping)
    hessian, gain = torch.stack(hessians[::-1], 1), torch.stack(gains[::-1], 1)
    # infinity passes every pivot test, but not unseen through all gains
    finite = torch.isfinite(hessian.sum((1, 2, 3)) + gain.sum((1, 2, 3)))
    return (hessian, gain, costs, factors), (failures == 0) & finite


def _workspace(system: ChainSystem) -> Tensor:
    """Room for all P and L, `[2, T, B, S, S]`, in one allocation.

    2T matrices of their own would be handed back to the operating system after each
    solve; at 230 states the page faults of the next one were a tenth of its time.
    """
    _, horizon, size, _ = system.state_jacobian.shape
    return system.seed().new_empty(2, horizon, len(system.damping), size, size)


class _Step(NamedTuple):
    """What the backward sweep needs of one step."""

    by_state: Tensor
    by_action: Tensor
    weight: Tensor
    stage_state: Tensor
    stage_action: Tensor
    cross: Tensor
    curvature: Tensor
    diagonal: Tensor


def _steps(system: ChainSystem) -> list[_Step]:
    """Everything that needs no cost-to-go, for all steps at once."""
    stage_action = system.stage_action_jacobian
    diagonal = system.action_curvature + system.damping[:, None, None]
    fields = _Step(
        by_state=system.state_jacobian,
        by_action=system.action_jacobian,
        weight=system.transition_weight[..., None, None],
        stage_state=system.stage_state_jacobian,
        stage_action=stage_action,
        cross=stage_action.mT @ system.stage_state_jacobian,
        curvature=_add_to_diagonal(stage_action.mT @ stage_action, diagonal),
        diagonal=diagonal[..., None],
    )
    return [
        _Step(*step)
        for step in zip(*(field.unbind(1) for field in fields), strict=True)
    ]


def _stretch(factor: Tensor, rows: Tensor) -> Tensor:
    """`rows @ K`, K = (L L')^{-1}.

    Solved from the right, where LAPACK meets rows as they lie in memory: twice as fast
    as the same solve from the left.
    """
    half = torch.linalg.solve_triangular(factor.mT, rows, upper=True, left=False)
    return torch.linalg.solve_triangular(factor, half, upper=False, left=False)


def _cost_to_go(step: _Step, soft: Tensor, gain: Tensor) -> Tensor:
    """P_t = F'P~F + k'R k + G'G, with the gain k and G = G_x - G_u k.

    Joseph's form: a sum of squares, where A'P~A - Q_ux' Q_uu^{-1} Q_ux would cancel.
    """
    moved = torch.baddbmm(step.by_state, step.by_action, gain, alpha=-1.0)
    stage = torch.baddbmm(step.stage_state, step.stage_action, gain, alpha=-1.0)
    rest = torch.cat((stage, gain), 1).mT @ torch.cat((stage, step.diagonal * gain), 1)
    return torch.baddbmm(rest, moved.mT, torch.bmm(soft, moved))


def _add_to_diagonal(matrix: Tensor, value: Tensor | float) -> Tensor:
    """Add to the diagonal of a matrix that nobody else holds, in place if it may be."""
    if inside_transform():  # vmap may map over the value alone
        diagonal = torch.zeros_like(matrix.diagonal(dim1=-2, dim2=-1)) + value
        return matrix + torch.diag_embed(diagonal)
    matrix.diagonal(dim1=-2, dim2=-1).add_(value)
    return matrix


def _refined_sweep(
    refinements: int,
    system: ChainSystem,
    tensors: tuple[Tensor, ...],
    rhs: ChainRightHandSide,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve, then solve for what is left."""
    solution = _sweep(system, tensors, rhs)
    for _ in range(refinements):
        residual = chain_residual(system, rhs, solution)
        states, actions, costates = _sweep(system, tensors, residual)
        solution = (
            solution[0] + states,
            solution[1] + actions,
            solution[2] + costates,
        )
    return solution


def _sweep(
    system: ChainSystem, tensors: tuple[Tensor, ...], rhs: ChainRightHandSide
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward sweep of the linear terms, forward sweep of the increments.

    Only what runs from step to step is in the two loops. Vectors are rows `[B, 1, S]`:
    batched products with columns are ten times slower on a CPU.
    """
    horizon = system.state_jacobian.shape[1]
    hessian, gain, costs, factors = tensors
    loops = _ClosedLoop.of_steps(system, gain)
    linear, slope = _backward_vectors(loops, gain, costs, factors, rhs)
    push = times(slope, system.action_jacobian) - rhs.actions
    feedforward = -cholesky_solve(push.unsqueeze(-1), hessian).squeeze(-1)
    offset = times(feedforward, system.action_jacobian.mT) - rhs.defect
    offset = offset - linear / system.transition_weight[..., None]

    states: list[Tensor] = []
    costates: list[Tensor] = []
    offsets, linears = offset.split(1, 1), linear.split(1, 1)
    for t in range(horizon):
        target = offsets[t]
        if t > 0:
            target = loops[t].forward(states[-1], target)
        states.append(_stretch(factors[t], target))
        # w e = w (x' - y) would cancel; the cost-to-go's slope is the same number
        costates.append(
            torch.baddbmm(linears[t], states[-1], costs[t], beta=-1.0, alpha=-1.0)
        )
    moved = torch.cat(states, 1)
    actions = feedforward - times(with_given_state(moved)[:, :-1], gain.mT)
    return moved, actions, torch.cat(costates, 1)


class _ClosedLoop(NamedTuple):
    """F = A - B gain of one step, applied to rows without being formed."""

    by_state: Tensor
    by_action: Tensor
    gain: Tensor

    @classmethod
    def of_steps(cls, system: ChainSystem, gain: Tensor) -> "list[_ClosedLoop]":
        fields = (system.state_jacobian, system.action_jacobian, gain)
        return [
            cls(*step)
            for step in zip(*(field.unbind(1) for field in fields), strict=True)
        ]

    def forward(self, row: Tensor, offset: Tensor) -> Tensor:
        """`offset + row F'`."""
        free = torch.baddbmm(offset, row, self.by_state.mT)
        action = torch.bmm(row, self.gain.mT)
        return torch.baddbmm(free, action, self.by_action.mT, alpha=-1.0)

    def backward(self, row: Tensor, offset: Tensor) -> Tensor:
        """`row F - offset`."""
        free = torch.baddbmm(offset, row, self.by_state, beta=-1.0)
        action = torch.bmm(row, self.by_action)
        return torch.baddbmm(free, action, self.gain, alpha=-1.0)


def _backward_vectors(
    loops: list[_ClosedLoop],
    gain: Tensor,
    costs: Tensor,
    factors: Tensor,
    rhs: ChainRightHandSide,
) -> tuple[Tensor, Tensor]:
    """p_1 … p_T, and the slopes p~_t - P~_t c_t that the predictions meet."""
    horizon = len(costs)
    # b of the state before each step, as the gain passes the action's part on
    passed = rhs.states[:, :-1] - times(rhs.actions[:, 1:], gain[:, 1:])
    inflow, defects = passed.split(1, 1), rhs.defect.split(1, 1)
    linears, slopes = [-rhs.states[:, -1:]], []
    for t in reversed(range(horizon)):
        slope = torch.baddbmm(linears[-1], defects[t], costs[t], alpha=-1.0)
        slopes.append(_stretch(factors[t], slope))
        if t > 0:
            linears.append(loops[t].backward(slopes[-1], inflow[t - 1]))
    return torch.cat(linears[::-1], 1), torch.cat(slopes[::-1], 1)
