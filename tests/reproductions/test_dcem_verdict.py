"""Claim by claim: the words follow from the numbers."""

from pathlib import Path

import pytest
from toy_paper import results_of

from diffplan._runs.tables import write_csv
from reproductions import durations
from reproductions.common import ledger
from reproductions.common.experiment import Selection
from reproductions.common.stages import Unit
from reproductions.common.statistics import Estimate
from reproductions.dcem import verdict
from reproductions.dcem.paper import PAPER


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 0.5, verdict.HELD),
        (-0.1, 0.5, verdict.NOT_SEEN),
        (-0.5, -0.1, verdict.CONTRADICTED),
    ],
)
def test_the_whole_interval_decides(low: float, high: float, word: str) -> None:
    assert verdict.judge(Estimate((low + high) / 2, low, high, 3)) == word


def cell(temperature: float, updates: int, cost: float) -> dict[str, object]:
    """A row of `cartpole.csv`."""
    return {
        "latent": 2,
        "temperature": temperature,
        "updates": updates,
        "seeds": 3,
        "improvement": 1.1,
        "improvement_low": 1.05,
        "improvement_high": 1.15,
        "honest": "",
        "honest_low": "",
        "honest_high": "",
        "final_cost": cost,
        "final_cost_low": cost - 0.5,
        "final_cost_high": cost + 0.5,
    }


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([cell(1.0, 100, -9.0), cell(0.0, 100, -7.0)], verdict.HELD),
        ([cell(1.0, 100, -9.0), cell(0.0, 100, -8.9)], verdict.NOT_SEEN),
        ([cell(1.0, 100, -7.0), cell(0.0, 100, -9.0)], verdict.CONTRADICTED),
        ([cell(1.0, 100, -9.0), cell(0.0, 50, -7.0)], verdict.NOT_TESTED),
        ([cell(1.0, 100, -9.0)], verdict.NOT_TESTED),
    ],
)
def test_temperatures_are_compared_at_equal_updates(
    rows: list[dict[str, object]], word: str, tmp_path: Path
) -> None:
    write_csv(tmp_path / "cartpole.csv", rows)
    (row,) = [
        row
        for row in verdict.cartpole(results_of(tmp_path, tmp_path))
        if row[0] == "2b"
    ]
    assert row[3] == word


@pytest.mark.parametrize(
    ("phase_2", "phase_3", "nearly", "better"),
    [
        ([99, 100, 101], [118, 120, 122], verdict.HELD, verdict.HELD),
        ([49, 50, 51], [48, 50, 52], verdict.CONTRADICTED, verdict.NOT_SEEN),
        ([60, 90, 120], [29, 30, 31], verdict.NOT_SEEN, verdict.NOT_SEEN),
        ([89, 90, 91], [28, 30, 32], verdict.NOT_SEEN, verdict.CONTRADICTED),
    ],
)
def test_phases_are_compared_with_the_one_before(
    phase_2: list[float],
    phase_3: list[float],
    nearly: str,
    better: str,
    tmp_path: Path,
) -> None:
    returns = {"initial": [99.0, 100.0, 101.0], "embedded": phase_2, "policy": phase_3}
    episodes, tested = [], []
    for phase, values in returns.items():
        here = {"task": "cheetah-run", "phase": phase}
        unit = {"experiment": "locomotion", "unit": phase, "planner": phase}
        played = {"task": "cheetah-run", **unit}
        episodes += [{**played, "episode_return": value} for value in values]
        numbers = {"models": 1, "steps": 1e4, "evaluations": 10.0, "seconds": 0.1}
        tested.append({**here, **numbers, "time_limit": 1000, "source": "0123"})
    ledger.add(tmp_path, episodes)
    write_csv(tmp_path / "locomotion_phases.csv", tested)
    words = {
        row[0]: row[3] for row in verdict.locomotion(results_of(tmp_path, tmp_path))
    }
    assert (words["3a"], words["3b"]) == (nearly, better)


def test_seeds_that_are_given_are_all_run(tmp_path: Path) -> None:
    units = PAPER.units("smoke", Selection(["locomotion"], [3, 4]), tmp_path)
    assert {"seed_3", "seed_4"} <= {name for u in units for name in u.name.split("/")}
    (first, *_) = PAPER.units("smoke", Selection(["regression"], [3, 4]), tmp_path)
    assert first.settings()["seeds"] == [3, 4]


def test_the_schedule_is_that_of_the_command(tmp_path: Path) -> None:
    needs = {"a": (), "b": ("a",), "c": (), "d": ("a", "c")}
    units = [Unit(name, print, tmp_path, wanted) for name, wanted in needs.items()]
    # a 0–2, c 0–5, b 2–3, d 5–6.
    seconds = {"a": 2.0, "b": 1.0, "c": 5.0, "d": 1.0}
    assert durations.schedule(units, seconds, workers=2) == 6.0
    assert durations.schedule(units, seconds, workers=1) == 9.0


def test_the_page_of_durations_is_written_from_the_records() -> None:
    page = durations.PAGE.read_text(encoding="utf-8")
    assert page == durations.page_with_table(page)
