"""The regulator with limited actions: one sweep of control-limited dynamic programming.

About a trajectory, the linear-quadratic problem of the increments du, dx is swept from
the last step to the first. Where an action would leave its box the law of that step is
the solution of a small quadratic program: held actions go to their bound and do not
answer to the state, the others do the best they can, and the cost-to-go of the steps
before knows it::

    du_t = k_t + K_t dx_t,     low ≤ k_t ≤ high.

Everything is written for z = (du, dx, 1): with the constant one among the variables, a
single recursion of matrices carries the linear terms too, and solves for all columns of
the law at once. For matrices as small as these the number of operations is what counts.

A law that is zero everywhere is optimal within the bounds. Otherwise it is the optimum
of each step given those after it, which is not quite the one of all steps together:
iterated, it gets there, usually in as many sweeps as it takes to find the held actions.

Symbols: F dynamics, from z to (dx', 1); C cost ½ z'C z; V cost-to-go of (dx, 1);
Q = C + F'V F; law = (K, k).

References:
    Tassa, Mansard and Todorov 2014, "Control-limited differential dynamic programming"
    (ICRA), section III.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffplan.functional.box_qp import active_set, factor_free, solve_held
from diffplan.functional.chain import flatten_batch, zero_unless
from diffplan.functional.lqr import LQRProblem


SEARCH=False


class ExtendedLQR(NamedTuple):
    """A linear-quadratic problem of z = (action, state, 1), n = A + S + 1 numbers.

    Attributes:
        dynamics: F_t, `[…, T, S+1, n]`; its last row is (0, 0, 1).
        costs: C_t, symmetric, `[…, T, n, n]`.
        end: The cost of (x_T, 1), symmetric, `[…, S+1, S+1]`.
    """

    dynamics: Tensor
    costs: Tensor
    end: Tensor

    def unpacked(self) -> LQRProblem:
        """The same problem in the form that `lqr` solves, with x_0 = 0."""
        size = self.end.shape[-1] - 1
        width = self.costs.shape[-1] - size - 1
        by_action, by_state, offset = self.dynamics[..., :size, :].split(
            (width, size, 1), -1
        )
        rows = self.costs.split((width, size, 1), -2)
        curvature, _, action_linear = rows[0].split((width, size, 1), -1)
        cross, state_cost, state_linear = rows[1].split((width, size, 1), -1)
        end = self.end[..., :size, :].unsqueeze(-3)
        return LQRProblem(
            state_cost=torch.cat((state_cost, end[..., :size]), -3),
            action_cost=curvature,
            cross_cost=cross.mT,
            state_linear=torch.cat((state_linear, end[..., size:]), -3).squeeze(-1),
            action_linear=action_linear.squeeze(-1),
            state_jacobian=by_state,
            action_jacobian=by_action,
            offset=offset.squeeze(-1),
            initial_state=torch.zeros_like(self.end[..., :size, 0]),
        )


class LimitedLaw(NamedTuple):
    """The affine law of each step, zero for an element that failed.

    Attributes:
        feedforward: k_t, `[…, T, A]`.
        gains: K_t, `[…, T, A, S]`; rows of held actions are zero.
        slope: Q_u, the derivative of the cost-to-go by the action, `[…, T, A]`. Where
            all k_t are zero it is the derivative of the whole cost.
        ok: Whether every damped Q_uu is positive definite in the free actions, and all
            is finite, `[…]` bool.
    """

    feedforward: Tensor
    gains: Tensor
    slope: Tensor
    ok: Tensor


def extend_dynamics(by_action: Tensor, by_state: Tensor) -> Tensor:
    """Return F `[…, S+1, n]` of linear dynamics with Jacobians B and A.

    Args:
        by_action: B, `[…, S, A]`.
        by_state: A, `[…, S, S]`.
    """
    top = torch.cat((by_action, by_state, torch.zeros_like(by_state[..., :1])), -1)
    row = torch.zeros_like(top[..., :1, :])
    row[..., -1] = 1.0
    return torch.cat((top, row), -2)


def limited_sweep(
    problem: ExtendedLQR,
    low: Tensor,
    high: Tensor,
    damping: Tensor,
    *,
    qp_iterations: int = 1,
) -> LimitedLaw:
    """Sweep backwards over a linear-quadratic problem with limited actions.

    Differentiable to any order; which actions are held is piecewise constant.

    Args:
        problem: In increments, with the leading dimensions of `damping`.
        low: Lower bounds of the increments, at most zero, `[…, T, A]`.
        high: Upper bounds, at least zero, `[…, T, A]`.
        damping: Twice the weight of |du|² in the cost of a step, `[…]`.
        qp_iterations: Newton steps of the quadratic program of each time step, at least
            1, for two actions and more. Too few are not wrong: the law stays inside the
            bounds, and where nothing is left to improve it is zero all the same.
    """
    batch, lead = damping.shape, damping.dim()
    tensors = (problem.dynamics, problem.costs, low, high)
    dynamics, costs, low, high = (flatten_batch(tensor, lead) for tensor in tensors)
    value = flatten_batch(problem.end, lead)
    width, size = low.shape[-1], value.shape[-1]
    amount = flatten_batch(damping, lead)[:, None].expand_as(low[:, 0])
    diagonal = torch.diag_embed(amount)
    tracked = any(part.requires_grad for part in (*problem, low, high, damping))
    tracked = tracked and torch.is_grad_enabled()
    inputs = (dynamics.mT, dynamics, costs, low, high, low < 0, high > 0)
    stages = zip(*(reversed(tensor.unbind(1)) for tensor in inputs), strict=True)
    laws, slopes, failures = [], [], []
    for back, step, cost, *bounds in stages:
        hessian = torch.baddbmm(cost, torch.bmm(back, value), step)
        action_rows, state_rows = hessian.split((width, size), 1)
        curvature, linear = action_rows.split((width, size), 2)
        curvature = curvature + diagonal
        law, failed = _law(curvature, linear, *bounds, qp_iterations, tracked)
        value = _cost_to_go(state_rows[:, :, width:], linear, curvature, law)
        laws.append(law)
        slopes.append(linear[:, :, -1])
        failures.append(failed)
    law, slope = torch.stack(laws[::-1], 1), torch.stack(slopes[::-1], 1)
    finite = torch.isfinite(law.sum((1, 2, 3)) + slope.sum((1, 2)))
    ok = finite & ~torch.stack(failures).any(0)
    law = zero_unless(ok, law)
    found = (law[..., -1], law[..., :-1], zero_unless(ok, slope), ok)
    return LimitedLaw(*(part.reshape(*batch, *part.shape[1:]) for part in found))


def limited_rollout(
    problem: ExtendedLQR, law: LimitedLaw, low: Tensor, high: Tensor
) -> Tensor:
    """Return the increments of the actions that a law gives in its linear model.

    Args:
        problem: The one that was swept.
        law: What the sweep gave.
        low: Lower bounds of the increments, `[…, T, A]`.
        high: Upper bounds.

    Returns:
        Inside the bounds, `[…, T, A]`.
    """
    batch, lead = law.ok.shape, law.ok.dim()
    rows = torch.cat((law.gains, law.feedforward.unsqueeze(-1)), -1).mT
    bounds = (low.unsqueeze(-2), high.unsqueeze(-2))
    tensors = (problem.dynamics.mT, rows, *bounds)
    stages = zip(*(flatten_batch(t, lead).unbind(1) for t in tensors), strict=True)
    here = torch.zeros_like(flatten_batch(problem.end, lead)[:, :1])
    here[..., -1] = 1.0
    moves = []
    for step, answer, lower, upper in stages:
        move = torch.bmm(here, answer).clamp(lower, upper)
        here = torch.bmm(torch.cat((move, here), -1), step)
        moves.append(move)
    together = torch.cat(moves, 1)
    return together.view(*batch, *together.shape[1:])


def _law(
    curvature: Tensor,
    linear: Tensor,
    low: Tensor,
    high: Tensor,
    above_low: Tensor,
    below_high: Tensor,
    iterations: int,
    tracked: bool,
) -> tuple[Tensor, Tensor]:
    """(K, k) `[B, A, S+1]` of one step, and where that failed `[B]`."""
    if curvature.shape[-1] == 1:  # the quadratic program is a clip
        failed = ~(curvature > 0)
        law = linear / -torch.where(failed, 1.0, curvature)
        failed = failed[:, 0, 0]
    else:
        slope = linear[:, :, -1]
        if iterations > 1:
            with torch.no_grad():
                nothing = torch.zeros_like(slope)
                point, free = active_set(
                    curvature, slope, low, high, nothing, iterations - 1, SEARCH
                )
                at_low = point <= low
        else:
            at_low = slope > 0
            free = torch.where(at_low, above_low, below_high)
        if iterations > 1 or tracked:
            law, ok = solve_held(curvature, linear, low, high, at_low, free)
            failed = ~ok
        else:  # what is held is at its bound already
            root, failed = factor_free(curvature, free)
            wanted = torch.where(free.unsqueeze(-1), linear, 0.0)
            law = -torch.cholesky_solve(wanted, root)
    # What the quadratic program did not find in its iterations is clipped, and found
    # by the next sweep.
    gain, raw = law.split((law.shape[-1] - 1, 1), -1)
    feedforward = raw.clamp(low.unsqueeze(-1), high.unsqueeze(-1))
    gain = torch.where(raw == feedforward, gain, 0.0)
    return torch.cat((gain, feedforward), -1), failed


def _cost_to_go(
    state_part: Tensor, linear: Tensor, curvature: Tensor, law: Tensor
) -> Tensor:
    """V = Q_xx + W + W' with W = law'(Q_ux + ½ Q_uu law), whatever the law.

    Symmetric by force: the recursion would pass an asymmetry on by the open loop.
    """
    if law.shape[1] == 1:  # outer products: a few times faster
        pushed = torch.addcmul(linear, curvature, law, value=0.5)
        half = torch.addcmul(state_part, law.mT, pushed, value=2.0)
    else:
        pushed = torch.baddbmm(linear, curvature, law, alpha=0.5)
        half = torch.baddbmm(state_part, law.mT, pushed, alpha=2.0)
    return torch.lerp(half, half.mT, 0.5)
