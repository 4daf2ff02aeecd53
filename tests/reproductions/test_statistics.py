"""Intervals agree with SciPy's."""

import math

import numpy as np
import pytest

from diffplan.errors import ArgumentError
from reproductions.common.statistics import mean, proportion, student_t

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (57, 90)])
def test_wilson(hits: int, trials: int) -> None:
    found = proportion(hits, trials)
    wanted = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert found.value == hits / trials
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 10, 31, 32, 60, 500])
def test_student(count: int) -> None:
    values = np.random.default_rng(count).normal(3.0, 2.0, count)
    found = mean(values.tolist())
    wanted = stats.t.interval(
        0.95, count - 1, values.mean(), values.std(ddof=1) / math.sqrt(count)
    )
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    # The table has ten digits, the series beyond it is good to 1e-5.
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-5)


def test_every_quantile() -> None:
    freedom = range(1, 200)
    wanted = stats.t.ppf(0.975, list(freedom))
    assert [student_t(n) for n in freedom] == pytest.approx(wanted, rel=1e-6)


def test_one_value_has_no_interval() -> None:
    assert mean([2.0]).number() == "2"


@pytest.mark.parametrize(("hits", "trials"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts(hits: int, trials: int) -> None:
    with pytest.raises(ArgumentError, match="proportion"):
        proportion(hits, trials)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ArgumentError, match="at least one"):
        mean([])
