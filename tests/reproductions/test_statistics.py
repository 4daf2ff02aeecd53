"""Intervals agree with their formulas, and with printed tables."""

import math

import pytest

from diffplan.errors import ArgumentError
from reproductions.common.statistics import difference, mean, proportion

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
