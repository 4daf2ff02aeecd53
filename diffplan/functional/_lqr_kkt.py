"""The symmetric system of the linear-quadratic regulator: factor, solve, adjoint.

For `diffplan.functional.lqr`, which says what is solved; here everything has exactly
one leading batch dimension. With b = (q, r, c, x_0) the conditions of optimality are
M z + b = 0, M symmetric, so that for a cotangent g of z = -M⁻¹b the adjoint
w = -M⁻¹g is what the same solver answers to g, and

    ⟨g, dz⟩ = ⟨w, db⟩ + ⟨w, dM z⟩:

w itself is the gradient of the vectors, and outer products of w and z those of the
matrices.

Symbols: P, p cost-to-go ½ x'P x + p'x; L Cholesky factor of Q_uu = R + B'P B;
Q_ux = N + B'P A; gain K = -Q_uu⁻¹Q_ux; F = A + B K the closed loop.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffplan.functional._chain import times, two_outer, zero_unless
from diffplan.functional._derivatives import apply, is_followed, keep, or_zero
from diffplan.functional._safe_math import cholesky_solve

_OUTER = 4
"""Up to so many rows outer products are faster than a product of matrices."""


class Matrices(NamedTuple):
    """The matrices of a problem, with one leading batch dimension."""

    state_cost: Tensor
    action_cost: Tensor
    cross_cost: Tensor
    state_jacobian: Tensor
    action_jacobian: Tensor


class Vectors(NamedTuple):
    """The right-hand side of a problem, with one leading batch dimension."""

    state_linear: Tensor
    action_linear: Tensor
    offset: Tensor
    initial_state: Tensor


class Factor(NamedTuple):
    """What the sweep of matrices leaves to the sweeps of vectors; without history.

    Attributes:
        gain: K, `[B, T, A, S]`.
        closed_loop: F, `[B, T, S, S]`.
        root: L, `[B, T, A, A]`.
        cost_to_go: P_0 … P_T, `[B, T+1, S, S]`.
    """

    gain: Tensor
    closed_loop: Tensor
    root: Tensor
    cost_to_go: Tensor


class KKTPoint(NamedTuple):
    """A solution of the symmetric system; zero where it is not ok.

    Attributes:
        states: x_0 … x_T, `[B, T+1, S]`.
        actions: u_0 … u_{T-1}, `[B, T, A]`.
        costates: λ_0 … λ_T, `[B, T+1, S]`.
        ok: `[B]` bool.
    """

    states: Tensor
    actions: Tensor
    costates: Tensor
    ok: Tensor


def factorize(matrices: Matrices) -> tuple[Factor, Tensor]:
    """Riccati's recursion, from the last step to the first.

    Only what needs the cost-to-go is inside the loop: these matrices are so small that
    the number of operations is what counts.

    Args:
        matrices: Without history.

    Returns:
        The factor, and whether each element is positive definite `[B]`.
    """
    by_state, by_action = matrices.state_jacobian, matrices.action_jacobian
    width, size = matrices.cross_cost.shape[-2:]
    cost_to_go = matrices.state_cost[:, -1]
    failures: list[Tensor] = []
    values, roots, halves = [cost_to_go], [], []
    steps, forms = transitions(by_action, by_state), _forms(matrices)
    for step, form in zip(reversed(steps), reversed(forms), strict=True):
        hessian = congruence(step, cost_to_go, form)
        action_rows, state_rows = hessian.split_with_sizes((width, size), 1)
        curvature, cross = action_rows.split_with_sizes((width, size), 2)
        root, half, failed = _eliminate(curvature, cross)
        rest = add_product(state_rows[:, :, width:], half, half)
        # Symmetric by force: the recursion passes an asymmetry on by A'(…)A, which
        # grows where the open loop is unstable; other errors pass by F'(…)F.
        cost_to_go = torch.lerp(rest, rest.mT, 0.5)
        values.append(cost_to_go)
        roots.append(root)
        halves.append(half)
        failures += failed
    root, value = torch.stack(roots[::-1], 1), torch.stack(values[::-1], 1)
    gain = -_solve_upper(root.mT, torch.stack(halves[::-1], 1))
    # infinity passes every pivot test, but not unseen through gains and costs-to-go
    finite = _finite(gain, value)
    if failures:
        finite = finite & (torch.stack(failures) == 0).all(0)
    return Factor(gain, by_state + by_action @ gain, root, value), finite


def transitions(*jacobians: Tensor) -> Sequence[Tensor]:
    """Jacobians `[B, T, S, …]` side by side, for each step `[B, S, n]`.

    Those that are one for all steps, expanded, stay one, and others lie one step after
    the other in memory: what a step needs stays in the cache.
    """
    if all(_is_one(jacobian) for jacobian in jacobians):
        batch, horizon = jacobians[0].shape[:2]
        one = torch.cat([jacobian[:1, 0] for jacobian in jacobians], -1)
        return [one.expand(batch, -1, -1)] * horizon
    pairs = zip(*(jacobian.unbind(1) for jacobian in jacobians), strict=True)
    return [torch.cat(pair, -1) for pair in pairs]


def _forms(matrices: Matrices) -> Sequence[Tensor]:
    """Hessians of the cost of each step by (u, x), `[B, n, n]`."""
    running, cross = matrices.state_cost[:, :-1], matrices.cross_cost
    action = matrices.action_cost
    batch, horizon = cross.shape[:2]
    if all(_is_one(block) for block in (running, cross, action)):
        running, cross, action = (b[:1, :1] for b in (running, cross, action))
    rows = (torch.cat((action, cross), -1), torch.cat((cross.mT, running), -1))
    return torch.cat(rows, -2).expand(batch, horizon, -1, -1).unbind(1)


def congruence(step: Tensor, value: Tensor, form: Tensor) -> Tensor:
    """Return form + step' value step for matrices `[B, …]`."""
    # in this order the larger product has the layout that the CPU likes best
    return torch.baddbmm(form, step.mT, torch.bmm(value, step))


