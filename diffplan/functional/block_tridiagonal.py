"""Symmetric block-tridiagonal systems: Cholesky in time linear in their length.

Whatever couples only neighbours along a chain (smoothing, collocation, splines) ends in
a matrix with K diagonal blocks and K-1 blocks below them. Its Cholesky factor has the
same shape::

    C_0 = chol(D_0),   N_k = L_k C_k^{-T},   C_{k+1} = chol(D_{k+1} - N_k N_k'),

which is block Thomas elimination. The derivative of a solve is another solve with the
same factor (H x = b, H y = g: the gradient of b is y, that of H is -y x'), so nothing
differentiates the elimination itself.

The second half builds the normal equations of a collocation step in this form.

Symbols: D diagonal blocks, L blocks below the diagonal, C and N those of the factor;
K blocks of size n.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffplan._shapes import Precise, fitted
from diffplan.functional._chain import (
    ChainRightHandSide,
    ChainSystem,
    flatten_batch,
    times,
    with_given_state,
    zero_unless,
)
from diffplan.functional._chain_factor import ChainFactor
from diffplan.functional._derivatives import apply, is_followed, keep, or_zero


@dataclass(frozen=True)
class BlockTridiagonal:
    """A symmetric block-tridiagonal matrix.

    Args:
        diagonal: Symmetric blocks D_k, `[…, K, n, n]`.
        lower: Blocks L_k in row k+1 and column k, `[…, K-1, n, n]`.

    Raises:
        ShapeError: the two do not fit together.

    Example:
        >>> identity = torch.eye(2).expand(3, 2, 2)
        >>> matrix = BlockTridiagonal(2 * identity, 0.5 * identity[:2])
        >>> factor = matrix.cholesky()
        >>> x = factor.solve(torch.ones(3, 2))
        >>> torch.allclose(matrix.matvec(x), torch.ones(3, 2))
        True
    """

    diagonal: Precise[Tensor, "*batch K n n"]
    lower: Precise[Tensor, "*batch K-1 n n"]

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with `vector` `[…, K, n]`."""
        *batch, blocks, size, _ = self.diagonal.shape
        vector = fitted("vector", vector, (*batch, blocks, size), self.diagonal)
        product = times(vector, self.diagonal.mT)
        below = times(vector[..., :-1, :], self.lower.mT)
        above = times(vector[..., 1:, :], self.lower)
        product = product + torch.nn.functional.pad(below, (0, 0, 1, 0))
        return product + torch.nn.functional.pad(above, (0, 0, 0, 1))

    def to_dense(self) -> Tensor:
        """Return the whole matrix `[…, K n, K n]`, for tests and small problems."""
        *batch, blocks, size, _ = self.diagonal.shape
        dense = self.diagonal.new_zeros(*batch, blocks, size, blocks, size)
        place = torch.arange(blocks, device=dense.device)
        # mixed indexing puts the indexed dimension first
        dense[..., place, :, place, :] = self.diagonal.movedim(-3, 0)
        if blocks > 1:
            dense[..., place[1:], :, place[:-1], :] = self.lower.movedim(-3, 0)
            dense[..., place[:-1], :, place[1:], :] = self.lower.mT.movedim(-3, 0)
        return dense.reshape(*batch, blocks * size, blocks * size)

    def cholesky(self) -> "BlockTridiagonalFactor":
        """Factor the matrix; elements that are not positive definite are reported."""
        batch = self.diagonal.shape[:-3]
        flat = BlockTridiagonal(
            flatten_batch(self.diagonal, len(batch)),
            flatten_batch(self.lower, len(batch)),
        )
        with torch.no_grad():
            chol, below, ok = _factorize(flat.diagonal.detach(), flat.lower.detach())
        return BlockTridiagonalFactor(flat, chol, below, ok, batch)


