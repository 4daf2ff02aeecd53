"""Independent networks trained side by side, as one tensor with a row per member.

Small networks leave a processor waiting for the interpreter. Members with the same
layers are therefore trained together: their parameters are the rows of one matrix, a
layer is one batched product, and the optimiser is elementwise. Nothing crosses members:
clipping, learning rate and random stream belong to each, so that a member is what it
would be alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_positive

BETAS, STABILITY = (0.9, 0.999), 1e-8
"""Of Adam: PyTorch's defaults."""

IMPROVEMENT, SMALLEST_CHANGE = 1e-4, 1e-8
"""Of the plateau: PyTorch's defaults (relative; of the learning rate)."""

Layers = list[tuple[Tensor, Tensor]]
"""Weight `[M, in, out]` and bias `[M, 1, out]` of each layer of M members."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam with clipping; the learning rate falls when validation stands still.

    Attributes:
        learning_rate: Of Adam, at first.
        gradient_clip: Largest norm of a member's gradient.
        patience: Evaluations without an improvement that are waited for.
        factor: Multiplies the learning rate then.
    """

    learning_rate: float = 1e-3
    gradient_clip: float = 1.0
    patience: int = 20
    factor: float = 0.5

    def __post_init__(self) -> None:
        require_positive("learning_rate", self.learning_rate)
        require_positive("gradient_clip", self.gradient_clip)
        require_at_least("patience", self.patience, 0)
        require_positive("factor", self.factor)


def parameter_count(sizes: Sequence[int]) -> int:
    """Return how many parameters a network with these layer sizes has."""
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


def layers(parameters: Tensor, sizes: Sequence[int]) -> Layers:
    """Return the layers that lie in the rows of `parameters`, as views.

    Args:
        parameters: `[M, P]`.
        sizes: Inputs, hidden widths …, outputs; they add up to P.
    """
    members = parameters.shape[0]
    pairs = list(pairwise(sizes))
    lengths = [n for inputs, outputs in pairs for n in (inputs * outputs, outputs)]
    parts = iter(parameters.split(lengths, dim=1))
    return [
        (
            next(parts).view(members, inputs, outputs),
            next(parts).view(members, 1, outputs),
        )
        for inputs, outputs in pairs
    ]


def network(
    network_layers: Layers, inputs: Tensor, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply each member's network to its own rows.

    Args:
        network_layers: Of M members.
        inputs: `[B, …, in]`, where B is M times a number: the members follow one
            another, each with as many entries.
        activation: Between the layers.

    Returns:
        `[B, …, out]`.
    """
    members = network_layers[0][0].shape[0]
    hidden = inputs.reshape(members, -1, inputs.shape[-1])
    for index, (weight, bias) in enumerate(network_layers):
        hidden = torch.baddbmm(
            bias, hidden if index == 0 else activation(hidden), weight
        )
    return hidden.reshape(*inputs.shape[:-1], hidden.shape[-1])


class EnsembleAdam:
    """Adam, clipping and falling learning rates of M independent members.

    Equal, member by member, to `torch.optim.Adam`, `clip_grad_norm_` and
    `ReduceLROnPlateau` with their defaults.

    Args:
        parameters: `[M, P]`, a leaf; changed in place.
        settings: Of each member.
    """

    def __init__(self, parameters: Tensor, settings: OptimizerSettings) -> None:
        members = parameters.shape[0]
        self.parameters, self.settings = parameters, settings
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters)
        self.steps = 0
        self.learning_rate = [settings.learning_rate] * members
        self.best = [float("inf")] * members
        self.waited = [0] * members
        self._rate = self._column()

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Change the parameters by a gradient `[M, P]`, clipped row by row."""
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        share = (self.settings.gradient_clip / (norm + 1e-6)).clamp_max(1.0)
        gradient = gradient * share
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first_share = 1 - BETAS[0] ** self.steps
        second_share = (1 - BETAS[1] ** self.steps) ** 0.5
        denominator = (self.second.sqrt() / second_share).add_(STABILITY)
        self.parameters.sub_(self._rate / first_share * self.first / denominator)

    def observe(self, errors: Sequence[float]) -> None:
        """Lower the learning rate of each member whose error stands still.

        As in PyTorch, "better" is less than the best times 0.9999; for the negative
        costs of the cartpole this lets a slightly worse one pass.
        """
        for index, error in enumerate(errors):
            if error < self.best[index] * (1 - IMPROVEMENT):
                self.best[index], self.waited[index] = error, 0
            else:
                self.waited[index] += 1
            if self.waited[index] > self.settings.patience:
                self.waited[index] = 0
                lower = self.learning_rate[index] * self.settings.factor
                if self.learning_rate[index] - lower > SMALLEST_CHANGE:
                    self.learning_rate[index] = lower
        self._rate = self._column()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a later step depends on, parameters included."""
        return {
            "parameters": self.parameters.detach().clone(),
            "first": self.first,
            "second": self.second,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "best": self.best,
            "waited": self.waited,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        self.parameters.copy_(state["parameters"])
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.steps = state["steps"]
        self.learning_rate = list(state["learning_rate"])
        self.best, self.waited = list(state["best"]), list(state["waited"])
        self._rate = self._column()

    def _column(self) -> Tensor:
        rates = torch.tensor(self.learning_rate, dtype=torch.float64)
        return rates.to(self.parameters).unsqueeze(1)
