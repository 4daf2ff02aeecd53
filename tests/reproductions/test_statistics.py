"""Intervals agree with their formulas, and with printed tables."""

import math

import numpy as np
import pytest

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


@pytest.mark.parametrize("shape", [(2, 25), (3, 30), (5, 100), (10, 30), (1, 25)])
@pytest.mark.parametrize("shared", [0.0, 1.0], ids=["own starts", "shared starts"])
def test_a_paired_difference_covers_the_truth(
    shape: tuple[int, int], shared: float
) -> None:
    """Of a difference of zero, 95 of 100 intervals hold zero, with few models too."""
    rng, held, cases = np.random.default_rng(sum(shape)), 0, 1000
    model = 0.0 if shape[0] == 1 else 1.0  # one model speaks of itself alone
    for _ in range(cases):
        gaps = model * rng.normal(size=(shape[0], 1)) + rng.normal(size=shape)
        gaps += shared * rng.normal(size=(1, shape[1]))
        found = paired_difference(gaps, 0 * gaps)
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / cases <= 0.985


@pytest.mark.parametrize("factor", ["models", "starts"])
def test_a_paired_difference_of_one_factor_is_students(factor: str) -> None:
    values = np.random.default_rng(0).normal(size=8)
    wide = values[None, :] if factor == "starts" else values[:, None]
    # One row or column, and several whose effect is all there is.
    for gaps in (wide, np.broadcast_to(wide, (8, 8))):
        found, theirs = paired_difference(gaps, 0 * gaps), mean(values.tolist())
        ends = (found.value, found.low, found.high)
        assert ends == pytest.approx((theirs.value, theirs.low, theirs.high))


def test_models_that_agree_by_chance_are_judged_by_their_starts() -> None:
    """Two models win four starts of eight and lose two: starts differ, if not they."""
    starts = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, -1.0, -1.0]
    for second in (starts, starts[::-1]):
        gaps = np.array([starts, second])
        found = paired_difference(gaps, 0 * gaps)
        assert (found.value, found.verdict()) == (0.25, "not seen")
    nothing = np.zeros((2, 25))
    assert paired_difference(nothing, nothing).points() == "+0 points [+0, +0]"
    assert paired_difference(nothing, nothing).verdict() == "not seen"


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 5), (5, 1), (2, 2)])
def test_a_few_equal_differences_decide_nothing(shape: tuple[int, int]) -> None:
    won = paired_difference(np.ones(shape), np.zeros(shape))
    assert (won.points(), won.verdict()) == ("+100 points", "not seen")
    more = paired_difference(np.ones((2, 3)), np.zeros((2, 3)))
    assert more.verdict() == "held"


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
