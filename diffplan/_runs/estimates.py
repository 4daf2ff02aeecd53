"""Numbers with their uncertainty. Every interval is a 95 % confidence interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffplan.errors import ArgumentError


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that holds the true one with 95 % confidence.

    Attributes:
        value: The estimate.
        low: Lower end; NaN where it is unknown.
        high: Upper end; NaN where it is unknown.
        count: Observations that it rests on.
    """

    value: float
    low: float
    high: float
    count: int

    def percent(self) -> str:
        """Return it as text, `93 % [87, 97]`; a share's interval ends at 0 and 100."""
        share = replace(self, low=max(self.low, 0.0), high=min(self.high, 1.0))
        known = self if math.isnan(self.low) else share
        return f"{100 * self.value:.0f} %" + known._interval(100.0, "{:.0f}")

    def points(self) -> str:
        """Return a difference of shares as text, `+16 points [-10, 41]`."""
        return f"{100 * self.value:+.0f} points" + self._interval(100.0, "{:+.0f}")

    def verdict(self) -> str:
        """Return whether a difference that is claimed to be positive was found."""
        if self.low > 0:
            return "held"
        return "contradicted" if self.high < 0 else "not seen"

    def number(self, digits: int = 0) -> str:
        """Return it as text, `212 [180, 244]`."""
        pattern = f"{{:.{digits}f}}"
        return pattern.format(self.value) + self._interval(1.0, pattern)

    def _interval(self, scale: float, pattern: str) -> str:
        if math.isnan(self.low):
            return ""
        low, high = pattern.format(scale * self.low), pattern.format(scale * self.high)
        return f" [{low}, {high}]"


def mean(values: Sequence[float]) -> Estimate:
    """Return a mean with Student's t interval, as for independent training seeds.

    Args:
        values: At least one; a single one has no interval.

    Example:
        >>> mean([1.0, 2.0, 3.0]).number(1)
        '2.0 [-0.5, 4.5]'
    """
    count = len(values)
    if count == 0:
        raise ArgumentError("mean: expected at least one value")
    centre = math.fsum(values) / count
    if count == 1:
        return Estimate(centre, math.nan, math.nan, 1)
    from scipy import stats

    half = stats.t.ppf(0.975, count - 1) * stats.sem(values)
    return Estimate(centre, centre - half, centre + half, count)
