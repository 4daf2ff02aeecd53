"""Sums of objectives that keep the structure of their terms."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diffplan.errors import ArgumentError, TensorTypeError, require_number, sequence
from diffplan.objectives.base import (
    ResidualObjective,
    StageObjective,
    unchecked,
)


class SumOfResiduals(ResidualObjective):
    """The sum of residual objectives: residuals side by side, costs added.

    Args:
        terms: At least one `ResidualObjective`.

    Raises:
        ArgumentError: no terms are given.
        TensorTypeError: a term is no `ResidualObjective`.
    """

    def __init__(self, terms: Iterable[ResidualObjective]) -> None:
        super().__init__()
        self.terms = _checked(terms, ResidualObjective)
        self.time_invariant = all(term.time_invariant for term in terms)

    @unchecked
    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return all running residuals `[…, R₁ + R₂ + …]`."""
        parts = [term.running_residual(state, action) for term in self._terms()]
        return torch.cat(parts, dim=-1)

    @unchecked
    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return all terminal residuals `[…, R₁ + R₂ + …]`."""
        return torch.cat([term.terminal_residual(state) for term in self._terms()], -1)

    @unchecked
    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return all initial residuals `[…, R₁ + R₂ + …]`."""
        parts = [term.initial_residual(state, action) for term in self._terms()]
        return torch.cat(parts, dim=-1)

    def _terms(self) -> Iterable[ResidualObjective]:
        return cast(Iterable[ResidualObjective], self.terms)


class WeightedSum(StageObjective):
    """A weighted sum of stage objectives.

    Args:
        terms: At least one `StageObjective`.
        weights: One number per term.

    Raises:
        ArgumentError: no terms are given, or weights of another number.
        TensorTypeError: a term is no `StageObjective`.
    """

    def __init__(
        self, terms: Iterable[StageObjective], weights: Iterable[float]
    ) -> None:
        super().__init__()
        self.terms = _checked(terms, StageObjective)
        self.time_invariant = all(term.time_invariant for term in terms)
        self.weights = sequence("weights", weights)
        for index, weight in enumerate(self.weights):
            require_number(f"weights[{index}]", weight)
        if len(self.weights) != len(self.terms):
            raise ArgumentError(
                f"weights: expected one per term ({len(self.terms)}), "
                f"got {len(self.weights)}"
            )

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the weighted sum of running costs `[…]`."""
        return self._sum([term.running_cost(state, action) for term in self._terms()])

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the weighted sum of terminal costs `[…]`."""
        return self._sum([term.terminal_cost(state) for term in self._terms()])

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the weighted sum of initial costs `[…]`."""
        return self._sum([term.initial_cost(state, action) for term in self._terms()])

    def _terms(self) -> Iterable[StageObjective]:
        return cast(Iterable[StageObjective], self.terms)

    def _sum(self, costs: Sequence[Tensor]) -> Tensor:
        weighted = [
            weight * cost for weight, cost in zip(self.weights, costs, strict=True)
        ]
        return torch.stack(weighted).sum(dim=0)


def _checked(terms: Iterable[nn.Module], kind: type[nn.Module]) -> nn.ModuleList:
    terms = sequence("terms", terms)
    if not terms:
        raise ArgumentError("terms: expected at least one objective, got none")
    for index, term in enumerate(terms):
        if not isinstance(term, kind):
            raise TensorTypeError(
                f"terms[{index}]: expected a {kind.__name__}, got {type(term).__name__}"
            )
    return nn.ModuleList(terms)
