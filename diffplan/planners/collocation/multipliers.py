"""Lagrange multipliers of collocation, one scalar per constraint and time step.

Each rule maps (multiplier, violation, tolerance) to the next multiplier, elementwise,
where the violation is the constraint's squared norm. They are the dual step of the
saddle-point problem of LatCo's Eq. 7.

`MethodOfMultipliers` is no such map: its multipliers are those of the constraints
themselves, one number for each of their components.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_positive, require_share
from diffplan._kinds import OrInfinite
from diffplan.errors import ArgumentError


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
        base: Base of the logarithm, above 1.

    Raises:
        ArgumentError: a number is out of range.

    Example:
        >>> rule = LogarithmicRule.released()
        >>> rule(torch.ones(1), torch.ones(1), 1e-4)  # a step of +40 %
        tensor([1.4000])
    """

    rate: float = 0.1
    offset: float = 0.1
    base: float = 10.0

    def __post_init__(self) -> None:
        require_at_least("rate", self.rate, 0.0)
        require_at_least("offset", self.offset, 0.0)
        if not self.base > 1:
            raise ArgumentError(f"base: expected a number above 1, got {self.base}")

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
        rate: Step size, at least 0.
        slack: Whether the tolerance is taken off (the released code of LatCo's
            first-order ablations does not).

    Raises:
        ArgumentError: the rate is out of range.
    """

    rate: float = 1.0
    slack: bool = True

    def __post_init__(self) -> None:
        require_at_least("rate", self.rate, 0.0)

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


@dataclass(frozen=True)
class MethodOfMultipliers:
    """Shift each constraint by its multiplier, so that the plan is the true optimum.

    The penalty ½ λ ‖d + y / λ‖² of a constraint d = 0 has the constrained optimum for
    its minimum once y is the constraint's multiplier, at any λ above some moderate
    value. A dual step is y ← y + λ d, or, for action limits, what is left of that
    outside of them. Each element takes it when its plan is near the minimum for the
    present y; until then steps are taken that lower the augmented Lagrangian, with a
    damping that adapts. See `LatCo`.

    Attributes:
        share: A dual step is due once no number of the gradient exceeds this share of
            the largest change of a multiplier.
        enough: The penalty grows unless the largest violation has fallen to this share
            of what it was at the dual step before, in (0, 1).
        growth: Factor of the penalty, at least 1.
        max_penalty: It does not grow beyond.
        tolerance: Largest violation, and largest number of the Lagrangian's gradient
            over one and the largest multiplier, of a plan that counts as CONVERGED;
            None stands for 1e-6 in float64 and 1e-3 in float32.

    Raises:
        ArgumentError: a number is out of range.

    References:
        Nocedal and Wright, *Numerical Optimization*, 2nd ed., section 17.3; Birgin and
        Martínez 2014, *Practical Augmented Lagrangian Methods for Constrained
        Optimization*, algorithm 4.1, for the rule of the penalty.

    Example:
        >>> import diffplan as dp
        >>> rule = dp.planners.MethodOfMultipliers()
        >>> planner = dp.LatCo(horizon=10, multiplier_rule=rule)
    """

    share: float = 0.3
    enough: float = 0.25
    growth: float = 10.0
    max_penalty: OrInfinite = 1e4
    tolerance: float | None = None

    def __post_init__(self) -> None:
        require_positive("share", self.share)
        if not 0 < require_share("enough", self.enough) < 1:
            raise ArgumentError(
                f"enough: expected a number in (0, 1), got {self.enough}"
            )
        require_at_least("growth", self.growth, 1.0)
        require_positive("max_penalty", self.max_penalty)
        if self.tolerance is not None:
            require_positive("tolerance", self.tolerance)

    def raised(self, penalty: Tensor, stuck: Tensor) -> Tensor:
        """Return the next penalty, larger where `stuck`; same shape."""
        grown = (self.growth * penalty).clamp_max(self.max_penalty)
        return torch.where(stuck, torch.maximum(grown, penalty), penalty)
