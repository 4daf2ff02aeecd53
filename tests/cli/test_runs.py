"""`diffplan train | evaluate | report | tune`, on a run of seconds."""

import csv
import json
import os
import re
import shlex
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import TASK, TINY, command, trained

import diffplan as dp
from diffplan._runs.evaluation import score
from diffplan._runs.folder import load_run
from diffplan._runs.run import (
    PLANNERS,
    TaskRun,
    configured,
    defaults,
    read_settings,
    save_settings,
)
from diffplan.errors import ArgumentError, FileError
from diffplan.training import OnlineConfig, derive_seed, read_metrics
from diffplan.training._lock import exclusive

pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "pendulum"
    assert trained(directory) == 0
    return directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Settings


def test_settings_are_read_as_they_were_saved(tmp_path: Path) -> None:
    for name in PLANNERS:
        words = [f"planner={name}", "planner.iterations=7", "training.rounds=3"]
        words += ["training.replay_capacity=none", "training.keep_best=yes"]
        saved = configured(defaults("dm_control/cheetah-run"), words)
        directory = tmp_path / name
        directory.mkdir()
        save_settings(saved, 5, directory)
        assert read_settings(directory) == (saved, 5)
        assert saved.planner_name == name
        assert saved.planner.build(4).iterations == 7


def test_every_planner_acts_with_a_model(run: Path) -> None:
    loaded = load_run(run)
    for name in PLANNERS:
        one = loaded.with_settings([f"planner={name}", "planner.iterations=1"])
        found = score(one, 1, "test").evaluation
        assert np.isfinite(found.returns).all(), name
        assert one.model is loaded.model


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["planner=cemm"], "did you mean cem"),
        (["planner.iteration=3"], "did you mean planner.iterations"),
        (["training.rouds=3"], "did you mean training.rounds?); --settings lists"),
        (["rounds=3"], "rounds: there is no such setting (did you mean training.rou"),
        (["nonsense=1"], "error: nonsense: there is no such setting; --settings lis"),
        (["planner.foo=1"], "planner.foo: there is no such setting; --settings lists"),
        (["training.rounds"], "'training.rounds': expected key=value"),
        (["training.replay_capacity=0"], "replay_capacity: expected a whole number"),
        (["training.initial_fraction=-1"], "initial_fraction: expected 0 … 1, got -1"),
        (["training.skip_last_step=yes"], "training.skip_last_step: expected False"),
        (["horizon=0"], "at least 1"),
        (["planner.iterations=0"], "planner.iterations: expected at least 1"),
        (["planner=ilqr", "planner.iterations=0"], "planner.iterations: expected"),
        (["planner.num_elites=101"], "num_elites"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("train", TASK, *words, "--directory", tmp_path / "run") == 64
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_has_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("train", TASK) == 64
    assert "--directory" in capsys.readouterr().err
    for word in ("evaluate", "report", "plan"):
        assert command(word, tmp_path / "nothing") == 64
        assert "no such folder" in capsys.readouterr().err
    assert command("evaluate") == 64
    assert capsys.readouterr().err.endswith("required: RUN\n")
    (tmp_path / "file").touch()
    assert command("train", TASK, "--directory", tmp_path / "file") == 64
    assert command("train", TASK, "--settings") == 0
    told = capsys.readouterr().out
    assert "  planner.num_samples=100\n" in told
    assert "  model.state_size=30\n" in told
    assert "One of cem, " in told


def test_a_missing_graphics_card_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert trained(tmp_path / "run", "device=cuda") == 64
    assert "expected cpu or auto" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Training


def test_an_infinite_setting_is_trained_with(tmp_path: Path) -> None:
    assert trained(tmp_path, "training.optimizer.gradient_clip=inf") == 0
    for name in ("settings.json", "run.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
    settings, _ = read_settings(tmp_path)
    assert settings.training.optimizer.gradient_clip == float("inf")
    assert dp.models.card(tmp_path / "model.safetensors")["task"] == TASK
    assert trained(tmp_path, "training.optimizer.gradient_clip=inf") == 0


def test_another_process_in_the_folder_is_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "settings.json").read_bytes()
    with exclusive(run):
        assert trained(run, "training.rounds=2") == 64
    assert f"in use by process {os.getpid()} " in capsys.readouterr().err
    assert (run / "settings.json").read_bytes() == before


def test_a_first_round_that_failed_does_not_fix_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(tmp_path, "training.sequence_length=99") == 64
    assert "length: expected at most the shortest" in capsys.readouterr().err
    assert trained(tmp_path, "training.rounds=0") == 0
    told = f"{tmp_path}: the random round of {TASK} and 0 more are done\n"
    assert capsys.readouterr().out == told


def test_a_run_is_loaded_as_its_checkpoint_has_it(run: Path) -> None:
    loaded = load_run(run)
    assert (loaded.rounds, loaded.seed, loaded.settings.task) == (2, 0, TASK)
    known = torch.load(next((run / "checkpoints").glob("*.pt")), weights_only=True)
    assert known is not None
    again = load_run(run, ["planner=latco", "planner.iterations=2", "horizon=4"])
    assert again.agent.planner.horizon == 4
    shared = dp.models.load(run / "model.safetensors")
    assert dp.models.card(run / "model.safetensors")["task"] == TASK
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
        assert torch.equal(value, shared.state_dict()[name]), name
    with pytest.raises(ArgumentError, match="trained with its own model"):
        load_run(run, ["model.hidden_size=3"])
    with pytest.raises(ArgumentError, match="words: expected a sequence"):
        dp.runs.load_run(run, "planner=latco")
    assert dp.runs.load_run(str(run)).settings == loaded.settings
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FileError, match="got none"):
        load_run(run)


