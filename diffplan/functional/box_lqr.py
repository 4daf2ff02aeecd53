"""The regulator with limited actions: one sweep of control-limited dynamic programming.

About a trajectory, the linear-quadratic problem of the increments du, dx is swept from
the last step to the first. Where an action would leave its box the law of that step
nearly solves a small quadratic program: actions that would leave are held at their
bound and do not answer to the state, the others are solved for once more, and the
cost-to-go of the steps before knows it::

    du_t = k_t + K_t dx_t,     low ≤ k_t ≤ high.

For matrices as small as these the number of operations is what counts: gain and
feedforward are columns of one law and solved for at once.

A law that is zero everywhere is optimal within the bounds. With one action it is the
optimum of each step given those after it; of several, none that is held is let go
again. Neither is quite the optimum of all steps together: iterated, it gets there,
usually in as many sweeps as it takes to find the held actions.

Symbols: z = (du, dx); F = (B, A) dynamics, from z to dx'; V, v cost-to-go
½ dx'V dx + v'dx; Q the same by z, before the action is chosen; law = (K, k).

References:
    Tassa, Mansard and Todorov 2014, "Control-limited differential dynamic programming"
    (ICRA), section III.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from diffplan._shapes import Precise
from diffplan.functional._chain import flatten_batch, times, zero_unless
from diffplan.functional._limited_stage import Affine, Limits, Stage, limited_stage
from diffplan.functional._lqr_kkt import transitions
from diffplan.functional.lqr import LQRProblem


class IncrementalLQR(NamedTuple):
    """A linear-quadratic problem of increments z = (du, dx), n = A + S numbers.

    Without offsets, and the given state does not move. Dynamics or Hessians that are
    one for all steps may be expanded tensors.

    Attributes:
        action_jacobian: B_t, `[…, T, S, A]`.
        state_jacobian: A_t, `[…, T, S, S]`.
        hessian: Of the cost of a step by z, symmetric, `[…, T, n, n]`.
        gradient: Gradient of the same cost, `[…, T, n]`.
        end_hessian: Of the cost of the last state, symmetric, `[…, S, S]`.
        end_gradient: Its gradient, `[…, S]`.
    """

    action_jacobian: Precise[Tensor, "*batch some=T S some=A"]
    state_jacobian: Precise[Tensor, "*batch T S S"]
    hessian: Precise[Tensor, "*batch T A+S A+S"]
    gradient: Precise[Tensor, "*batch T A+S"]
    end_hessian: Precise[Tensor, "*batch S S"]
    end_gradient: Precise[Tensor, "*batch S"]

    def costates(self) -> Tensor:
        """λ_1 … λ_T, the derivative of the cost by x_1 … x_T where z is zero.

        Returns:
            `[…, T, S]`.
        """
        lead = self.end_gradient.dim() - 1
        batch, width = self.end_gradient.shape[:-1], self.action_jacobian.shape[-1]
        gradient, matrices = (
            flatten_batch(part, lead)
            for part in (self.gradient[..., width:], self.state_jacobian)
        )
        rows = gradient.split(1, 1)
        found = [flatten_batch(self.end_gradient, lead).unsqueeze(1)]
        for row, matrix in zip(rows[:0:-1], matrices.unbind(1)[:0:-1], strict=True):
            found.append(torch.baddbmm(row, found[-1], matrix))
        together = torch.cat(found[::-1], 1)
        return together.view((*batch, *together.shape[1:]))

    def slope(self, costates: Tensor) -> Tensor:
        """Return the derivative of the cost by the actions at z = 0, `[…, T, A]`.

        Args:
            costates: Of this problem.
        """
        width = self.action_jacobian.shape[-1]
        return self.gradient[..., :width] + times(costates, self.action_jacobian)

    def unpacked(self) -> LQRProblem:
        """Return the same problem in the form that `lqr` solves."""
        width = self.action_jacobian.shape[-1]
        end = self.end_hessian.unsqueeze(-3)
        running = self.hessian[..., width:, width:]
        by_state = self.state_jacobian
        return LQRProblem(
            state_cost=torch.cat((running, end), -3),
            action_cost=self.hessian[..., :width, :width],
            cross_cost=self.hessian[..., :width, width:],
            state_linear=torch.cat(
                (self.gradient[..., width:], self.end_gradient.unsqueeze(-2)), -2
            ),
            action_linear=self.gradient[..., :width],
            state_jacobian=by_state,
            action_jacobian=self.action_jacobian,
            offset=torch.zeros_like(self.gradient[..., width:]),
            initial_state=torch.zeros_like(self.end_gradient),
        )


class LimitedLaw(NamedTuple):
    """The affine law of each step, zero for an element that failed.

    Attributes:
        feedforward: k_t, `[…, T, A]`.
        gains: K_t, `[…, T, A, S]`; rows of held actions are zero.
        decrease: How much the law lowers the model's cost from the start that it is
            made for, `[…]`; without a graph. Exact if no feedforward is at a bound; a
            lower bound with one action; else an estimate, which may be too high.
        ok: Whether every damped Q_uu is positive definite in the free actions, and all
            is finite, `[…]` bool.
    """

    feedforward: Precise[Tensor, "*batch T A"]
    gains: Precise[Tensor, "*batch T A S"]
    decrease: Precise[Tensor, "*batch"]
    ok: Bool[Tensor, "*batch"]


def limited_sweep(
    problem: IncrementalLQR,
    low: Precise[Tensor, "*batch T A"],
    high: Precise[Tensor, "*batch T A"],
    damping: Precise[Tensor, "*batch"],
    *,
    wanted: Bool[Tensor, "*batch"] | None = None,
    look: bool = False,
    stage: Callable[..., Stage] | None = None,
) -> LimitedLaw:
    """Sweep backwards over a linear-quadratic problem with limited actions.

    Differentiable to any order; which actions are held is piecewise constant.

    Args:
        problem: With the leading dimensions of `damping`.
        low: Lower bounds of the increments, at most zero, `[…, T, A]`.
        high: Upper bounds, at least zero, `[…, T, A]`.
        damping: Twice the weight of ‖du‖² in the cost of a step, `[…]`.
        wanted: Which elements need a law, `[…]` bool; None if all do. The others may be
            left out, and then have none.
        look: Whether numbers may be looked at from the host. Steps whose actions are
            all free are solved once then instead of twice, with the same outcome.
        stage: `limited_stage`, compiled: for batches of one size, so that no element
            is left out.
    """
    batch, lead = damping.shape, damping.dim()
    problem = IncrementalLQR(*(flatten_batch(part, lead) for part in problem))
    low, high = (flatten_batch(part, lead) for part in (low, high))
    amount = flatten_batch(damping, lead)
    if wanted is None or stage is not None or not look or bool(wanted.all()):
        law = _sweep(problem, low, high, amount, look=look, stage=stage)
    else:
        count, rows = len(amount), flatten_batch(wanted, lead).nonzero().squeeze(1)
        chosen = IncrementalLQR(*(_pick(part, rows) for part in problem))
        limits = (_pick(part, rows) for part in (low, high, amount))
        found = _sweep(chosen, *limits, look=look, stage=stage)
        law = LimitedLaw(
            *(p.new_zeros(count, *p.shape[1:]).index_copy(0, rows, p) for p in found)
        )
    return LimitedLaw(*(part.reshape((*batch, *part.shape[1:])) for part in law))


def _pick(part: Tensor, rows: Tensor) -> Tensor:
    """Return some elements; what is one for all, expanded, stays one."""
    if part.stride(0) == 0:
        return part[:1].expand(len(rows), *part.shape[1:])
    return part.index_select(0, rows)


def _sweep(
    problem: IncrementalLQR,
    low: Tensor,
    high: Tensor,
    damping: Tensor,
    *,
    look: bool,
    stage: Callable[..., Stage] | None,
) -> LimitedLaw:
    """`limited_sweep` with one leading dimension."""
    low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    diagonal = torch.diag_embed(damping[:, None].expand(-1, low.shape[-2]))
    # the derivative of the cost-to-go; as a row, which batched products like best
    value = Affine(problem.end_hessian, problem.end_gradient.unsqueeze(1))
    limits = Limits(-high, -low, high > 0, low < 0)
    parts = (
        transitions(problem.action_jacobian, problem.state_jacobian),
        problem.hessian.unbind(1),
        problem.gradient.split(1, 1),
        [
            Limits(*of_step)
            for of_step in zip(*(t.unbind(1) for t in limits), strict=True)
        ],
    )
    laws, slopes, flags = [], [], []
    for step, form, gradient, allowed in zip(*map(reversed, parts), strict=True):
        given = (value, step, form, gradient, diagonal, allowed)
        found = limited_stage(*given, look=look) if stage is None else stage(*given)
        value = found.value
        laws.append(found.law)
        slopes.append(found.slope)
        flags.append(found.ok)
    gains, feedforwards = zip(*reversed(laws), strict=True)
    gain = -torch.stack(gains, 1)
    feedforward = -torch.stack(feedforwards, 1).squeeze(-1)
    slope = torch.cat(slopes[::-1], 1)
    total = gain.sum((1, 2, 3)) + (feedforward + slope).sum((1, 2))
    ok = torch.isfinite(total) & torch.stack(flags).all(0)
    gain, feedforward = zero_unless(ok, gain), zero_unless(ok, feedforward)
    # half of k'Q_u is what a minimum takes off, a step that a bound cuts short more
    decrease = -0.5 * (feedforward.detach() * slope.detach()).sum((1, 2))
    return LimitedLaw(feedforward, gain, zero_unless(ok, decrease), ok)


def limited_rollout(
    problem: IncrementalLQR,
    law: LimitedLaw,
    low: Precise[Tensor, "*batch T A"],
    high: Precise[Tensor, "*batch T A"],
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
    tensors = (
        problem.state_jacobian.mT,
        problem.action_jacobian.mT,
        law.gains.mT,
        law.feedforward.unsqueeze(-2),
        low.unsqueeze(-2),
        high.unsqueeze(-2),
    )
    stages = zip(*(flatten_batch(t, lead).unbind(1) for t in tensors), strict=True)
    state = torch.zeros_like(flatten_batch(problem.end_gradient, lead)).unsqueeze(1)
    moves = []
    for by_state, by_action, gain, feedforward, lower, upper in stages:
        move = torch.baddbmm(feedforward, state, gain).clamp(lower, upper)
        state = torch.baddbmm(torch.bmm(move, by_action), state, by_state)
        moves.append(move)
    together = torch.cat(moves, 1)
    return together.view((*batch, *together.shape[1:]))
