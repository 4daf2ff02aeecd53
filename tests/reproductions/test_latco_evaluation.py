"""Trained runs, planned with otherwise: the episodes, the units, the page."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_paper import results_of

from diffplan._runs.tables import read_csv, write_csv
from diffplan.errors import FileError
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.logging import read_metrics
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.common import ledger
from reproductions.common.command import WRONG, Command
from reproductions.common.experiment import Selection
from reproductions.common.stages import DONE
from reproductions.latco import evaluation, evaluation_report
from reproductions.latco.evaluation import evaluate
from reproductions.latco.online import train
from reproductions.latco.online_config import PlannerConfig, paper_run, smoke_cheetah
from reproductions.latco.paper import PAPER


def test_a_trained_run_is_evaluated_as_its_trainer_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the trainer's own seeds: the episode of its last test, from its weights."""
    pytest.importorskip("dm_control")
    small = smoke_cheetah()
    training = replace(small.training, action_repeat=100, sequence_length=4)
    run = replace(small, num_envs=1, training=training)
    train(run, seed=3, directory=tmp_path / "run")
    last = training.rounds

    def seeds(seed: int, name: str, *number: int, **bits: Any) -> int:
        assert name == "evaluation"
        if number:
            return derive_seed(seed, name, last, *number, bits=SIMULATOR_BITS)
        return derive_seed(seed, "evaluation agent", last, **bits)

    monkeypatch.setattr(evaluation, "derive_seed", seeds)
    places = [tmp_path / "same", tmp_path / "more"]
    for place, starts in zip(places, (1, 2), strict=True):
        place.mkdir()
        planner = replace(run.planner, num_starts=starts)
        evaluate(place, tmp_path / "run", run, planner, 1, start_seed=3, seed=3)
    (same,), (more,) = (read_csv(place / "results.csv") for place in places)
    metrics = {
        (row["round"], row["name"]): float(row["value"])
        for row in read_metrics(tmp_path / "run" / "metrics.csv")
    }
    wanted = metrics[str(last), "test/episode_0/return"]
    assert float(same["episode_return"]) == pytest.approx(wanted, rel=1e-5)
    assert float(more["episode_return"]) != float(same["episode_return"])
    assert same["outcome"] == ""
    assert float(same["milliseconds"]) > 0


def test_the_best_weights_are_taken_where_they_were_kept(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected a checkpoint of the run"):
        evaluation.weights(tmp_path)
    job = {"trainer": {"model": {"a": torch.tensor(1.0)}}}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"job": job})
    assert float(evaluation.weights(tmp_path)["a"]) == 1
    checkpoints.save(2, {"job": {**job, "best": {"model": {"a": torch.tensor(2.0)}}}})
    assert float(evaluation.weights(tmp_path)["a"]) == 2


def test_an_evaluation_reads_the_run_that_its_name_says(tmp_path: Path) -> None:
    axes = {"run": ["thermos/latco", "hammer/cem"]}
    units = PAPER.units("paper", Selection(seeds=[0, 1], axes=axes), tmp_path)
    names = {unit.name: unit for unit in units}
    for seed in (0, 1):
        thermos, hammer = f"thermos/latco/seed_{seed}", f"hammer/cem/seed_{seed}"
        for setting in ("as_trained", "num_starts=8"):
            made = names.pop(f"evaluation/{thermos}/{setting}")
            assert made.needs == (f"paper/{thermos}",)
            assert made.directory == tmp_path / made.name
            settings = made.settings()
            assert settings["seed"] == seed
            eight = setting != "as_trained"
            assert settings["planner"]["num_starts"] == (8 if eight else 1)
        # CEM is never started twice, and as it was trained it plans once.
        names.pop(f"evaluation/{hammer}/as_trained")
        assert names.pop(f"paper/{thermos}").run.keywords["run"] == paper_run("thermos")
        names.pop(f"paper/{hammer}")
    assert not names


