"""Chain steps by dynamic programming over soft dynamics (the Riccati form).

The normal equations of a collocation step hold w J'J, and a large transition weight w
squares the condition number: in float32 they are useless from w = 1e4. This file never
builds them. It sweeps backwards over costs-to-go of the state increment,
V_{t+1}(x) = x'P x / 2 + p'x, and lets the transition stretch: with the prediction
y = A x + B u - c,

    min over x' of  w |x' - y|^2 / 2 + V(x')  =  y'P~ y / 2 + p~'y + const,
    K = (I + P/w)^{-1},   P~ = K P,   p~ = K p,   x' = K (y - p/w).

K is computed from a Cholesky factor of I + P/w, whose condition does not grow with w
(w -> infinity gives K = I, the hard constraint), and P~ is never written as the
difference w - w^2 (P + wI)^{-1}. What remains is a stage of the linear-quadratic
regulator with its action Hessian factored by Cholesky; a forward sweep recovers the
increments. All of it is O(T (S + A)^3) and accurate to float32 rounding for every w.

Symbols as in `diffplan.functional.chain`; P, p cost-to-go; L the Cholesky factor of
I + P/w; M the one of the action Hessian; V = M^{-1} Q_ux.

References:
    Bertsekas, *Dynamic Programming and Optimal Control*, vol. 1, section 4.1 (the
    regulator's recursion); the soft transition is its information-form measurement
    update. LatCo, the planner it serves: arXiv:2106.13229.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional.chain import (
    ChainRightHandSide,
    ChainSolution,
    ChainSystem,
    solve_chain,
)

@dataclass(frozen=True)
class RiccatiFactor:
    """A factored chain system: solves for any right-hand side.

    Attributes:
        system: The flattened system, with its history.
        tensors: M and the gain Q_uu^{-1} Q_ux of all steps, then P_1 … P_T, then
            L_0 … L_{T-1}, without history.
        flat_ok: Status per element of the flattened batch, `[B]` bool.
        batch_shape: The caller's leading dimensions.
    """

    system: ChainSystem
    tensors: tuple[Tensor, ...]
    flat_ok: Tensor
    batch_shape: torch.Size

    @property
    def ok(self) -> Tensor:
        """Whether the system is positive definite, `[…]` bool."""
        return self.flat_ok.view(self.batch_shape)

    def solve(
        self, states: Tensor, actions: Tensor, defect: Tensor | None = None
    ) -> ChainSolution:
        """Solve (J'WJ + H) (x, u) = (states, actions) - J'W defect.

        The defect has an argument of its own: folded into the other two as J'W c it
        would lose, at large weights, all digits that the Riccati form keeps.

        Args:
            states: Right-hand side of x_1..x_T, `[…, T, S]`.
            actions: Right-hand side of u_0..u_{T-1}, `[…, T, A]`.
            defect: c, `[…, T, S]`; None stands for zero.
        """
        defect = torch.zeros_like(states) if defect is None else defect
        rhs = ChainRightHandSide(defect, states, actions)
        flat = rhs.flattened(len(self.batch_shape), states.dtype)
        solution = solve_chain(_sweep, self.system, self.tensors, self.flat_ok, flat)
        return solution.unflattened(self.batch_shape, states.dtype)


def riccati_factorize(system: ChainSystem) -> RiccatiFactor:
    """Factor a chain system by the backward sweep of dynamic programming.

    Never raises and never looks at a number from the host: an element that is not
    positive definite, or not finite, is reported in `.ok` and solves to zeros.

    Args:
        system: Matrices with any leading batch dimensions.
    """
    flat = system.flattened()
    with torch.no_grad():
        tensors, ok = _backward_sweep(flat.detach())
    return RiccatiFactor(flat, tensors, ok, system.damping.shape)


def riccati_step(system: ChainSystem, rhs: ChainRightHandSide) -> ChainSolution:
    """Factor and solve: the minimiser of the chain's least-squares problem.

    Differentiable to any order in every tensor of both arguments, at the price of one
    more solve per derivative.

    Args:
        system: Matrices of the step.
        rhs: Defects and linear terms.
    """
    return riccati_factorize(system).solve(rhs.states, rhs.actions, rhs.defect)


def _backward_sweep(system: ChainSystem) -> tuple[tuple[Tensor, ...], Tensor]:
    """Costs-to-go, their factors and the gains, from the last step to the first."""
    steps = _steps(system)
    damping = system.damping[:, None]
    end = system.terminal_jacobian
    cost_to_go = _add_to_diagonal(end.mT @ end, damping)
    costs, factors, hessians, feedbacks = ([cost_to_go], [], [], [])
    failures = torch.zeros_like(system.damping, dtype=torch.int32)
    for t in reversed(range(len(steps))):
        step = steps[t]
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
        feedback = torch.linalg.solve_triangular(hessian, cross, upper=False)
        factors.append(factor)
        hessians.append(hessian)
        feedbacks.append(feedback)
        if t > 0:
            cost_to_go = _add_to_diagonal(_cost_to_go(step, soft, feedback), damping)
            costs.append(cost_to_go)
    hessian = torch.stack(hessians[::-1], 1)
    gain = torch.linalg.solve_triangular(
        hessian.mT, torch.stack(feedbacks[::-1], 1), upper=True
    )
    return (hessian, gain, *costs[::-1], *factors[::-1]), failures == 0


class _Step(NamedTuple):
    """What the backward sweep needs of one step."""

    by_state: Tensor
    by_action: Tensor
    weight: Tensor
    stage: Tensor
    curvature: Tensor
    cross: Tensor


def _steps(system: ChainSystem) -> list[_Step]:
    """Everything that needs no cost-to-go, for all steps at once."""
    by_action = system.stage_action_jacobian
    diagonal = system.action_curvature + system.damping[:, None, None]
    curvature = _add_to_diagonal(by_action.mT @ by_action, diagonal)
    fields = (
        system.state_jacobian,
        system.action_jacobian,
        system.transition_weight[..., None, None],
        system.stage_state_jacobian,
        curvature,
        by_action.mT @ system.stage_state_jacobian,
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


def _cost_to_go(step: _Step, soft: Tensor, feedback: Tensor) -> Tensor:
    """A'P~A + G_x'G_x - V'V."""
    moved = torch.bmm(step.by_state.mT, torch.bmm(soft, step.by_state))
    return moved.baddbmm_(
        torch.cat((step.stage, -feedback), 1).mT, torch.cat((step.stage, feedback), 1)
    )


def _add_to_diagonal(matrix: Tensor, value: Tensor | float) -> Tensor:
    """Add to the diagonal of a matrix that nobody else holds, in place."""
    matrix.diagonal(dim1=-2, dim2=-1).add_(value)
    return matrix


def _sweep(
    system: ChainSystem, tensors: tuple[Tensor, ...], rhs: ChainRightHandSide
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward sweep of the linear terms, forward sweep of the increments.

    Vectors are rows `[B, 1, S]`: batched products with columns are ten times slower on
    a CPU.
    """
    horizon = system.state_jacobian.shape[1]
    hessian, gain = tensors[:2]
    costs, factors = tensors[2 : 2 + horizon], tensors[2 + horizon :]
    by_state, by_action = system.state_jacobian.unbind(1), system.action_jacobian.unbind(1)
    gains = gain.unbind(1)
    defects = rhs.defect.split(1, 1)
    states, actions = rhs.states.split(1, 1), rhs.actions.split(1, 1)

    linears, pushes = [-states[-1]], []
    for t in reversed(range(horizon)):
        slope = torch.baddbmm(linears[-1], defects[t], costs[t], alpha=-1.0)
        slope = _stretch(factors[t], slope)
        push = torch.baddbmm(actions[t], slope, by_action[t], beta=-1.0)
        pushes.append(push)
        if t > 0:
            linear = torch.baddbmm(states[t - 1], slope, by_state[t], beta=-1.0)
            linears.append(torch.baddbmm(linear, push, gains[t], alpha=-1.0))
    linear = torch.cat(linears[::-1], 1)
    feedforward = _feedforward(hessian, torch.cat(pushes[::-1], 1))
    offset = -(rhs.defect + linear / system.transition_weight[..., None])
    return _forward_sweep(
        (by_state, by_action, gains, costs, factors),
        (feedforward.split(1, 1), offset.split(1, 1), linear.split(1, 1)),
    )


def _feedforward(hessian: Tensor, push: Tensor) -> Tensor:
    """-Q_uu^{-1} push, for all steps at once."""
    return -torch.cholesky_solve(push.unsqueeze(-1), hessian).squeeze(-1)


def _forward_sweep(
    matrices: tuple[Sequence[Tensor], ...], vectors: tuple[Sequence[Tensor], ...]
) -> tuple[Tensor, Tensor, Tensor]:
    states, actions, costates = [], [], []
    matrix_steps, vector_steps = zip(*matrices, strict=True), zip(*vectors, strict=True)
    for matrix, vector in zip(matrix_steps, vector_steps, strict=True):
        by_state, by_action, gain, cost_to_go, factor = matrix
        action, offset, linear = vector
        target = offset
        if states:
            action = torch.baddbmm(action, states[-1], gain.mT, alpha=-1.0)
            target = torch.baddbmm(target, states[-1], by_state.mT)
        state = _stretch(factor, torch.baddbmm(target, action, by_action.mT))
        states.append(state)
        actions.append(action)
        # w e = w (x' - y) would cancel; the cost-to-go's slope is the same number
        costates.append(torch.baddbmm(linear, state, cost_to_go, beta=-1.0, alpha=-1.0))
    return torch.cat(states, 1), torch.cat(actions, 1), torch.cat(costates, 1)
