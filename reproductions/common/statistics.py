"""Numbers with their uncertainty. Every interval is a 95 % confidence interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from diffplan._runs.estimates import Estimate, mean
from diffplan.errors import ArgumentError

Key = TypeVar("Key", int, str)

_FEWEST_EQUAL = 6
"""Six coins fall on one side in 2 of 64 cases, five in 2 of 32: more than 5 %."""


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
    from scipy import stats  # takes longer than all else that a unit imports

    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return Estimate(successes / trials, interval.low, interval.high, trials)


def over_seeds(seeds: Iterable[Sequence[float]], *, shares: bool) -> Estimate:
    """Return the mean over training seeds; of one seed alone, over its episodes.

    Args:
        seeds: Numbers of the episodes of each.
        shares: Whether these are 0 or 1, of which one seed has a rate.
    """
    first, *more = seeds
    if more:
        return mean([math.fsum(each) / len(each) for each in (first, *more)])
    return proportion(int(sum(first)), len(first)) if shares else mean(first)


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
    centre, count = float(np.mean(first) - np.mean(second)), len(first) + len(second)
    if np.ptp(first) == np.ptp(second) == 0:  # SciPy would divide zero by zero
        return Estimate(centre, centre, centre, count)
    from scipy import stats

    test = stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Estimate(centre, interval.low, interval.high, count)


def paired_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Return the mean of first - second, with Student's interval over both factors.

    For two methods tried with the same models from the same starts, both drawn by
    chance. The squared half of the interval is that of Student's t over the models'
    means, plus that over the starts' means, less that of what is left without both,
    which the two count; but no less than any of the three. With few models it covers
    the truth where a bootstrap does not. One model alone says nothing about others: the
    interval is over its starts.

    Fewer than six differences that are all equal have no interval: as many coins fall
    on one side in more than 5 % of all cases.

    Args:
        first: Outcomes `[models, starts]`.
        second: The same of the other method, in the same order.

    Raises:
        ArgumentError: the shapes differ, or are not those of a table with entries.

    References:
        Graybill and Wang 1980, "Confidence intervals on nonnegative linear
        combinations of variances".

    Example:
        >>> ones = np.ones((3, 5))
        >>> paired_difference(ones, ones * 0.25).number(2)
        '0.75 [0.75, 0.75]'
    """
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise ArgumentError(
            f"second: expected outcomes [models, starts] as the first's, got "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    gaps = np.asarray(first, dtype=float) - second
    centre = float(gaps.mean())
    if gaps.size < _FEWEST_EQUAL and np.ptp(gaps) == 0:
        return Estimate(centre, math.nan, math.nan, gaps.size)
    models, starts = gaps.mean(axis=1, keepdims=True), gaps.mean(axis=0, keepdims=True)
    free = [count - 1 for count in gaps.shape]
    over_models = _squared_half(models - centre, free[0])
    over_starts = _squared_half(starts - centre, free[1])
    twice = _squared_half(gaps - models - starts + centre, free[0] * free[1])
    together = over_models + over_starts - twice
    half = math.sqrt(max(over_models, over_starts, twice, together))
    return Estimate(centre, centre - half, centre + half, gaps.size)


def _squared_half(deviations: np.ndarray, freedom: int) -> float:
    """Return the square of half of Student's interval of a mean; 0 without freedom."""
    if freedom == 0:
        return 0.0
    from scipy import stats

    point = float(stats.t.ppf(0.975, freedom))
    return point**2 * float((deviations**2).sum()) / freedom / deviations.size


def paired_outcomes(
    first: Mapping[tuple[Key, Key], float], second: Mapping[tuple[Key, Key], float]
) -> Estimate | None:
    """Return the paired difference of outcomes by model and start.

    With the models that both have, from the starts that both have with all of them;
    None if there is none.
    """
    both = first.keys() & second.keys()
    models = sorted({m for m, _ in first} & {m for m, _ in second})
    starts = sorted({s for _, s in first})
    starts = [s for s in starts if all((m, s) in both for m in models)]
    if not models or not starts:
        return None
    tables = [
        [[table[m, s] for s in starts] for m in models] for table in (first, second)
    ]
    return paired_difference(*map(np.array, tables))