@dataclass(frozen=True)
class BlockTridiagonalFactor:
    """A factored matrix, which solves.

    Attributes:
        matrix: The flattened matrix `[B, K, n, n]`, with its history.
        chol: C_k, K tensors `[B, n, n]` without history.
        below: N_k, K-1 tensors `[B, n, n]` without history.
        flat_ok: Status per element of the flattened batch, `[B]` bool.
        batch_shape: The caller's leading dimensions.
    """

    matrix: BlockTridiagonal
    chol: tuple[Tensor, ...]
    below: tuple[Tensor, ...]
    flat_ok: Tensor
    batch_shape: torch.Size

    @property
    def ok(self) -> Tensor:
        """Return whether the element is positive definite (and finite), `[…]` bool."""
        return self.flat_ok.view(self.batch_shape)

    def solve(self, b: Tensor) -> Tensor:
        """Solve H x = b for `b` `[…, K, n]`; zeros where that fails or is infinite."""
        like = self.matrix.diagonal
        b = fitted("b", b, (*self.batch_shape, *like.shape[1:3]), like)
        rhs = flatten_batch(b, len(self.batch_shape))
        matrix, factor = self.matrix, (*self.chol, *self.below)
        x = _solve(matrix.diagonal, matrix.lower, rhs, self.flat_ok, factor)
        return x.view(b.shape)


def _solve(
    diagonal: Tensor,
    lower: Tensor,
    rhs: Tensor,
    ok: Tensor,
    factor: tuple[Tensor, ...],
) -> Tensor:
    arguments = (diagonal, lower, rhs, ok, *factor)
    if not is_followed(diagonal, lower, rhs):
        return _SolveReverse.forward(*arguments)[0]
    x: Tensor = apply(_Solve, _SolveReverse, *arguments)[0]
    return x


class _SolveReverse(torch.autograd.Function):
    """The solve as one node of the graph; its backward is another solve."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        diagonal: Tensor, lower: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        del lower  # its numbers are in the factor; here only for its gradient
        rhs, ok, *factor = rest
        blocks = diagonal.shape[1]
        x = _substitute(tuple(factor[:blocks]), tuple(factor[blocks:]), rhs)
        ok = ok & torch.isfinite(x).flatten(1).all(1)
        return zero_unless(ok, x), ok

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        keep(ctx, *inputs, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        diagonal, lower, _, _, *factor, x, ok = ctx.saved_tensors
        y = _solve(diagonal, lower, cotangents[0], ok, tuple(factor))
        by_diagonal = by_lower = None
        if ctx.needs_input_grad[0]:
            half = -0.5 * y[..., :, None] * x[..., None, :]
            by_diagonal = half + half.mT
        if ctx.needs_input_grad[1]:
            by_lower = -(
                y[:, 1:, :, None] * x[:, :-1, None, :]
                + x[:, 1:, :, None] * y[:, :-1, None, :]
            )
        return by_diagonal, by_lower, y, *(None for _ in range(1 + len(factor)))


class _Solve(_SolveReverse):
    """The same with forward mode: H dx = db - dH x."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        diagonal, lower, _, _, *factor, x, ok = ctx.saved_tensors
        by_diagonal, by_lower, by_rhs = or_zero(tangents[:3], ctx.saved_tensors[:3])
        symmetric = 0.5 * (by_diagonal + by_diagonal.mT)
        moved = BlockTridiagonal(symmetric, by_lower).matvec(x)
        return _solve(diagonal, lower, by_rhs - moved, ok, tuple(factor)), None


