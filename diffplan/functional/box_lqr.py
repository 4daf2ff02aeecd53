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

from diffplan.functional.box_qp import solve_free
from diffplan.functional.chain import flatten_batch, zero_unless
from diffplan.functional.lqr import LQRProblem


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
) -> LimitedLaw:
    """Sweep backwards over a linear-quadratic problem with limited actions.

    Differentiable to any order; which actions are held is piecewise constant.

    Args:
        problem: In increments, with the leading dimensions of `damping`.
        low: Lower bounds of the increments, at most zero, `[…, T, A]`.
        high: Upper bounds, at least zero, `[…, T, A]`.
        damping: Twice the weight of ‖du‖² in the cost of a step, `[…]`.
    """
    batch, lead = damping.shape, damping.dim()
    dynamics, costs = (flatten_batch(part, lead) for part in problem[:2])
    value = flatten_batch(problem.end, lead)
    low, high = (flatten_batch(part, lead).unsqueeze(-1) for part in (low, high))
    width, size = low.shape[-2], value.shape[-1]
    amount = flatten_batch(damping, lead)[:, None].expand(-1, width)
    diagonal = torch.diag_embed(amount)
    inputs = (dynamics.mT, dynamics, costs, -high, -low, high > 0, low < 0)
    stages = zip(*(reversed(tensor.unbind(1)) for tensor in inputs), strict=True)
    laws, slopes, flags = [], [], []
    for back, step, cost, *bounds in stages:
        hessian = torch.baddbmm(cost, torch.bmm(back, value), step)
        action_rows, state_rows = hessian.split((width, size), 1)
        curvature, linear = action_rows.split((width, size), 2)
        curvature = curvature + diagonal
        law, ok = _minus_law(curvature, linear, *bounds)
        value = _cost_to_go(state_rows[:, :, width:], linear, curvature, law)
        laws.append(law)
        slopes.append(linear[:, :, -1])
        flags.append(ok)
    law, slope = -torch.stack(laws[::-1], 1), torch.stack(slopes[::-1], 1)
    finite = torch.isfinite(law.sum((1, 2, 3)) + slope.sum((1, 2)))
    ok = finite & torch.stack(flags).all(0)
    law = zero_unless(ok, law)
    found = (law[..., -1], law[..., :-1], zero_unless(ok, slope), ok)
    return LimitedLaw(*(part.reshape((*batch, *part.shape[1:])) for part in found))


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
    return together.view((*batch, *together.shape[1:]))


def _minus_law(
    curvature: Tensor,
    linear: Tensor,
    least: Tensor,
    most: Tensor,
    below_high: Tensor,
    above_low: Tensor,
) -> tuple[Tensor, Tensor]:
    """-(K, k) `[B, A, S+1]` of one step, and whether it was found `[B]`.

    Args:
        curvature: Q_uu.
        linear: Q_ux and, last, Q_u.
        least: Least -k, `[B, A, 1]`.
        most: Most -k.
        below_high: Whether the increment may be positive.
        above_low: Whether it may be negative.
    """
    if curvature.shape[-1] == 1:
        ok = curvature > 0
        law = linear / torch.where(ok, curvature, 1.0)
        ok = ok[:, 0, 0]
    else:
        law, ok = _hold_and_solve(curvature, linear, least, most, below_high, above_low)
    # What would still leave the box is clipped, and held by the next sweep.
    gain, raw = law.split((law.shape[-1] - 1, 1), -1)
    feedforward = raw.clamp(least, most)
    gain = torch.where(raw == feedforward, gain, 0.0)
    return torch.cat((gain, feedforward), -1), ok


def _hold_and_solve(
    curvature: Tensor,
    linear: Tensor,
    least: Tensor,
    most: Tensor,
    below_high: Tensor,
    above_low: Tensor,
) -> tuple[Tensor, Tensor]:
    """The law of the actions that are free, the others held at a bound.

    Held is what the slope pushes against the bound that it is at, and what the others'
    Newton step takes out of the box.
    """
    with torch.no_grad():
        slope = linear[:, :, -1:]
        falling = slope > 0
        free = torch.where(falling, above_low, below_high)
        step, _ = solve_free(curvature, torch.where(free, slope, 0.0), free)
        falling = torch.where(free, step > 0, falling)
        free = free & (step.clamp(least, most) == step)
    held = torch.where(free, 0.0, torch.where(falling, most, least))
    column = pad(held, (linear.shape[-1] - 1, 0))
    pushed = torch.baddbmm(linear, curvature, column, alpha=-1.0)
    return solve_free(curvature, torch.where(free, pushed, column), free)


def _cost_to_go(
    state_part: Tensor, linear: Tensor, curvature: Tensor, minus_law: Tensor
) -> Tensor:
    """V = Q_xx + W + W' with W = law'(Q_ux + ½ Q_uu law), whatever the law.

    Symmetric by force: the recursion would pass an asymmetry on by the open loop.
    """
    if minus_law.shape[1] == 1:  # outer products: a few times faster
        pushed = torch.addcmul(linear, curvature, minus_law, value=-0.5)
        half = torch.addcmul(state_part, minus_law.mT, pushed, value=-2.0)
    else:
        pushed = torch.baddbmm(linear, curvature, minus_law, alpha=-0.5)
        half = torch.baddbmm(state_part, minus_law.mT, pushed, alpha=-2.0)
    return torch.lerp(half, half.mT, 0.5)
