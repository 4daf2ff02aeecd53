"""Lagrange multipliers of collocation, one scalar per constraint and time step.

Each rule maps (multiplier, violation, tolerance) to the next multiplier, elementwise,
where the violation is the constraint's squared norm. They are the dual step of the
saddle-point problem of LatCo's Eq. 7.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class MultiplierRule(Protocol):
    """How multipliers follow violations; every argument has one shape `[…]`."""

    def __call__(
        self, multiplier: Tensor, violation: Tensor, tolerance: float
    ) -> Tensor:
        """Return the next multiplier."""
        ...


@dataclass(frozen=True)
class LogarithmicRule:
    """Scale each multiplier by the logarithm of its violation (LatCo, Eq. 10).

    λ ← λ + rate · log_base(violation / tolerance + offset) · λ

    The violation settles where the logarithm vanishes, at (1 - offset) · tolerance. No
    multiplier is clipped.

    Attributes:
        rate: α.
        offset: η, keeps the logarithm finite where the violation is zero.
        base: Base of the logarithm.

    Example:
        >>> rule = LogarithmicRule.released()
        >>> rule(torch.ones(1), torch.ones(1), 1e-4)  # a step of +40 %
        tensor([1.4000])
    """

    rate: float = 0.1
    offset: float = 0.1
    base: float = 10.0

    @classmethod
    def released(cls) -> "LogarithmicRule":
        """Return the authors' released form: log10 and η = 0.1."""
        return cls(rate=0.1, offset=0.1, base=10.0)

    @classmethod
    def paper(cls) -> "LogarithmicRule":
        """Return the form printed in Eq. 10: natural logarithm and η = 0.01."""
        return cls(rate=0.1, offset=0.01, base=math.e)

    def __call__(
        self, multiplier: Tensor, violation: Tensor, tolerance: float
    ) -> Tensor:
        """Return the next multiplier, same shape."""
        scaled = torch.log(violation / tolerance + self.offset) / math.log(self.base)
        return multiplier + self.rate * scaled * multiplier


@dataclass(frozen=True)
class DualAscent:
    """Plain dual ascent: λ ← max(0, λ + rate · (violation - tolerance)).

    The "naive gradient ascent" that LatCo's section 4 compares with.

    Attributes:
        rate: Step size.
        slack: Whether the tolerance is taken off (the released code of LatCo's
            first-order ablations does not).
    """

    rate: float = 1.0
    slack: bool = True

    def __call__(
        self, multiplier: Tensor, violation: Tensor, tolerance: float
    ) -> Tensor:
        """Return the next multiplier, same shape."""
        allowed = tolerance if self.slack else 0.0
        return (multiplier + self.rate * (violation - allowed)).clamp_min(0)


@dataclass(frozen=True)
class FixedMultiplier:
    """Never change the multipliers (LatCo's "no constrained optimization")."""

    def __call__(
        self,
        multiplier: Tensor,
        violation: Tensor,
        tolerance: float,
    ) -> Tensor:
        """Return the multiplier itself."""
        return multiplier
