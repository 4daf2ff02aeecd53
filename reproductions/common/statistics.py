"""Numbers with their uncertainty. Every interval is a 95 % confidence interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffplan.errors import ArgumentError

NORMAL_975 = 1.959963984540054
"""97.5 % point of the standard normal distribution."""

T_975 = (
    *(12.706204736, 4.302652730, 3.182446305, 2.776445105, 2.570581836),
    *(2.446911851, 2.364624252, 2.306004135, 2.262157163, 2.228138852),
    *(2.200985160, 2.178812830, 2.160368656, 2.144786688, 2.131449546),
    *(2.119905299, 2.109815578, 2.100922040, 2.093024054, 2.085963447),
    *(2.079613845, 2.073873068, 2.068657610, 2.063898562, 2.059538553),
    *(2.055529439, 2.051830516, 2.048407142, 2.045229642, 2.042272456),
)
"""97.5 % points of Student's t distribution with 1 … 30 degrees of freedom."""


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

    def number(self, digits: int = 0) -> str:
        """Return it as text, `212 [180, 244]`."""
        pattern = f"{{:.{digits}f}}"
        return pattern.format(self.value) + self._interval(1.0, pattern)

    def _interval(self, scale: float, pattern: str) -> str:
        if math.isnan(self.low):
            return ""
        low, high = pattern.format(scale * self.low), pattern.format(scale * self.high)
        return f" [{low}, {high}]"


def proportion(successes: int, trials: int) -> Estimate:
    """Return a rate with Wilson's score interval.

    Unlike mean ± 2 standard errors it is never empty and never leaves 0 … 1, at 0 or n
    successes too. It is about *these* trials: where several share one trained model it
    says nothing about other trainings.

    Args:
        successes: 0 … trials.
        trials: At least 1.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical
        inference".

    Example:
        >>> proportion(10, 10).percent()
        '100 % [72, 100]'
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ArgumentError(
            f"proportion: expected 0 … trials of at least 1, got {successes} of "
            f"{trials}"
        )
    rate, square = successes / trials, NORMAL_975**2 / trials
    centre = (rate + square / 2) / (1 + square)
    root = math.sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    half = NORMAL_975 / (1 + square) * root
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(rate, low, high, trials)


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
    variance = math.fsum((value - centre) ** 2 for value in values) / (count - 1)
    half = student_t(count - 1) * math.sqrt(variance / count)
    return Estimate(centre, centre - half, centre + half, count)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return the mean of the first less that of the second, with Welch's interval.

    For independent samples whose variances may differ.

    Args:
        first: At least two.
        second: At least two.

    References:
        Welch 1947, "The generalization of 'Student's' problem when several different
        population variances are involved".

    Example:
        >>> difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]).number(1)
        '1.0 [-1.3, 3.3]'
    """
    if min(len(first), len(second)) < 2:
        raise ArgumentError("difference: expected at least two values in each sample")
    means = [math.fsum(values) / len(values) for values in (first, second)]
    errors = [
        math.fsum((value - centre) ** 2 for value in values)
        / (len(values) - 1)
        / len(values)
        for values, centre in zip((first, second), means, strict=True)
    ]
    centre, square = means[0] - means[1], sum(errors)
    count = len(first) + len(second)
    if square == 0:
        return Estimate(centre, centre, centre, count)
    parts = [e**2 / (len(v) - 1) for e, v in zip(errors, (first, second), strict=True)]
    # Rounded down: the wider interval.
    freedom = max(1, math.floor(square**2 / sum(parts)))
    half = student_t(freedom) * math.sqrt(square)
    return Estimate(centre, centre - half, centre + half, count)


def student_t(freedom: int) -> float:
    """Return the 97.5 % point of Student's t; above 30 a series is exact to 1e-5."""
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    # Cornish-Fisher expansion around the normal point.
    z, n = NORMAL_975, freedom
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third
