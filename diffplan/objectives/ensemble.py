"""Ensembles: one reward or value of several heads, and a price of disagreement."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffplan._checks import require_at_least, sequence
from diffplan._user_functions import ask
from diffplan.capabilities import takes_action
from diffplan.errors import ArgumentError, TensorTypeError
from diffplan.functional._safe_math import safe_norm
from diffplan.objectives._base import ResidualObjective, no_residual

_Combine = Callable[[Tensor], Tensor]
"""`heads […, K] → one […]`."""


def minimum(heads: Float[Tensor, "... some=heads"]) -> Tensor:
    """Return the least of the heads `[…, K]`, as twin critics are read.

    Example:
        >>> minimum(torch.tensor([1.0, 3.0]))
        tensor(1.)
    """
    return heads.amin(dim=-1)


def mean(heads: Float[Tensor, "... some=heads"]) -> Tensor:
    """Return the average of the heads `[…, K]`.

    Example:
        >>> mean(torch.tensor([1.0, 3.0]))
        tensor(2.)
    """
    return heads.mean(dim=-1)


def deviation(heads: Float[Tensor, "... some=heads"]) -> Tensor:
    """Return the standard deviation of the heads `[…, K]`, how far they disagree.

    Example:
        >>> deviation(torch.tensor([1.0, 3.0]))
        tensor(1.)
    """
    apart = heads - heads.mean(dim=-1, keepdim=True)
    # Where all heads agree there is no derivative; nothing is to pay. Just beside that
    # the third one, which grows with the square of 1 / deviation, leaves the dtype.
    least = torch.finfo(heads.dtype).tiny ** (1 / 3)
    agree = heads.amax(dim=-1) - heads.amin(dim=-1) <= least
    apart = torch.where(agree.unsqueeze(-1), 0.0, apart)
    return safe_norm(apart).squeeze(-1) / heads.shape[-1] ** 0.5


@dataclass(frozen=True)
class LowerConfidenceBound:
    """The average of the heads less `kappa` of their standard deviations.

    Attributes:
        kappa: At least zero; zero is the mean.

    Raises:
        ArgumentError: `kappa` is negative.

    Example:
        >>> LowerConfidenceBound(0.5)(torch.tensor([1.0, 3.0]))  # 2 - ½ · 1
        tensor(1.5000)
    """

    kappa: float

    def __post_init__(self) -> None:
        require_at_least("kappa", self.kappa, 0.0)

    def __call__(self, heads: Tensor) -> Tensor:
        """Return the bound `[…]` of heads `[…, K]`."""
        return heads.mean(dim=-1) - self.kappa * deviation(heads)


class Ensemble(nn.Module):
    """One reward or value, made of several: a function wherever one is asked for.

    Args:
        heads: At least one function `state […, S] → […]`, or of state and action if
            the argument is called `action`; all of one kind.
        combine: `minimum`, `mean`, `LowerConfidenceBound(kappa)`, `deviation` (as a
            price of doubt), or your own.

    Raises:
        ArgumentError: no heads, or some see the action and some do not.
        TensorTypeError: one is not callable.

    Example:
        >>> heads = [lambda state: state[..., 0], lambda state: -state[..., 0]]
        >>> Ensemble(heads, minimum)(torch.tensor([2.0]))
        tensor(-2.)
    """

    def __init__(
        self, heads: Iterable[Callable[..., Tensor]], combine: _Combine
    ) -> None:
        super().__init__()
        heads = sequence("heads", heads)
        if not heads:
            raise ArgumentError("heads: expected at least one, got none")
        kinds = {takes_action(head) for head in heads}
        if len(kinds) > 1:
            raise ArgumentError(
                "heads: expected all of them to take an `action`, or none, got both"
            )
        self.takes_action = kinds.pop()
        self.combine = combine
        self.heads = _as_modules("heads", heads)

    def forward(self, state: Tensor, *action: Tensor) -> Tensor:
        """Return the combination `[…]` for states `[…, S]`, and perhaps actions."""
        lead = state.shape[:-1]
        values = [_checked(head, lead, state, *action) for head in self.heads]
        return _checked(self.combine, lead, torch.stack(values, dim=-1))

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(self, state: Tensor, *action: Tensor) -> Tensor: ...  # noqa: D102


class Disagreement(ResidualObjective):
    """A price of going where dynamics models disagree: ½ w Σ_t Σ_k ‖f_k - f̄‖² / K.

    f_k are the models' next states from (x_t, u_t), f̄ is their average.

    Args:
        models: At least two dynamics, `(state, action) → next_state`.
        weight: w, at least zero.

    Raises:
        ArgumentError: fewer models, or a negative weight.
        TensorTypeError: a model is not callable.

    Example:
        >>> models = [lambda state, action: state, lambda state, action: state + 2]
        >>> Disagreement(models, 2.0)(torch.zeros(3, 1), torch.zeros(2, 1))
        tensor(2.)
    """

    def __init__(
        self, models: Iterable[Callable[..., Tensor]], weight: float = 1.0
    ) -> None:
        super().__init__()
        models = sequence("models", models)
        if len(models) < 2:
            raise ArgumentError(f"models: expected at least two, got {len(models)}")
        self.models = _as_modules("models", models)
        self.weight = require_at_least("weight", weight, 0.0)

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return √(w/K) (f_k - f̄) of all models side by side `[…, K · S]`."""
        following = torch.stack(
            [_checked(model, state.shape, state, action) for model in self.models], -2
        )
        apart = following - following.mean(dim=-2, keepdim=True)
        return (self.weight / len(self.models)) ** 0.5 * apart.flatten(-2)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return no residual `[…, 0]`."""
        return no_residual(state)


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> Tensor:
        return self.function(*given)


def _as_modules(name: str, functions: Iterable[Callable[..., Tensor]]) -> nn.ModuleList:
    """Return modules, so that parameters and data of each problem are found."""
    modules = nn.ModuleList()
    for index, function in enumerate(functions):
        if not callable(function):
            raise TensorTypeError(
                f"{name}[{index}]: expected a callable, got {type(function).__name__}"
            )
        if not isinstance(function, nn.Module):
            function = _Function(function)
        modules.append(function)
    return modules


def _checked(
    function: Callable[..., Tensor], shape: torch.Size, *given: Tensor
) -> Tensor:
    advice = "it takes any leading dimensions"
    return ask("objective:", function, *given, expected=shape, advice=advice)
