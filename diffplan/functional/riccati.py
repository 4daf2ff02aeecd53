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
regulator with the action Hessian factored by Cholesky; a forward sweep recovers the
increments. All of it is O(T (S + A)^3) and accurate to float32 rounding for every w.

Symbols as in `diffplan.functional.chain`; P, p cost-to-go; L the Cholesky factor of
I + P/w; M the one of the action Hessian; V = M^{-1} Q_ux.

References:
    Bertsekas, *Dynamic Programming and Optimal Control*, vol. 1, section 4.1 (the
    regulator's recursion); the soft transition is its information-form measurement
    update. LatCo, the planner it serves: arXiv:2106.13229.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.functional.chain import (
    ChainRightHandSide,
    ChainSolution,
    ChainSystem,
    solve_chain,
)

_PER_STEP = 4


@dataclass(frozen=True)
class RiccatiFactor:
    """A factored chain system: solves for any right-hand side.

    Attributes:
        system: The flattened system, with its history.
        tensors: Per step t: P_{t+1}, L_t, M_t and V_t, without history.
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
    """Costs-to-go and their factors for t = T-1 … 0, in the order of t."""
    horizon = system.state_jacobian.shape[1]
    damping = system.damping[:, None]
    end = system.terminal_jacobian
    cost_to_go = _add_to_diagonal(end.mT @ end, damping)
    failures = torch.zeros_like(system.damping, dtype=torch.int32)
    steps: list[tuple[Tensor, ...]] = []
    for t in reversed(range(horizon)):
        weight = system.transition_weight[:, t, None, None]
        scaled = _add_to_diagonal(cost_to_go / weight, 1.0)
        factor, failed = torch.linalg.cholesky_ex(scaled)
        failures = failures + failed
        if t == 0:
            # the given state cannot move: only the action's part of P~ is needed
            pulled = _stretch(factor, system.action_jacobian[:, 0].mT @ cost_to_go)
            soft = None
        else:
            soft = _stretch(factor, cost_to_go)
            pulled = system.action_jacobian[:, t].mT @ soft
        action_factor, feedback, failed = _factor_action(system, t, pulled)
        failures = failures + failed
        steps.append((cost_to_go, factor, action_factor, feedback))
        if soft is not None:
            cost_to_go = _cost_to_go(system, t, soft, feedback)
    tensors = tuple(tensor for step in reversed(steps) for tensor in step)
    return tensors, failures == 0


def _stretch(factor: Tensor, rows: Tensor) -> Tensor:
    """`rows @ K`, K = (L L')^{-1}.

    Solved from the right, where LAPACK meets rows as they lie in memory: twice as fast
    as the same solve from the left.
    """
    half = torch.linalg.solve_triangular(factor.mT, rows, upper=True, left=False)
    return torch.linalg.solve_triangular(factor, half, upper=False, left=False)


def _factor_action(
    system: ChainSystem, t: int, pulled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factor M of Q_uu, M^{-1} Q_ux and the status, from B'P~."""
    stage = system.stage_action_jacobian[:, t].mT
    hessian = _add_to_diagonal(
        pulled @ system.action_jacobian[:, t] + stage @ stage.mT,
        system.action_curvature[:, t] + system.damping[:, None],
    )
    factor, failed = torch.linalg.cholesky_ex(hessian)
    cross = torch.baddbmm(
        stage @ system.stage_state_jacobian[:, t],
        pulled,
        system.state_jacobian[:, t],
    )
    feedback = torch.linalg.solve_triangular(factor, cross, upper=False)
    return factor, feedback, failed


def _cost_to_go(system: ChainSystem, t: int, soft: Tensor, feedback: Tensor) -> Tensor:
    """P_t = A'P~A + G_x'G_x - V'V + damping."""
    jacobian = system.state_jacobian[:, t]
    stage = system.stage_state_jacobian[:, t]
    moved = jacobian.mT @ (soft @ jacobian)
    moved.baddbmm_(
        torch.cat((stage, -feedback), 1).mT, torch.cat((stage, feedback), 1)
    )
    return _add_to_diagonal(moved, system.damping[:, None])


def _add_to_diagonal(matrix: Tensor, value: Tensor | float) -> Tensor:
    """Add to the diagonal of a matrix that nobody else holds, in place."""
    matrix.diagonal(dim1=-2, dim2=-1).add_(value)
    return matrix


def _sweep(
    system: ChainSystem, factor: tuple[Tensor, ...], rhs: ChainRightHandSide
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward sweep of the linear terms, forward sweep of the increments.

    Vectors are rows `[B, 1, S]`: batched products with columns are ten times slower.
    """
    horizon = system.state_jacobian.shape[1]
    steps = [factor[_PER_STEP * t : _PER_STEP * (t + 1)] for t in range(horizon)]
    linear = -rhs.states[:, -1:]
    linears: list[Tensor] = [linear] * horizon
    pushes: list[Tensor] = [linear] * horizon
    for t in reversed(range(horizon)):
        cost_to_go, stretch, action_factor, feedback = steps[t]
        linears[t] = linear
        gradient = _stretch(stretch, linear - rhs.defect[:, t : t + 1] @ cost_to_go)
        push = torch.linalg.solve_triangular(
            action_factor.mT,
            gradient @ system.action_jacobian[:, t] - rhs.actions[:, t : t + 1],
            upper=True,
            left=False,
        )
        pushes[t] = push
        if t > 0:
            linear = (
                gradient @ system.state_jacobian[:, t]
                - rhs.states[:, t - 1 : t]
                - push @ feedback
            )
    return _forward_sweep(system, steps, rhs.defect, linears, pushes)


def _forward_sweep(
    system: ChainSystem,
    steps: list[tuple[Tensor, ...]],
    defect: Tensor,
    linears: list[Tensor],
    pushes: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    states: list[Tensor] = []
    actions: list[Tensor] = []
    costates: list[Tensor] = []
    for t, (cost_to_go, stretch, action_factor, feedback) in enumerate(steps):
        push = pushes[t] + states[-1] @ feedback.mT if states else pushes[t]
        action = -torch.linalg.solve_triangular(
            action_factor, push, upper=False, left=False
        )
        predicted = action @ system.action_jacobian[:, t].mT - defect[:, t : t + 1]
        if states:
            predicted = predicted + states[-1] @ system.state_jacobian[:, t].mT
        weight = system.transition_weight[:, t, None, None]
        state = _stretch(stretch, predicted - linears[t] / weight)
        states.append(state)
        actions.append(action)
        # w e = w (x' - y) would cancel; the cost-to-go's slope is the same number
        costates.append(-(state @ cost_to_go + linears[t]))
    return torch.cat(states, 1), torch.cat(actions, 1), torch.cat(costates, 1)
