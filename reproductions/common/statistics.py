"""Numbers with their uncertainty. Every interval is a 95 % confidence interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from diffplan._runs.estimates import Estimate, mean
from diffplan.errors import ArgumentError

Key = TypeVar("Key", int, str)


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


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 10_000
) -> Estimate:
    """Return the mean of first - second, with a bootstrap interval over both factors.

    For two methods tried with the same models from the same starts: models (training
    seeds) and starts are drawn anew, each with replacement and independently, and the
    interval holds the middle 95 % of the means (the pigeonhole bootstrap, which is
    conservative). One model alone says nothing about others: only starts are drawn.

    Args:
        first: Outcomes `[models, starts]`.
        second: The same of the other method, in the same order.
        resamples: Number of means.

    Raises:
        ArgumentError: the shapes differ, or are not those of a table with entries.

    References:
        Owen 2007, "The pigeonhole bootstrap".

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
    models, starts = gaps.shape
    draw = np.random.default_rng(0)
    # A mean over drawn rows and columns is a product with how often each was drawn.
    rows = draw.multinomial(models, np.full(models, 1 / models), resamples) / models
    columns = draw.multinomial(starts, np.full(starts, 1 / starts), resamples) / starts
    means = np.einsum("rm,ms,rs->r", rows, gaps, columns)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(gaps.mean()), float(low), float(high), gaps.size)


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
