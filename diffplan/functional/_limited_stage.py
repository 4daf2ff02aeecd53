"""One step of the sweep of `diffplan.functional.box_lqr`, which says what is swept.

Symbols: z = (du, dx); F = (B, A) dynamics, from z to dx'; V, v cost-to-go
½ dx'V dx + v'dx; Q the same by z, before the action is chosen; law = (K, k).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional._box_qp import solve_free
from diffplan.functional._lqr_kkt import add_product, congruence


class Affine(NamedTuple):
    """A matrix and a vector `M dx + m`, of each element."""

    matrix: Tensor
    vector: Tensor


class Limits(NamedTuple):
    """What the bounds allow the increments of one step, each `[B, A, 1]`.

    Attributes:
        least: Least -k.
        most: Most -k.
        below_high: Whether the increment may be positive.
        above_low: Whether it may be negative.
    """

    least: Tensor
    most: Tensor
    below_high: Tensor
    above_low: Tensor


class Stage(NamedTuple):
    """What a step of the sweep gives.

    Attributes:
        value: The derivatives of the cost-to-go before the step; the first as a row.
        law: -(K, k), `[B, A, S]` and `[B, A, 1]`.
        slope: Q_u, `[B, 1, A]`.
        ok: Whether the law was found, `[B]` bool.
    """

    value: Affine
    law: Affine
    slope: Tensor
    ok: Tensor


def limited_stage(
    value: Affine,
    step: Tensor,
    form: Tensor,
    gradient: Tensor,
    diagonal: Tensor,
    limits: Limits,
    *,
    look: bool = False,
) -> Stage:
    """Take the sweep one step back: all of it that is worth compiling.

    Args:
        value: Derivatives of the cost-to-go after the step; the first as a row.
        step: F, `[B, S, n]`.
        form: Hessian of the cost of the step, `[B, n, n]`.
        gradient: Gradient of the same cost, `[B, 1, n]`.
        diagonal: The damping of Q_uu, `[B, A, A]`.
        limits: Of the increments.
        look: Whether numbers may be looked at from the host.
    """
    width = diagonal.shape[-1]
    sizes = (width, step.shape[1])
    hessian = congruence(step, value.matrix, form)
    row = torch.baddbmm(gradient, value.vector, step)
    action_rows, state_rows = hessian.split_with_sizes(sizes, 1)
    curvature, cross = action_rows.split_with_sizes(sizes, 2)
    slope, state_slope = row.split_with_sizes(sizes, 2)
    curvature, answer = curvature + diagonal, Affine(cross, slope.mT)
    law, ok, best = _minus_law(curvature, answer, limits, look=look)
    rest = Affine(state_rows[:, :, width:], state_slope)
    before = _cost_to_go(rest, answer, None if best else curvature, law)
    return Stage(before, law, slope, ok)


def _minus_law(
    curvature: Tensor,
    answer: Affine,
    limits: Limits,
    *,
    look: bool,
) -> tuple[Affine, Tensor, bool]:
    """-(K, k) `[B, A, S]`, `[B, A, 1]` of one step.

    Args:
        curvature: Q_uu.
        answer: Q_ux and Q_u.
        limits: Of the increments.
        look: Whether numbers may be looked at from the host.

    Returns:
        The law; whether it was found, `[B]`; and whether it is known to be the best one
        for all elements, with what is held at zero.
    """
    if curvature.shape[-1] == 1:
        positive = curvature > 0
        inverse = torch.where(positive, curvature, 1.0).reciprocal()
        law, ok = Affine(*(part * inverse for part in answer)), positive[:, 0, 0]
    else:
        law, ok, best = _hold_and_solve(curvature, answer, limits, look=look)
        if best:
            return law, ok, True
    # What would still leave the box is clipped, and held by the next sweep.
    clipped = law.vector.clamp(limits.least, limits.most)
    if look and torch.equal(clipped, law.vector):
        return law, ok, curvature.shape[-1] == 1
    gain = torch.where(clipped == law.vector, law.matrix, 0.0)
    return Affine(gain, clipped), ok, False


def _hold_and_solve(
    curvature: Tensor,
    answer: Affine,
    limits: Limits,
    *,
    look: bool,
) -> tuple[Affine, Tensor, bool]:
    """Return the law of the actions that are free, the others held at a bound.

    Held is what the slope pushes against the bound that it is at, and what the others'
    Newton step takes out of the box.
    """
    least, most, below_high, above_low = limits
    slope = answer.vector.detach()
    falling = slope > 0
    free = torch.where(falling, above_low, below_high)
    if look:
        if bool(free.all()):
            law, ok = _solve(curvature, answer, None)
        else:
            law, ok = _solve_held(curvature, answer, limits, free, falling)
        step = law.vector.detach()
        if torch.equal(step.clamp(least, most), step):
            return law, ok, True  # what is held is at its bound, where it stays
    else:
        step, _ = solve_free(curvature, torch.where(free, slope, 0.0), free)
        step = step.detach()
    falling = torch.where(free, step > 0, falling)
    free = free & (step.clamp(least, most) == step)
    return *_solve_held(curvature, answer, limits, free, falling), False


def _solve_held(
    curvature: Tensor, answer: Affine, limits: Limits, free: Tensor, falling: Tensor
) -> tuple[Affine, Tensor]:
    """Return the law of the free actions, where the others are held.

    A held action is its bound, and has the bound's graph, also where it is there
    already and does not move.
    """
    held = torch.where(free, 0.0, torch.where(falling, limits.most, limits.least))
    pushed = torch.baddbmm(answer.vector, curvature, held, alpha=-1.0)
    law, ok = _solve(curvature, Affine(answer.matrix, pushed), free)
    return law._replace(vector=torch.where(free, law.vector, held)), ok


def _solve(
    curvature: Tensor, answer: Affine, free: Tensor | None
) -> tuple[Affine, Tensor]:
    """Solve for gain and feedforward at once; zero for actions that are not free."""
    columns = torch.cat(answer, 2)
    if free is not None:
        columns = torch.where(free, columns, 0.0)
    law, ok = solve_free(curvature, columns, free)
    return Affine(*law.split_with_sizes((columns.shape[2] - 1, 1), 2)), ok


def _cost_to_go(
    rest: Affine, answer: Affine, curvature: Tensor | None, minus_law: Affine
) -> Affine:
    """V = Q_xx + W + W' with W = K'(Q_ux + ½ Q_uu K), whatever the law; v likewise.

    The best law, for which `curvature` is None, leaves V = Q_xx + K'Q_ux.

    Symmetric by force: the recursion would pass an asymmetry on by the open loop.

    Args:
        rest: Q_xx and, as a row, Q_x.
        answer: Q_ux and Q_u.
        curvature: Q_uu.
        minus_law: -(K, k).
    """
    gain, feedforward = minus_law
    if curvature is None:
        by_state, scale = answer.matrix, -1.0
        gradient = add_product(rest.vector, answer.vector, gain)
    else:
        scale = -2.0
        pushed = (
            add_product(part, curvature, law, scale=-0.5)
            for part, law in zip(answer, minus_law, strict=True)
        )
        by_state, constant = pushed
        gradient = add_product(rest.vector, constant, gain)
        gradient = add_product(gradient, feedforward, by_state)
    half = add_product(rest.matrix, gain, by_state, scale)
    return Affine(torch.lerp(half, half.mT, 0.5), gradient)