def _factorize(
    diagonal: Tensor, lower: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    chol: list[Tensor] = []
    below: list[Tensor] = []
    failures = diagonal.new_zeros(diagonal.shape[0], dtype=torch.int32)
    pivot = diagonal[:, 0]
    for k in range(diagonal.shape[1]):
        if k > 0:
            # N = L C^{-T}: solved from the right, where LAPACK needs no copy
            side = torch.linalg.solve_triangular(
                chol[-1].mT, lower[:, k - 1], upper=True, left=False
            )
            below.append(side)
            pivot = torch.baddbmm(diagonal[:, k], side, side.mT, alpha=-1.0)
        factor, failed = torch.linalg.cholesky_ex(pivot)
        failures = failures + failed
        chol.append(factor)
    # infinity has a Cholesky factor of sorts, and passes every pivot test
    finite = torch.stack([c.diagonal(dim1=-2, dim2=-1).sum(-1) for c in chol]).sum(0)
    return tuple(chol), tuple(below), (failures == 0) & torch.isfinite(finite)


def _substitute(
    chol: tuple[Tensor, ...], below: tuple[Tensor, ...], rhs: Tensor
) -> Tensor:
    """Forward and back substitution; vectors are rows, see `chain.times`."""
    half: list[Tensor] = []
    for k, factor in enumerate(chol):
        row = rhs[:, k : k + 1]
        if k > 0:
            row = row - half[-1] @ below[k - 1].mT
        half.append(
            torch.linalg.solve_triangular(factor.mT, row, upper=True, left=False)
        )
    x: list[Tensor] = []
    for k in reversed(range(len(chol))):
        row = half[k] - x[-1] @ below[k] if x else half[k]
        x.append(torch.linalg.solve_triangular(chol[k], row, upper=False, left=False))
    return torch.cat(x[::-1], 1)


def normal_equations_factorize(
    system: ChainSystem, *, dtype: torch.dtype = torch.float64
) -> ChainFactor:
    """Factor J'WJ + H of a chain system by block-tridiagonal Cholesky.

    Block k holds (u_k, x_{k+1}): the action and the state that it leads to. All blocks
    have the same size, the given state needs none, and a transition or stage residual
    couples only neighbours.

    Args:
        system: Matrices with any leading batch dimensions.
        dtype: Precision of the assembly and factorisation. The normal equations square
            the condition number of the problem; float32 needs well-scaled weights.
    """
    flat = system.flattened().to(dtype)
    with torch.no_grad():
        diagonal, lower = _normal_blocks(flat.detach())
        chol, below, ok = _factorize(diagonal, lower)
    tensors = (*chol, *below)
    return ChainFactor(_solve_normal_equations, flat, tensors, ok, system.damping.shape)


def _normal_blocks(system: ChainSystem) -> tuple[Tensor, Tensor]:
    """Blocks of J'WJ + H with the unknowns (u_0, x_1), (u_1, x_2), …."""
    by_state, by_action = system.state_jacobian, system.action_jacobian
    weight = system.transition_weight[..., None, None]
    stage_state, stage_action = (
        system.stage_state_jacobian,
        system.stage_action_jacobian,
    )
    batch, horizon, size, actions = by_action.shape
    width = actions + size
    seed = system.seed()
    diagonal = seed.new_zeros(batch, horizon, width, width)
    weighted = weight * by_action
    diagonal[..., :actions, :actions] = (
        by_action.mT @ weighted + stage_action.mT @ stage_action
    )
    diagonal[..., :actions, actions:] = -weighted.mT
    diagonal[..., actions:, :actions] = -weighted
    states = diagonal[..., actions:, actions:]
    end = system.terminal_jacobian
    states[:, -1] = end.mT @ end
    weighted_state = weight[:, 1:] * by_state[:, 1:]
    stages = stage_state[:, 1:].mT @ stage_state[:, 1:]
    states[:, :-1] = by_state[:, 1:].mT @ weighted_state + stages
    # every cost has entered; what is left touches only the main diagonal
    states.diagonal(dim1=-2, dim2=-1).add_(weight[..., 0])
    main = diagonal.diagonal(dim1=-2, dim2=-1)
    main[..., :actions].add_(system.action_curvature)
    main.add_(system.damping[:, None, None])
    lower = seed.new_zeros(batch, horizon - 1, width, width)
    lower[..., :actions, actions:] = (
        by_action[:, 1:].mT @ weighted_state
        + stage_action[:, 1:].mT @ stage_state[:, 1:]
    )
    lower[..., actions:, actions:] = -weighted_state
    return diagonal, lower


def _solve_normal_equations(
    system: ChainSystem, factor: tuple[Tensor, ...], rhs: ChainRightHandSide
) -> tuple[Tensor, Tensor, Tensor]:
    horizon = system.state_jacobian.shape[1]
    weight = system.transition_weight[..., None]
    pull = weight * rhs.defect
    states = rhs.states - pull
    back = times(pull[:, 1:], system.state_jacobian[:, 1:])
    states = states + torch.nn.functional.pad(back, (0, 0, 0, 1))
    actions = rhs.actions + times(pull, system.action_jacobian)
    unknowns = _substitute(
        factor[:horizon], factor[horizon:], torch.cat((actions, states), -1)
    )
    actions, states = unknowns.split((actions.shape[-1], states.shape[-1]), -1)
    before = with_given_state(states)[:, :-1]
    predicted = times(before, system.state_jacobian.mT)
    predicted = predicted + times(actions, system.action_jacobian.mT)
    return states, actions, weight * (states - predicted + rhs.defect)
