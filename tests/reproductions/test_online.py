"""What online runs of all papers share: devices, boxes, stopwatches, the reader."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_paper import results_of

from diffplan._runs.metrics import Rounds
from diffplan._runs.online import Acting, OnlineRun, action_box, on_device
from diffplan._runs.stopwatch import Stopwatch
from diffplan.errors import FileError
from diffplan.training import OnlineConfig, OptimizerConfig, RunLogger
from reproductions.common import idle, ledger, online_report, online_runs
from reproductions.common.statistics import Estimate
from reproductions.common.units import write_json


def test_a_stopwatch_counts_what_calls_return() -> None:
    watch = Stopwatch(size=len)

    def slowly(count: int) -> list[int]:
        time.sleep(0.01)
        return list(range(count))

    watched = watch.around(slowly)
    assert [len(watched(count)) for count in (2, 3)] == [2, 3]
    assert watch.calls == 5
    assert watch.first == [0, 1]
    assert 0.02 <= watch.wall < 1.0
    assert watch.cpu < watch.wall  # it slept
    seconds, calls = watch.collect()
    assert (seconds >= 0.02, calls) == (True, 5)
    assert watch.collect() == (0.0, 0)


def test_a_stopwatch_watches_a_module() -> None:
    layer = torch.nn.Linear(2, 3)
    watch = Stopwatch().watch(layer)
    outputs = [layer(torch.ones(2)) for _ in range(4)]
    assert watch.calls == 4
    assert watch.first is outputs[0]
    assert watch.wall > 0


def test_a_gpu_computes_in_tensorfloat_unless_it_is_told_otherwise() -> None:
    plain = OnlineConfig()
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert on_device(plain, cpu) == plain
    assert on_device(plain, gpu).optimizer.precision == "tf32"
    half = OnlineConfig(optimizer=OptimizerConfig(precision="bfloat16"))
    assert on_device(half, gpu) == half
    assert Acting(device="cpu").resolve_device() == cpu


def test_the_box_is_that_of_the_environment() -> None:
    spaces = pytest.importorskip("gymnasium").spaces
    low, high = np.float32([-1, 0]), np.float32([2, 0.5])
    box = action_box(spaces.Box(low, high))
    assert box.low.tolist() == [-1.0, 0.0]
    assert box.high.tolist() == [2.0, 0.5]


def test_rounds_are_read_as_they_were_logged(tmp_path: Path) -> None:
    assert Rounds.read(tmp_path) == Rounds([], [])
    logger = RunLogger(tmp_path, tensorboard=False)
    logger.write(0, 50, {"error/3": 0.1, "error/4": 1 / 3})
    logger.write(1, 90, {"error/3": 0.5, "error/4": 0.25, "test/return": 7.0})
    rounds = Rounds.read(tmp_path)
    assert rounds.steps == [50, 90]
    assert rounds.members("error") == {"3": [0.1, 0.5], "4": [1 / 3, 0.25]}
    steps, values = rounds.series("test/return")
    assert (steps.tolist(), values.tolist()) == ([90], [7.0])
    (tmp_path / "metrics.csv").write_text("update,seed,error\n1,0,0.5\n")
    with pytest.raises(FileError, match="metrics of a run"):
        Rounds.read(tmp_path)


def test_what_a_task_gives_away_is_measured_without_a_model(tmp_path: Path) -> None:
    """By what the run is about alone, and the same whatever it learns with."""
    pytest.importorskip("dm_control")
    training = OnlineConfig(action_repeat=50)
    run = OnlineRun(task="dm_control/cartpole-swingup", training=training)
    made = idle.unit("planet", run, tmp_path / "cartpole-swingup")
    assert made.name == "planet/cartpole-swingup/idle"
    larger = replace(run, observation="pixels", num_envs=7)
    assert idle.unit("planet", larger, tmp_path).settings() == made.settings()
    made.begin({})
    idle.measure(run.task, 50, 3, made.directory)
    record = {"name": made.name, "settings": made.settings(), "files": {}}
    write_json(made.directory / "done.json", record)
    ledger.add(tmp_path, idle.entries(tmp_path, "planet"))
    rows = ledger.read(tmp_path, "planet")
    assert [row["planner"] for row in rows] == ["random"] * 3 + ["still"] * 3
    assert {row["kind"] for row in rows} == {"idle"}
    still = [float(row["episode_return"]) for row in rows[3:]]
    # The pole hangs: without an action it earns nothing but by how it was left.
    assert all(0 <= value < 60 for value in still)
    # They are lines of the table, and no runs.
    assert online_runs.read(tmp_path, "planet") == []
    found = idle.read(tmp_path, "planet", {made.name: {"source": DIRTY}})
    assert [each.agent for each in found] == ["random", "still"]
    one = Estimate(1.0, 0.0, 2.0, 2)
    cost = online_report.Cost([0, 1], {"planning_share": 0.5})
    row = online_report.Row(
        run.task, "cem", "return", one, one, None, 1000, [0, 1], [cost]
    )
    *_, table = online_report.body([row], "planet", 8, found)
    line = next(x for x in table.splitlines() if "no action" in x)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:6] == [run.task, "no action*", "–", "3", "–", "–"]
    assert cells[6].startswith(f"{np.mean(still):.0f} [")
    assert cells[7:] == ["–"]


DIRTY = {"commit": "0123456789", "dirty": True}


def trained(folder: Path, seed: int, seconds: float) -> None:
    """Leave what a run with seeds, a trained and a tested episode leaves."""
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(
        f'{{"seed": {seed}, "run": {{"task": "toy", "planner": {{"name": "cem"}}}}}}'
    )
    logger = RunLogger(folder, tensorboard=False)
    for index in range(2):
        cost = {} if index == 0 else {"time/seconds_per_plan": seconds}
        logger.write(index, 10 * index + 10, {"collect/episode_0/return": 1.0, **cost})


def test_times_are_means_over_all_seeds_whenever_they_came(tmp_path: Path) -> None:
    """Each is published alone, beside those before; the first two were together."""
    pytest.importorskip("matplotlib")
    output, seconds = tmp_path / "output", {0: 4.0, 1: 8.0, 2: 0.3, 3: 1.7}
    for name, seeds in {"first": (0, 1), "second": (2,), "third": (3,)}.items():
        for seed in seeds:
            trained(tmp_path / name / "toy" / f"seed_{seed}", seed, seconds[seed])
        results = results_of(tmp_path / name, output)
        (row,) = online_report.write(results, "toy", ["cem"], 8)
    assert row.seeds == [0, 1, 2, 3]
    assert row.cost == {"seconds_per_plan": pytest.approx(3.5)}
    # What is published says the same again, without runs.
    none = results_of(tmp_path / "none", output)
    (again,) = online_report.write(none, "toy", ["cem"], 8)
    assert again.cost == row.cost
    # Of two seeds only their mean is known: of one anew, nothing of the other.
    together = online_report.Cost([0, 1], {"seconds_per_plan": 6.0})
    (line,) = json.loads((output / "toy.json").read_text())
    line["costs"] = [asdict(together), *line["costs"][2:]]
    (output / "toy.json").write_text(json.dumps([line]))
    (same,) = online_report.write(none, "toy", ["cem"], 8)
    assert same.cost == row.cost
    trained(tmp_path / "anew" / "toy" / "seed_0", 0, 5.0)
    results = results_of(tmp_path / "anew", output)
    (row,) = online_report.write(results, "toy", ["cem"], 8)
    assert row.cost == {}
    assert "seconds per plan" not in online_report.body([row], "toy", 8)[-1]
