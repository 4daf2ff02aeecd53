"""First-order update rules as pure functions of a gradient and a small record.

`torch.optim` changes parameters in place and hides its moments, so a plan found with
it could neither be differentiated nor compiled. A rule here returns the direction to
descend and the record for the next iteration; a planner steps by
`actions - step_size * direction`.

Symbols:  g gradient · m, v running means of g and g² · t number of updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan.functional._safe_math import safe_norm, safe_sqrt


class Moments(NamedTuple):
    """What a rule remembers: running means of the gradient and of its square."""

    first: Tensor
    second: Tensor
    updates: int


@runtime_checkable
class FirstOrderRule(Protocol):
    """A rule that turns gradients into directions of descent."""

    def direction(self, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return what to subtract, before scaling by the step size, and the record."""
        ...


def start_moments(like: Tensor) -> Moments:
    """Return the record before the first update."""
    zeros = torch.zeros_like(like, requires_grad=False)
    return Moments(zeros, zeros, updates=0)


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent: direction = g."""

    def direction(self, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return the gradient itself."""
        return gradient, moments


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1), equal to `torch.optim.Adam`.

    Where the gradient was exactly zero so far the direction's derivative is 1/epsilon:
    a gradient through it is exact and huge.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def direction(self, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return m̂ / (√v̂ + epsilon), with bias-corrected means."""
        updates = moments.updates + 1
        first = self.beta1 * moments.first + (1 - self.beta1) * gradient
        second = self.beta2 * moments.second + (1 - self.beta2) * gradient.square()
        corrected_first = first / (1 - self.beta1**updates)
        corrected_second = second / (1 - self.beta2**updates)
        direction = corrected_first / (safe_sqrt(corrected_second) + self.epsilon)
        return direction, Moments(first, second, updates)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton, 2012), equal to `torch.optim.RMSprop` without momentum."""

    decay: float = 0.99
    epsilon: float = 1e-8

    def direction(self, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return g / (√v + epsilon)."""
        second = self.decay * moments.second + (1 - self.decay) * gradient.square()
        direction = gradient / (safe_sqrt(second) + self.epsilon)
        return direction, Moments(moments.first, second, moments.updates + 1)


RULES: Mapping[str, FirstOrderRule] = {
    "sgd": GradientDescent(),
    "adam": Adam(),
    "rmsprop": RMSprop(),
}
"""The rules by the names of `torch.optim`, with its default numbers."""

Optimizer = Literal["sgd", "adam", "rmsprop"]
"""The names of `RULES`."""


def rule_of(optimizer: Optimizer | FirstOrderRule) -> FirstOrderRule:
    """Return the rule of a name; a rule is returned as it is."""
    return optimizer if isinstance(optimizer, FirstOrderRule) else RULES[optimizer]


def clip_norm(gradient: Tensor, maximum: float) -> Tensor:
    """Shorten gradients `[…, A]` whose norm exceeds `maximum` to that norm."""
    return gradient * (maximum / safe_norm(gradient).clamp_min(maximum))
