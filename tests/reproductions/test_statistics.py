"""Intervals agree with their formulas, and with printed tables."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from diffplan.errors import ArgumentError
from reproductions.common.statistics import (
    difference,
    mean,
    paired_difference,
    proportion,
)

Z = 1.959963984540054  # 97.5 % point of the standard normal distribution


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (57, 90)])
def test_a_share_has_wilsons_interval(hits: int, trials: int) -> None:
    found, rate = proportion(hits, trials), hits / trials
    assert found.value == rate
    # Its ends are the rates p with |rate - p| = z √(p (1 - p) / n).
    for end in (found.low, found.high):
        distance = Z * math.sqrt(max(end * (1 - end), 0.0) / trials)
        assert abs(rate - end) == pytest.approx(distance, abs=1e-9)
    assert found.low <= rate <= found.high


@pytest.mark.parametrize(
    ("count", "point"), [(2, 12.706205), (3, 4.302653), (10, 2.262157), (31, 2.042272)]
)
def test_a_mean_has_students_interval(count: int, point: float) -> None:
    values = [float(index % 7) for index in range(count)]
    found = mean(values)
    centre = sum(values) / count
    spread = math.sqrt(sum((v - centre) ** 2 for v in values) / (count - 1) / count)
    assert found.value == pytest.approx(centre, rel=1e-12)
    assert found.high - found.value == pytest.approx(point * spread, rel=1e-6)
    assert found.value - found.low == pytest.approx(point * spread, rel=1e-6)


def test_a_difference_has_welchs_interval() -> None:
    # Of equal spread and size, Welch's degrees of freedom are those of the pool: 4.
    found = difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
    half = 2.776445105 * math.sqrt(2 / 3)
    assert (found.value, found.low, found.high) == pytest.approx(
        (1, 1 - half, 1 + half)
    )
    same = difference([2.0, 2.0], [1.0, 1.0])
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_one_value_has_no_interval() -> None:
    assert mean([2.0]).number() == "2"


@pytest.mark.parametrize(("hits", "trials"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts(hits: int, trials: int) -> None:
    with pytest.raises(ArgumentError, match="proportion"):
        proportion(hits, trials)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ArgumentError, match="at least one"):
        mean([])


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (2, 4)])
def test_a_paired_difference_has_the_interval_of_all_draws(
    shape: tuple[int, int],
) -> None:
    """Every way to draw rows and columns anew, each as likely: no sampling."""
    rng = np.random.default_rng(sum(shape))
    first, second = rng.normal(size=(2, *shape))
    gaps = first - second
    draws = [list(product(range(n), repeat=n)) for n in shape]
    means = sorted(gaps[np.ix_(r, c)].mean() for r in draws[0] for c in draws[1])
    found = paired_difference(first, second, resamples=100_000)
    assert found.value == pytest.approx(gaps.mean())
    # Where the share 0.025 falls between two means, either is an end of the middle.
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        near = [means[round((share + d) * (len(means) - 1))] for d in (-0.004, 0.004)]
        assert near[0] - 1e-9 <= end <= near[1] + 1e-9


def test_one_model_is_the_ordinary_bootstrap_over_starts() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 1, 40))
    found = paired_difference(first, second, resamples=50_000)
    theirs = stats.bootstrap(
        ((first - second)[0],), np.mean, n_resamples=50_000, method="percentile", rng=1
    ).confidence_interval
    # Ends of 50,000 means scatter by about 0.01 of their standard error.
    error = stats.sem((first - second)[0])
    assert found.low == pytest.approx(theirs.low, abs=0.05 * error)
    assert found.high == pytest.approx(theirs.high, abs=0.05 * error)


def test_a_paired_difference_is_as_wide_as_its_variance() -> None:
    """Var = dᵀ(E[rrᵀ] ⊗ E[ccᵀ])d - d̄², of the drawn shares r of rows, c of columns."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=(8, 1)) + rng.normal(size=(8, 30))
    moments = [1 / n**2 + (np.eye(n) - 1 / n) / n**2 for n in gaps.shape]
    second = np.einsum("ik,jl,ij,kl->", *moments, gaps, gaps)
    deviation = math.sqrt(second - gaps.mean() ** 2)
    found = paired_difference(gaps, 0 * gaps, resamples=50_000)
    assert (found.high - found.low) / (2 * Z) == pytest.approx(deviation, rel=0.02)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """Models differ by much, and in each the first method is a little better."""
    level = np.repeat(np.linspace(0.1, 0.9, 6)[:, None], 20, axis=1)
    found = paired_difference(level + 0.05, level)
    assert found.verdict() == "held"
    assert found.points() == "+5 points [+5, +5]"
    apart = difference(
        (level + 0.05).mean(axis=1).tolist(), level.mean(axis=1).tolist()
    )
    assert apart.verdict() == "not seen"
    assert paired_difference(level, level + 0.05).verdict() == "contradicted"


def test_tables_of_two_shapes_are_no_pairs() -> None:
    with pytest.raises(ArgumentError, match=r"got \[2, 3\] and \[3, 2\]"):
        paired_difference(np.zeros((2, 3)), np.zeros((3, 2)))