def test_the_same_command_goes_on_with_the_same_numbers(
    run: Path, tmp_path: Path
) -> None:
    assert trained(tmp_path / "whole", "training.rounds=2") == 0
    assert trained(run, "training.rounds=2") == 0
    found = [
        [row for row in read_metrics(folder / "metrics.csv") if "time/" not in str(row)]
        for folder in (run, tmp_path / "whole")
    ]
    assert found[0] == found[1]
    assert found[0][-1]["round"] == "2"


def test_rounds_that_are_done_stay(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(run, "training.rounds=3") == 0
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    assert trained(run, "training.rounds=2") == 64
    told = capsys.readouterr().err
    assert "training.rounds: expected at least 3, which the run in" in told
    assert all(path.read_bytes() == content for path, content in before.items())
    assert trained(run, "training.rounds=3") == 0


def test_other_settings_are_another_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(run, "model.free_nats=2") == 64
    told = capsys.readouterr().err
    assert "(model.free_nats was 1.0, now 2.0)" in told
    for word, told in (
        ("planner=mppi", "(planner was 'cem', now 'mppi')"),
        ("planner.noise_exponent=1", "(planner.noise_exponent was not set, now 1.0)"),
        ("training.replay_capacity=9", "replay_capacity was None, now 9)"),
    ):
        assert trained(run, word) == 64
        assert told in capsys.readouterr().err


def test_the_best_model_is_loaded_where_it_was_kept(tmp_path: Path) -> None:
    assert trained(tmp_path, "training.keep_best=yes", "training.rounds=2") == 0
    _, content = load_run_checkpoint(tmp_path)
    best = content["job"]["best"]["model"]
    for name, value in load_run(tmp_path).model.state_dict().items():
        assert torch.equal(value, best[name])


def load_run_checkpoint(directory: Path) -> Any:
    from diffplan.training import Checkpoints

    return Checkpoints(directory / "checkpoints").load_latest()


# Evaluation and report


def test_an_evaluation_is_a_row_for_each_episode(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", run, "planner=mppi", "--episodes", 3) == 0
    told = capsys.readouterr().out
    found = rows(run / "evaluation.csv")
    assert [row["agent"] for row in found] == ["mppi"] * 3 + ["random actions"] * 3
    seeds = [int(row["seed"]) for row in found]
    assert (
        seeds[:3]
        == seeds[3:]
        == [derive_seed(0, "evaluation", number, bits=31) for number in range(3)]
    )
    mean = np.mean([float(row["return"]) for row in found[:3]])
    assert f"| mppi | 3 | {mean:.1f} [" in told
    assert command("evaluate", run, "planner=mppi", "--output", run) == 1
    assert "| mppi | 10 | " in capsys.readouterr().out  # though nothing was written
    assert command("evaluate", run, "--episodes", 0) == 64
    assert command("evaluate", run, "model.hidden_size=3") == 64


def test_a_page_shows_the_curves(
    finished: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page"
    reseeded = json.loads((run / "settings.json").read_text()) | {"seed": 1}
    (run / "settings.json").write_text(json.dumps(reseeded))
    assert command("report", finished, run, "--output", page) == 0
    assert capsys.readouterr().out.strip() == str(page / "report.md")
    text = (page / "report.md").read_text()
    *_, last = [
        float(row["value"])
        for row in read_metrics(run / "metrics.csv")
        if row["name"] == "test/return"
    ]
    assert f"| {run} | {TASK}, cem | 1 | 1 of 1 | 400 | {last:.4g} |" in text
    assert "mean of 2 runs" in text
    assert (page / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_one_seed_of_its_settings(
    finished: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    again = finished.parent / "." / ".." / finished.parent.name / finished.name
    assert command("report", finished, again, "--output", tmp_path) == 0
    page = (tmp_path / "report.md").read_text()
    assert page.count(", cem | 0 | 1 of 1 | ") == 1
    assert "mean of" not in page
    capsys.readouterr()
    assert command("report", finished, run, "--output", tmp_path) == 64
    assert f"{finished} and {run}, both of seed 0" in capsys.readouterr().err
    other = json.loads((run / "settings.json").read_text())
    other["run"]["training"]["action_repeat"] = 7
    (run / "settings.json").write_text(json.dumps(other))
    assert command("report", finished, run, "--output", tmp_path) == 0
    page = (tmp_path / "report.md").read_text()
    assert "mean of" not in page
    for folder in (finished, run):
        assert f"| {folder} | {TASK}, cem ({folder}) | 0 |" in page


# Tuning


def test_planners_are_tuned_within_one_budget(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    size = ["--trials", 1, "--episodes", 1, "--held-out", 2, "--budget", 150]
    names = "cem,shooting_gd,ilqr"
    assert command("tune", run, f"planner={names}", *size) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" of 1")[0] for line in told] == [
        line
        for name in names.split(",")
        for line in (f"{name}, trial 1", f"{name}: the best")
    ]
    size[1] = 2  # goes on from the first
    assert command("tune", run, f"planner={names}", *size) == 0
    found = rows(run / "tune.csv")
    assert [row["planner"] for row in found] == names.split(",")
    for row in found:
        assert 0 < int(row["evaluations per plan"]) <= 150
        words = row["settings"].split()
        held_out = score(load_run(run, words), 2, "held out")
        assert held_out.mean().value == pytest.approx(float(row["held-out return"]))
        tried = score(load_run(run, words), 1, "tuning")
        assert tried.mean().value == pytest.approx(float(row["tuned return"]))
        assert not {*held_out.seeds} & {*tried.seeds}


def test_a_budget_that_pays_for_nothing_is_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    size = ["--trials", 1, "--episodes", 1, "--held-out", 1, "--budget", 2]
    assert command("tune", run, "planner=cem", *size) == 1
    told = capsys.readouterr().err
    assert re.match(r"cem, trial 1 of 1: budget: expected \d+ for one iteration", told)
    assert told.endswith("cem: no trial gave a result\n")
    (run / "tune.csv").mkdir()  # cannot be written, and is told all the same
    assert command("tune", run, "planner=cem", *size[:-1], 100) == 1
    told = capsys.readouterr().out
    assert "| cem | 1 | " in told
    assert "random actions" in told


def test_evaluations_of_a_model_are_counted(run: Path) -> None:
    pytest.importorskip("optuna")
    from diffplan._runs.tuning import Counter

    loaded = load_run(run, ["planner.num_samples=7"])
    counter, state = Counter(loaded.model), loaded.model.initial_state((2,))
    loaded.model.step(state, torch.zeros(2, 1))
    loaded.model.linearize(state[:1], torch.zeros(1, 1))
    assert counter.count == 3
    found = []
    for iterations in (2, 3):
        agent = loaded.with_settings([f"planner.iterations={iterations}"]).agent
        before = counter.count
        agent.planner(agent.problem, state)
        found.append(counter.count - before)
    # Of one more refit: problems, samples, actions of each.
    assert found[1] - found[0] == 2 * 7 * 3


# Trackers


class Fake(types.ModuleType):
    """Stands in for wandb."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.told: list[Any] = []

    def init(self, **settings: Any) -> None:
        self.told.append(settings)

    def log(self, content: dict[str, float], step: int) -> None:
        self.told.append((step, content))

    def finish(self) -> None:
        self.told.append("finished")


def test_a_tracker_is_told_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert trained(tmp_path / "run", "--tracker", "wandb") == 0
    begun, *logged, ended = fake.told
    assert (begun["project"], begun["name"], ended) == ("diffplan", "run", "finished")
    assert begun["config"]["training"]["rounds"] == 1
    assert [step for step, _ in logged] == [0, 1]
    table = {
        (row["round"], row["name"]): float(row["value"])
        for row in read_metrics(tmp_path / "run" / "metrics.csv")
        if "/episode_" not in row["name"]
    }
    for step, content in logged:
        content = dict(content)
        assert content.pop("environment_step") == 200 * (step + 1)
        assert {(str(step), name): value for name, value in content.items()} == {
            key: value for key, value in table.items() if key[0] == str(step)
        }


SMALL = {
    "train": [*TINY, "--quiet"],
    "evaluate": ["--episodes", "1"],
    "report": [],
    "tune": [*("--trials", "1", "--episodes", "1"), *("--held-out", "1")],
}


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    page = Path(__file__).parents[2] / "docs" / "command_line.md"
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^diffplan (.*)$", page.read_text(), re.MULTILINE)
    seen = set()
    for line in lines:
        word, *given = shlex.split(line)
        # As the page has them, after what makes them small.
        task = given[:1] if word == "train" else given
        more = given[1:] if word == "train" else []
        assert command(word, *task, *SMALL[word], *more) == 0, line
        seen.add(word)
    assert seen == set(SMALL)


def test_the_defaults_are_settings_of_online_training() -> None:
    run = TaskRun(task=TASK)
    assert isinstance(run.training, OnlineConfig)
    assert replace(run, horizon=4).planner_name == "cem"
