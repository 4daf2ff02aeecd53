"""Sums of objectives that keep the structure of their terms."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diffplan._checks import require_number, sequence
from diffplan.capabilities import Part
from diffplan.errors import ArgumentError, TensorTypeError, UnsupportedProblemError
from diffplan.objectives._base import (
    TERMS,
    ResidualObjective,
    StageObjective,
    half_square,
    is_relay,
    relays,
)


class _Sum(StageObjective):
    """Costs that are sums over terms; a subclass says of what, by `_sum`."""

    terms: nn.ModuleList

    @relays
    def running_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return the sum of running costs `[…]`."""
        return self._sum("running_cost", time, state, action)

    @relays
    def terminal_cost(self, state: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the sum of terminal costs `[…]`."""
        return self._sum("terminal_cost", time, state)

    @relays
    def initial_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return the sum of initial costs `[…]`."""
        return self._sum("initial_cost", time, state, action)

    def _sum(self, name: str, time: Tensor | None, *given: Tensor) -> Tensor:
        return torch.stack(self._each(name, time, *given)).sum(dim=0)

    def _each(self, name: str, time: Tensor | None, *given: Tensor) -> list[Tensor]:
        terms = cast(Iterable[StageObjective], self.terms)
        return [term.timed_term(name, time)(*given) for term in terms]


class SumOfResiduals(_Sum, ResidualObjective):
    """The sum of residual objectives: residuals side by side, costs added.

    Args:
        terms: At least one `ResidualObjective`.

    Raises:
        ArgumentError: no terms are given.
        TensorTypeError: a term is no `ResidualObjective`.
        UnsupportedProblemError: a term has a `forward` of its own.
    """

    def __init__(self, terms: Iterable[ResidualObjective]) -> None:
        super().__init__()
        self.terms = _checked(terms, ResidualObjective)
        _take_after(self, self.terms)
        self._squares = all(map(_is_squares, self.terms))

    def parts(self) -> list[Part]:
        """Return the terms."""
        return [Part(term) for term in self.terms]

    @relays
    def running_residual(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return all running residuals `[…, R₁ + R₂ + …]`."""
        return torch.cat(self._each("running_residual", time, state, action), dim=-1)

    @relays
    def terminal_residual(self, state: Tensor, time: Tensor | None = None) -> Tensor:
        """Return all terminal residuals `[…, R₁ + R₂ + …]`."""
        return torch.cat(self._each("terminal_residual", time, state), dim=-1)

    @relays
    def initial_residual(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return all initial residuals `[…, R₁ + R₂ + …]`."""
        return torch.cat(self._each("initial_residual", time, state, action), dim=-1)

    def _sum(self, name: str, time: Tensor | None, *given: Tensor) -> Tensor:
        if not self._squares:
            return super()._sum(name, time, *given)
        residual = name.replace("cost", "residual")
        return half_square(self.timed_term(residual, time)(*given))


class WeightedSum(_Sum):
    """A weighted sum of stage objectives.

    Args:
        terms: At least one `StageObjective`.
        weights: One number per term.

    Raises:
        ArgumentError: no terms are given, or weights of another number.
        TensorTypeError: a term is no `StageObjective`.
        UnsupportedProblemError: a term has a `forward` of its own.
    """

    def __init__(
        self, terms: Iterable[StageObjective], weights: Iterable[float]
    ) -> None:
        super().__init__()
        self.terms = _checked(terms, StageObjective)
        _take_after(self, self.terms)
        self.weights = sequence("weights", weights)
        for index, weight in enumerate(self.weights):
            require_number(f"weights[{index}]", weight)
        if len(self.weights) != len(self.terms):
            raise ArgumentError(
                f"weights: expected one per term ({len(self.terms)}), "
                f"got {len(self.weights)}"
            )

    def parts(self) -> list[Part]:
        """Return the terms with their weights."""
        return [Part(*pair) for pair in zip(self.terms, self.weights, strict=True)]

    def _each(self, name: str, time: Tensor | None, *given: Tensor) -> list[Tensor]:
        costs = super()._each(name, time, *given)
        return [w * cost for w, cost in zip(self.weights, costs, strict=True)]


def _take_after(total: StageObjective, terms: nn.ModuleList) -> None:
    """Let a sum know what its terms know of themselves."""
    parts = cast(Sequence[StageObjective], terms)
    total.uses_time = total.uses_time or any(part.uses_time for part in parts)
    horizons = {part.only_horizon for part in parts} - {None}
    if len(horizons) > 1:
        raise ArgumentError(
            f"terms: expected data for one horizon, got {sorted(map(str, horizons))}"
        )
    total.only_horizon = next(iter(horizons), None)
    total.same_start = total.same_start and all(part.same_start for part in parts)


def _checked(terms: Iterable[nn.Module], kind: type[StageObjective]) -> nn.ModuleList:
    terms = sequence("terms", terms)
    if not terms:
        raise ArgumentError("terms: expected at least one objective, got none")
    for index, term in enumerate(terms):
        if not isinstance(term, kind):
            raise TensorTypeError(
                f"terms[{index}]: expected a {kind.__name__}, got {type(term).__name__}"
            )
        if not term.sums_steps:
            raise UnsupportedProblemError(
                f"terms[{index}]: expected a {kind.__name__} whose cost is the sum of "
                f"its terms, got {type(term).__name__}, whose `forward` is its own; "
                "add costs of whole trajectories in a function"
            )
    return nn.ModuleList(terms)


def _is_squares(term: nn.Module) -> bool:
    """Return whether costs are half the squares of residuals, not a class's own."""
    relayed = all(is_relay(type(term), name) for name in TERMS[:3])
    return relayed and getattr(term, "_squares", True)
