"""Block-tridiagonal linear algebra for any Theseus problem that is a chain.

Use it with Theseus' own optimisers::

    th.LevenbergMarquardt(
        objective,
        linear_solver_cls=BlockTridiagonalSolver,
        linearization_cls=BlockTridiagonalLinearization,
    )

A Theseus problem with a cost per time step has normal equations whose matrix is mostly
zeros: stock Theseus factors it densely, in O((T n)³). Here the variables are sorted
into levels such that every cost touches one level or two neighbouring ones (a
breadth-first search in the graph of costs); level by level the matrix is block
tridiagonal, and its Cholesky factorisation takes O(T n³). Jacobians of equal costs are
multiplied in one batched product.

Any objective is accepted: one that is no chain only has few, wide levels.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, SingularSystemError
from diffplan.functional.block_tridiagonal import BlockTridiagonal
from diffplan.solvers._theseus_import import LinearSolver, th

__all__ = [
    "BlockTridiagonalLinearization",
    "BlockTridiagonalSolver",
    "ChainLevenbergMarquardt",
]


def _find_levels(widths: Sequence[int], costs: Sequence[Sequence[int]]) -> list[int]:
    """Sort variables into levels so that costs touch at most two neighbours.

    Args:
        widths: Size of each variable; the widest level is kept narrow.
        costs: Per cost, the indices of its variables.

    Returns:
        The level of each variable, from 0. Unconnected parts follow each other.
    """
    size = len(widths)
    neighbours: list[set[int]] = [set() for _ in range(size)]
    for variables in costs:
        for variable in variables:
            neighbours[variable].update(variables)
    levels = [-1] * size
    first = 0
    for variable in range(size):
        if levels[variable] < 0:
            # From an end of the chain the levels are narrowest, and whatever a search
            # from anywhere meets last lies at an end.
            ends = _search(neighbours, variable)[-1]
            candidates = [_search(neighbours, end) for end in ends]
            for offset, members in enumerate(_narrowest(candidates, widths)):
                for member in members:
                    levels[member] = first + offset
            first = max(levels) + 1
    return levels


def _narrowest(
    candidates: list[list[list[int]]], widths: Sequence[int]
) -> list[list[int]]:
    def widest_level(layers: list[list[int]]) -> int:
        return max(sum(widths[variable] for variable in layer) for layer in layers)

    return min(candidates, key=widest_level)


def _search(neighbours: list[set[int]], start: int) -> list[list[int]]:
    """Breadth-first search: the variables at each distance from `start`."""
    seen, layers = {start}, [[start]]
    while layers[-1]:
        layer = []
        for variable in layers[-1]:
            for other in sorted(neighbours[variable] - seen):
                seen.add(other)
                layer.append(other)
        layers.append(layer)
    return layers[:-1]


@dataclass
class _Group:
    """Costs whose Jacobians multiply in one product: same sizes, same places.

    Attributes:
        sides: Per variable of the cost: 0 for the lower of its two levels, else 1.
        offsets: Per variable: its first row within its level.
        members: Positions of the costs in the objective.
        levels: Per cost: its lower level.
    """

    sides: tuple[int, ...]
    offsets: tuple[int, ...]
    members: list[int] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)


class BlockTridiagonalLinearization(th.optimizer.Linearization):
    """Assembles JᵀJ and Jᵀe level by level; never a dense matrix.

    Args:
        objective: Any Theseus objective.
        ordering: As of Theseus; None takes its default.
    """

    def __init__(
        self,
        objective: th.Objective,
        ordering: th.optimizer.VariableOrdering | None = None,
        **_: object,
    ) -> None:
        super().__init__(objective, ordering)
        touched = [
            [self.ordering.index_of(variable.name) for variable in cost.optim_vars]
            for cost in objective.cost_functions.values()
        ]
        self.levels = _find_levels(self.var_dims, touched)
        self.num_levels = max(self.levels) + 1
        widths = [0] * self.num_levels
        self.offsets = []
        for level, width in zip(self.levels, self.var_dims, strict=True):
            self.offsets.append(widths[level])
            widths[level] += width
        self.width = max(widths)
        self.groups = self._group(objective, touched)
        self.touched = touched
        # Where each column of the ordering lies in [levels · width].
        self.places = torch.cat(
            [
                torch.arange(width) + level * self.width + offset
                for level, offset, width in zip(
                    self.levels, self.offsets, self.var_dims, strict=True
                )
            ]
        )
        self.diagonal: Tensor
        self.lower: Tensor
        self.gradient: Tensor
        self.jacobians: list[list[Tensor]]

    def _group(self, objective: th.Objective, touched: list[list[int]]) -> list[_Group]:
        groups: dict[tuple[Any, ...], _Group] = {}
        for index, cost in enumerate(objective.cost_functions.values()):
            variables = touched[index]
            level = min(self.levels[variable] for variable in variables)
            sides = tuple(self.levels[variable] - level for variable in variables)
            offsets = tuple(self.offsets[variable] for variable in variables)
            widths = tuple(self.var_dims[variable] for variable in variables)
            key = (cost.dim(), sides, offsets, widths)
            group = groups.setdefault(key, _Group(sides, offsets))
            group.members.append(index)
            group.levels.append(level)
        return list(groups.values())

    def _linearize_jacobian_impl(self) -> None:
        self._linearize_hessian_impl()

    def _linearize_hessian_impl(self, _detach_hessian: bool = False) -> None:
        served = [
            cost.weighted_jacobians_error()
            for cost in self.objective._get_jacobians_iter()
        ]
        self.jacobians = [jacobians for jacobians, _ in served]
        batch, count, width = self.objective.batch_size, self.num_levels, self.width
        like = {"dtype": self.objective.dtype, "device": self.objective.device}
        diagonal = torch.zeros(count, batch, width, width, **like)
        lower = torch.zeros(max(count - 1, 0), batch, width, width, **like)
        gradient = torch.zeros(count, batch, width, **like)
        for group in self.groups:
            results = [served[i] for i in group.members]
            levels = torch.tensor(group.levels, device=gradient.device)
            error = torch.stack([error for _, error in results]).unsqueeze(-1)
            jacobians = _by_side(group, [jacobians for jacobians, _ in results], width)
            for side, jacobian in jacobians.items():
                at = levels + side
                downhill = -(jacobian.mT @ error).squeeze(-1)
                gradient = gradient.index_add(0, at, downhill)
                diagonal = diagonal.index_add(0, at, jacobian.mT @ jacobian)
            if len(jacobians) == 2:
                coupling = jacobians[1].mT @ jacobians[0]
                lower = lower.index_add(0, levels, coupling)
        if _detach_hessian:
            diagonal, lower = diagonal.detach(), lower.detach()
        self.diagonal, self.lower = diagonal.movedim(1, 0), lower.movedim(1, 0)
        self.gradient = gradient.movedim(1, 0)

    def matrix(self) -> BlockTridiagonal:
        """Return JᵀJ, with ones on the diagonal of rows that belong to no variable."""
        unused = torch.ones(self.num_levels * self.width)
        unused[self.places] = 0
        padding = unused.view(self.num_levels, self.width).to(self.diagonal)
        return BlockTridiagonal(
            self.diagonal + torch.diag_embed(padding), self.lower.contiguous()
        )

    def spread(self, columns: Tensor) -> Tensor:
        """Put values per column `[B, columns]` in their levels `[B, levels, width]`."""
        wide = columns.new_zeros(columns.shape[0], self.num_levels * self.width)
        places = self.places.to(columns.device).expand(columns.shape[0], -1)
        return wide.scatter(1, places, columns).unflatten(1, (self.num_levels, -1))

    def collect(self, levels: Tensor) -> Tensor:
        """Undo `spread`."""
        return levels.flatten(1)[:, self.places.to(levels.device)]

    def _ata_impl(self) -> Tensor:
        places = self.places.to(self.diagonal.device)
        dense = BlockTridiagonal(self.diagonal, self.lower.contiguous()).to_dense()
        return dense[:, places][:, :, places]

    def _atb_impl(self) -> Tensor:
        return self.collect(self.gradient).unsqueeze(-1)

    def hessian_approx(self) -> Tensor:
        """Return JᵀJ, dense (Theseus asks for it only where it was dense before)."""
        return self._ata_impl()

    def Av(self, v: Tensor) -> Tensor:
        """Return J v `[B, rows]`, cost by cost, for `v` `[B, columns]`."""
        rows: list[Tensor] = []
        for variables, jacobians in zip(self.touched, self.jacobians, strict=True):
            parts = [
                torch.einsum("brc,bc->br", jacobian, v.narrow(1, start, width))
                for jacobian, start, width in zip(
                    jacobians,
                    (self.var_start_cols[variable] for variable in variables),
                    (self.var_dims[variable] for variable in variables),
                    strict=True,
                )
            ]
            rows.append(torch.stack(parts).sum(0))
        return torch.cat(rows, dim=1)

    def diagonal_scaling(self, v: Tensor) -> Tensor:
        """Return diag(JᵀJ) · v for `v` `[B, columns]`."""
        return v * self.collect(self.diagonal.diagonal(dim1=-2, dim2=-1))


class BlockTridiagonalSolver(LinearSolver):
    """Block-tridiagonal Cholesky, with Theseus' two kinds of damping.

    A matrix that is not positive definite raises, as in Theseus' own solvers: of a step
    of zero Theseus would say that it has converged, and that its derivative is zero.
    Which elements it was is in `ok` `[B]`.

    Args:
        objective: The objective.
        linearization_cls: `BlockTridiagonalLinearization`, the default.
        linearization_kwargs: Passed on to it.
        dtype: Precision of the factorisation; the normal equations square the
            condition number, so float64 is the default.

    Raises:
        ArgumentError: another linearisation is given.
    """

    def __init__(
        self,
        objective: th.Objective,
        linearization_cls: type | None = None,
        linearization_kwargs: dict[str, Any] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        **_: object,
    ) -> None:
        chosen = linearization_cls or BlockTridiagonalLinearization
        if not issubclass(chosen, BlockTridiagonalLinearization):
            raise ArgumentError(
                "linearization_cls: BlockTridiagonalSolver needs a "
                f"BlockTridiagonalLinearization, got {chosen.__name__}"
            )
        super().__init__(objective, chosen, linearization_kwargs)
        self.dtype = dtype
        self.ok: Tensor | None = None

    def solve(
        self,
        damping: float | Tensor | None = None,
        ellipsoidal_damping: bool = False,
        damping_eps: float = 1e-8,
        **_: object,
    ) -> Tensor:
        """Return the step `[B, columns]` of (JᵀJ + damping) step = -Jᵀe.

        Args:
            damping: A number or `[B]`; None stands for zero.
            ellipsoidal_damping: Scale the damping by diag(JᵀJ) and add `damping_eps`.
            damping_eps: Only used with ellipsoidal damping.

        Raises:
            SingularSystemError: names the elements without such a step.
        """
        matrix = self.linearization.matrix()
        diagonal = matrix.diagonal
        if damping is not None:
            amount = torch.as_tensor(damping).to(diagonal).reshape(-1, 1, 1)
            entries = diagonal.diagonal(dim1=-2, dim2=-1)
            added = amount * entries + damping_eps if ellipsoidal_damping else amount
            diagonal = diagonal + torch.diag_embed(added.expand_as(entries))
        factor = BlockTridiagonal(
            diagonal.to(self.dtype), matrix.lower.to(self.dtype)
        ).cholesky()
        self.ok = factor.ok
        if not bool(factor.ok.all()):
            elements = torch.nonzero(~factor.ok).flatten().tolist()
            raise SingularSystemError(
                "linear_solver: JᵀJ + damping is not positive definite for the batch "
                f"elements {elements}: some variable is not determined by the costs; "
                "add a cost or damping"
            )
        step = factor.solve(self.linearization.gradient.to(self.dtype))
        return self.linearization.collect(step).to(diagonal.dtype)


class ChainLevenbergMarquardt(th.LevenbergMarquardt):
    """Theseus' Levenberg-Marquardt, allowed to damp a `BlockTridiagonalSolver`.

    `th.LevenbergMarquardt` itself takes our solver with fixed damping only: it grants
    adaptive and ellipsoidal damping by a list of its own solver classes.
    """

    def __init__(self, objective: th.Objective, **settings: Any) -> None:
        settings.setdefault("linear_solver_cls", BlockTridiagonalSolver)
        settings.setdefault("linearization_cls", BlockTridiagonalLinearization)
        super().__init__(objective, **settings)
        self._allows_ellipsoidal = self._allows_adaptive = True


def _by_side(
    group: _Group, jacobians: list[list[Tensor]], width: int
) -> dict[int, Tensor]:
    """Lay a group's Jacobians side by side as the columns of their level.

    Returns:
        Per side (0: lower level, 1: upper) `[costs, B, rows, width]`.
    """
    parts: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
    for position, (side, offset) in enumerate(
        zip(group.sides, group.offsets, strict=True)
    ):
        stacked = torch.stack([each[position] for each in jacobians])
        parts[side].append((offset, stacked))
    return {side: _columns(part, width) for side, part in sorted(parts.items())}


def _columns(parts: list[tuple[int, Tensor]], width: int) -> Tensor:
    pieces: list[Tensor] = []
    end = 0
    for offset, part in sorted(parts, key=lambda pair: pair[0]):
        pieces += [part.new_zeros(*part.shape[:-1], offset - end), part]
        end = offset + part.shape[-1]
    last = pieces[-1]
    pieces.append(last.new_zeros(*last.shape[:-1], width - end))
    return torch.cat([piece for piece in pieces if piece.shape[-1]], dim=-1)