def _is_one(matrices: Tensor) -> bool:
    expanded = zip(matrices.shape[:2], matrices.stride()[:2], strict=True)
    return all(stride == 0 or size == 1 for size, stride in expanded)


def add_product(
    matrix: Tensor, left: Tensor, right: Tensor, scale: float = -1.0
) -> Tensor:
    """Return matrix + scale · left'right for matrices `[B, …]`, of few rows quickly."""
    if left.shape[1] > _OUTER:
        return torch.baddbmm(matrix, left.mT, right, alpha=scale)
    for row, other in zip(left.split(1, 1), right.split(1, 1), strict=True):
        matrix = torch.addcmul(matrix, row.mT, other, value=scale)
    return matrix


def _eliminate(
    curvature: Tensor, cross: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Cholesky factor L of Q_uu, then L⁻¹Q_ux, and numbers that are 0 on success."""
    if curvature.shape[-1] == 1:  # NaN where it is negative, infinity where zero
        root = curvature.sqrt()
        return root, cross / root, ()
    root, failed = torch.linalg.cholesky_ex(curvature)
    half = torch.linalg.solve_triangular(root, cross, upper=False)
    return root, half, (failed,)


def _solve_upper(matrix: Tensor, rhs: Tensor) -> Tensor:
    if matrix.shape[-1] == 1:
        return rhs / matrix
    return torch.linalg.solve_triangular(matrix, rhs, upper=True)


def solve(
    matrices: Matrices, factor: Factor, factor_ok: Tensor, vectors: Vectors
) -> KKTPoint:
    """Solve with a given factor, differentiably in matrices and vectors.

    Args:
        matrices: The ones that `factor` belongs to, with their history.
        factor: From `factorize`.
        factor_ok: Status of the factorisation, `[B]` bool.
        vectors: The right-hand side.
    """
    tensors = (*matrices, *vectors)
    if not is_followed(*tensors):
        return _masked_sweep(matrices, factor, factor_ok, vectors)
    arguments = (*tensors, factor_ok, *factor)
    return KKTPoint(*apply(_SolveLQR, _SolveLQRReverse, *arguments))


def _masked_sweep(
    matrices: Matrices, factor: Factor, factor_ok: Tensor, vectors: Vectors
) -> KKTPoint:
    states, actions, costates = _sweep(matrices, factor, vectors)
    ok = factor_ok & _finite(states, actions, costates)
    return KKTPoint(
        zero_unless(ok, states), zero_unless(ok, actions), zero_unless(ok, costates), ok
    )


def _finite(*tensors: Tensor) -> Tensor:
    """Return whether all numbers of each element are finite, `[B]`."""
    # a sum of the numbers themselves may leave the range before any of them does
    zeros = [(0 * tensor).flatten(1).sum(1) for tensor in tensors]
    return torch.stack(zeros).sum(0) == 0


def _sweep(
    matrices: Matrices, factor: Factor, vectors: Vectors
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward sweep of the linear terms, forward sweep of the states.

    Vectors are rows `[B, 1, S]`: batched products with columns are ten times slower on
    a CPU.
    """
    gain, loop, root, cost_to_go = factor
    state_linear, action_linear, offset, initial = vectors
    pushed = times(offset, cost_to_go[:, 1:])
    inflow = state_linear[:, :-1] + times(action_linear, gain) + times(pushed, loop)
    linears = [state_linear[:, -1:]]
    for row, closed in zip(
        reversed(inflow.split(1, 1)), reversed(loop.unbind(1)), strict=True
    ):
        linears.append(torch.baddbmm(row, linears[-1], closed))
    linear = torch.cat(linears[::-1], 1)
    slope = action_linear + times(linear[:, 1:] + pushed, matrices.action_jacobian)
    feedforward = -_solve_curvature(root, slope)
    drift = offset + times(feedforward, matrices.action_jacobian.mT)
    states = [initial.unsqueeze(1)]
    for row, closed in zip(drift.split(1, 1), loop.mT.unbind(1), strict=True):
        states.append(torch.baddbmm(row, states[-1], closed))
    state = torch.cat(states, 1)
    action = feedforward + times(state[:, :-1], gain.mT)
    return state, action, times(state, cost_to_go) + linear


def _solve_curvature(root: Tensor, rhs: Tensor) -> Tensor:
    """Q_uu⁻¹ rhs for vectors `[B, T, A]`."""
    if root.shape[-1] == 1:
        return rhs / root.squeeze(-1).square()
    return cholesky_solve(rhs.unsqueeze(-1), root).squeeze(-1)


class _SolveLQRReverse(torch.autograd.Function):
    """The solve as one node of the graph; its backward is another solve."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        matrices, vectors, factor_ok, factor = _unpack(tensors)
        return tuple(_masked_sweep(matrices, factor, factor_ok, vectors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[3])
        keep(ctx, *inputs, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, states, actions, costates, ok = ctx.saved_tensors
        matrices, _, _, factor = _unpack(tuple(tensors))
        by_state, by_action, by_costate = cotangents[:3]
        right = Vectors(by_state, by_action, by_costate[:, 1:], by_costate[:, 0])
        adjoint = solve(matrices, factor, ok, right)
        primal = KKTPoint(states, actions, costates, ok)
        gradients = _matrix_gradients(primal, adjoint, ctx.needs_input_grad[:5])
        vectors = (
            adjoint.states,
            adjoint.actions,
            adjoint.costates[:, 1:],
            adjoint.costates[:, 0],
        )
        return (*gradients, *vectors, *(None for _ in range(1 + len(factor))))


class _SolveLQR(_SolveLQRReverse):
    """The same with forward mode: M dz = -(db + dM z)."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, x, u, costates, ok = ctx.saved_tensors
        matrices, _, _, factor = _unpack(tuple(tensors))
        moves = or_zero(tangents[:9], tensors[:9])
        d, right = Matrices(*moves[:5]), Vectors(*moves[5:])
        before, nu = x[:, :-1], costates[:, 1:]
        by_state = times(u, d.cross_cost) + times(nu, d.state_jacobian)
        by_state = torch.nn.functional.pad(by_state, (0, 0, 0, 1))
        by_action = times(before, d.cross_cost.mT) + times(u, d.action_cost.mT)
        by_costate = times(before, d.state_jacobian.mT)
        left = Vectors(
            right.state_linear + times(x, d.state_cost.mT) + by_state,
            right.action_linear + by_action + times(nu, d.action_jacobian),
            right.offset + by_costate + times(u, d.action_jacobian.mT),
            right.initial_state,
        )
        moved = solve(matrices, factor, ok, left)
        return moved.states, moved.actions, moved.costates, None


def _matrix_gradients(
    primal: KKTPoint, adjoint: KKTPoint, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Outer products of primal and adjoint solution, one per matrix.

    Both are zero where the solve failed, and so is the gradient there.
    """
    x, u, nu = primal.states, primal.actions, primal.costates[:, 1:]
    lx, lu, mu = adjoint.states, adjoint.actions, adjoint.costates[:, 1:]
    before, lbefore = x[:, :-1], lx[:, :-1]
    makers: tuple[Callable[[], Tensor], ...] = (
        lambda: 0.5 * two_outer(x, lx, lx, x),
        lambda: 0.5 * two_outer(u, lu, lu, u),
        lambda: two_outer(u, lbefore, lu, before),
        lambda: two_outer(nu, lbefore, mu, before),
        lambda: two_outer(nu, lu, mu, u),
    )
    return tuple(
        make() if wanted else None for make, wanted in zip(makers, needed, strict=True)
    )


def unexpanded(tensor: Tensor) -> Tensor:
    """Return a tensor with size 1 in the dimensions along which it is one, expanded."""
    small = tensor
    for dim, (size, stride) in enumerate(
        zip(tensor.shape, tensor.stride(), strict=True)
    ):
        if stride == 0 and size > 1:
            small = small.narrow(dim, 0, 1)
    return small


def symmetric(matrix: Tensor) -> Tensor:
    """Return the symmetric part of matrices `[…, n, n]`; one, expanded, stays one."""
    small = unexpanded(matrix)
    return torch.lerp(small, small.mT, 0.5).expand_as(matrix)


def _unpack(
    tensors: tuple[Tensor, ...],
) -> tuple[Matrices, Vectors, Tensor, Factor]:
    return (
        Matrices(*tensors[:5]),
        Vectors(*tensors[5:9]),
        tensors[9],
        Factor(*tensors[10:]),
    )