def test_any_setting_of_the_planner_makes_a_row_of_its_own(tmp_path: Path) -> None:
    words = ["evaluation.planner.num_starts=3", "evaluation.planner.iterations=7"]
    chosen = Selection(["evaluation"], settings=words)
    units = [unit.name for unit in PAPER.units("cpu", chosen, tmp_path)]
    place = "evaluation/cheetah-run/latco/seed_0"
    assert units == [
        "online/seed_0",
        f"{place}/as_trained",
        f"{place}/iterations=7,num_starts=3",
    ]


def test_runs_of_days_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preset=paper", "stage=evaluation", "--directory", str(tmp_path)]
    assert Command(PAPER).main(words) == WRONG
    assert "run: expected run=NAME with preset=paper" in capsys.readouterr().err
    # A word for one stage starts no other.
    assert PAPER.stages("paper", Selection(axes={"task": ["reach"]})) == ["paper"]
    chosen = Selection(axes={"run": ["thermos/latco"]})
    assert PAPER.stages("paper", chosen) == ["evaluation"]


def finished(
    folder: Path, task: str, seed: int, planner: PlannerConfig, scores: list[float]
) -> None:
    """Write what an evaluation of these successes or returns leaves behind."""
    run = paper_run(task, planner.name)
    what = evaluation.difference(asdict(run.planner), asdict(planner))
    place = folder / task / planner.name / f"seed_{seed}" / what
    place.mkdir(parents=True)
    rows = [
        {
            "episode": start,
            "outcome": "" if run.task.startswith("dm_control") else int(score),
            "episode_return": 2 * score,
            "milliseconds": 10.0,
        }
        for start, score in enumerate(scores)
    ]
    write_csv(place / "results.csv", rows)
    settings = {
        "run": {"task": run.task, "planner": asdict(run.planner)},
        "planner": asdict(planner),
        "seed": seed,
    }
    record = {
        "name": f"evaluation/{task}/{planner.name}/seed_{seed}/{what}",
        "settings": settings,
        "source": {"commit": "0123456789", "dirty": seed == 1},
    }
    (place / DONE).write_text(json.dumps(record))


def test_settings_are_compared_run_by_run_and_start_by_start(tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "output"
    for task in ("thermos", "cheetah-run"):
        planner = paper_run(task).planner
        more = replace(planner, num_starts=8)
        for seed, scores in enumerate([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]):
            finished(runs, task, seed, planner, scores)
            finished(runs, task, seed, more, [1.0, *scores[1:]])
    cem = paper_run("thermos", "cem").planner
    finished(runs, "thermos", 0, cem, [0.0, 0.0, 0.0, 0.0])
    section = evaluation_report.report(results_of(runs, output))
    assert section is not None
    table = [line for line in section.text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]
    cheetah, cheetah_more, by_cem, thermos, thermos_more = cells
    assert thermos[:3] == ["metaworld/thermos", "latco*", "as trained"]
    # Of seeds: 1/4 and 2/4, Student's t with one degree of freedom 12.706 · 1/8.
    assert thermos[3:] == ["38 % [0, 100]", "2 × 4", "–", "10", "–"]
    # In one of four starts, with both models: Student's t over starts, 3.182 · 1/4.
    assert thermos_more[2:4] == ["num_starts=8", "62 % [0, 100]"]
    assert thermos_more[5] == "+25 points [-55, +105]"
    assert thermos_more[7] == "37 ± 21 % (Table 2 (offline and online data))"
    assert by_cem[1:6] == ["cem", "as trained", "0 % [0, 49]", "1 × 4", "–"]
    assert by_cem[7].startswith("1 ± 1 %")
    # Returns are twice as high here: of seeds 0.5 and 1.
    assert cheetah[3] == "1 [-2, 4]"
    assert cheetah_more[5] == "0 [-1, 2]"
    assert cheetah_more[7] == "–"
    assert [row[3:5] for row in section.rows][-1] == ["62 %", "0 … 100"]
    # What is published makes the same section.
    again = evaluation_report.report(results_of(tmp_path / "none", output))
    assert again is not None
    assert again.rows == section.rows
    assert len(ledger.read(output, "evaluation")) == 36
