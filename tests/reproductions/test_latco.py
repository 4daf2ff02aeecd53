"""LatCo's presets: the paper's numbers, the command line, the runs of a small one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_paper import results_of

from diffplan._runs.online import build_model
from diffplan.errors import UnknownNameError
from diffplan.models.rssm import RSSM
from diffplan.objectives import SoftplusReward
from diffplan.planners.collocation import GaussianLatCo, LatCo
from diffplan.planners.sampling.cem import CEM
from diffplan.planners.second_order import ILQR
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.logging import read_metrics
from reproductions.common import ledger, online_report
from reproductions.common.command import DONE, WRONG, Command
from reproductions.common.experiment import Selection
from reproductions.common.grammar import choice
from reproductions.latco import paper_numbers, pixels_report
from reproductions.latco.online import train
from reproductions.latco.online_config import (
    PLANNERS,
    TASKS,
    OnlineRun,
    paper_run,
    smoke_cheetah,
)
from reproductions.latco.paper import PAPER


def test_the_papers_model_has_the_papers_size() -> None:
    model = build_model(paper_run().model, (3, 64, 64), 4, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_296_420


@pytest.mark.parametrize(
    ("task", "horizon", "execute", "prefill", "updates", "steps"),
    [
        ("reach", 30, 30, 34, 15, 500_000),
        ("push", 50, 25, 34, 15, 500_000),
        ("hammer", 50, 25, 34, 15, 400_000),
        ("cheetah-run", 12, 6, 5, 100, 800_000),
    ],
)
def test_schedules_of_the_paper(
    task: str, horizon: int, execute: int, prefill: int, updates: int, steps: int
) -> None:
    run = paper_run(task)
    training = run.training
    assert (run.planner.horizon, run.planner.execute) == (horizon, execute)
    assert (training.seed_episodes, training.updates_per_round) == (prefill, updates)
    assert training.pretrain_updates == 100
    assert (training.batch_size, training.sequence_length + 1) == (50, 50)
    length = 1000 if task == "cheetah-run" else 150
    played = (training.seed_episodes + training.rounds) * length
    assert steps - length < played <= steps
    assert training.evaluate_every * length == pytest.approx(10_000, abs=length / 2)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("planner", ["latco", "cem", "mppi", "gd"])
def test_every_task_and_planner_stands_in_the_paper(task: str, planner: str) -> None:
    number = paper_numbers.find(task, planner)
    assert number is not None
    assert number.unit == ("%" if paper_run(task).task.startswith("meta") else "")


def test_planners_are_built_with_their_settings() -> None:
    model = RSSM((3,), 2, belief_size=4, hidden_size=4)
    planner, _ = paper_run("cheetah-run", "latco").planner.build(model)
    assert isinstance(planner, LatCo)
    assert (planner.horizon, planner.iterations) == (12, 100)
    assert planner.dynamics_tolerance == planner.action_tolerance == 1e-2
    planner, _ = paper_run("reach", "cem").planner.build(model)
    assert isinstance(planner, CEM)
    assert (planner.num_samples, planner.iterations) == (10_000, 100)
    planner, _ = paper_run("cheetah-run", "ilqr").planner.build(model)
    assert isinstance(planner, ILQR)
    assert (planner.horizon, planner.iterations) == (12, 100)
    for task in ("reach", "push", "cheetah-run", "dense-reach"):  # appendix B
        planner, _ = paper_run(task, "gaussian_latco").planner.build(model)
        assert isinstance(planner, GaussianLatCo)
        assert planner.iterations == 50


@pytest.mark.parametrize("name", PLANNERS)
def test_collocation_minimises_what_it_can_square(name: str) -> None:
    """The paper's objective of LatCo, Gaussian or not, is a sum of squares."""
    model = RSSM((3,), 2, belief_size=4, hidden_size=4)
    _, objective = paper_run("dense-reach", name).planner.build(model)
    assert isinstance(objective, SoftplusReward) == name.endswith("latco")
    assert name in paper_numbers.load()["planners"]  # as the page calls it


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=reech"], "task: .*did you mean reach"),
        (["planner=latco,latcoo"], "planner: .*did you mean latco"),
        (["tusk=reach"], "axis: .*did you mean task"),
        (["render_preset=fast"], "axis: .*did you mean preset"),
        (["task=reach", "paper.training.round=3"], "mean paper.training.rounds"),
        (["task=re"], "did you mean reach"),
        (["task=reach,"], "expected values such as"),
        (["seed=a"], "seed: expected numbers"),
        (["task=reach", "task=push"], "task: expected one list"),
        (["planner=cem"], "expected task=NAME"),
        (["task"], "expected key=value"),
    ],
)
def test_wrong_words_of_the_paper_preset(
    overrides: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["preset=paper", *overrides, "--directory", str(tmp_path)]
    assert Command(PAPER).main(words) == WRONG
    assert re.search(message, capsys.readouterr().err)


def test_wrong_names_of_the_stages() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean online.planner"):
        PAPER.settings("cpu", ["online.planer.horizon=3"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "gpu"],
        ["--stages", "onlin"],
        ["--seeds", "a"],
        ["onlin.seed=1"],
        ["--preset", "paper", "preset=cpu"],
        ["--preset", "paper", "seed=3"],
        ["--preset", "paper", "--stages", "online"],
        ["planner=latco", "--stages", "online"],
        ["planner=cem", "--stages", "ablations"],
        ["planner=cem,ilqr"],
        ["task=reach"],
        ["report", "planner=latco"],
        ["--stages", "pixels", "--seeds", "3"],
        ["report", "--seeds", "3"],
    ],
)
def test_wrong_arguments_end_with_a_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Command(PAPER).main([*arguments, "--directory", str(tmp_path)]) == WRONG
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_every_seed_is_run(tmp_path: Path) -> None:
    """The command line chooses; nothing that it says is left out."""
    units = PAPER.units("smoke", Selection(["online"], [3, 4]), tmp_path)
    names = ["online/seed_3", "online/seed_4", "online/cheetah-run/idle"]
    assert [unit.name for unit in units] == names


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        ("", ["comparison"]),
        ("planner=cem", ["comparison"]),
        ("run=thermos/latco", ["online", "evaluation"]),
        ("stage=lottery", ["lottery"]),
        ("preset=gpu-short", ["images"]),
    ],
)
def test_a_first_command_waits_for_the_claim_alone(
    words: str, stages: list[str]
) -> None:
    """Other stages of the preset run when they are named, or a value of theirs is."""
    options = Command(PAPER).parser().parse_args(words.split())
    preset, selection = choice(PAPER, options)
    assert PAPER.stages(preset, selection) == stages
    assert set(stages) <= set(PAPER.stages(preset))


def test_a_setting_of_a_stage_that_does_not_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["online.training.rounds=4", "--directory", str(tmp_path)]
    assert Command(PAPER).main(words) == WRONG
    message = "online does not run; name it, stage=comparison,online"
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_lists_multiply(tmp_path: Path) -> None:
    """The words of a grid; `button` is the only task that begins so."""
    words = "preset=paper task=reach,button planner=latco,cem seed=0,1,2"
    options = Command(PAPER).parser().parse_args(words.split())
    preset, selection = choice(PAPER, options)
    units = PAPER.units(preset, selection, tmp_path)
    runs = {
        f"paper/{task}/{planner}/seed_{seed}": (f"metaworld/{task}", planner, seed)
        for task in ("reach", "button-press")
        for planner in ("latco", "cem")
        for seed in (0, 1, 2)
    }
    found = {unit.name: unit.settings() for unit in units}
    assert len(units) == 14
    for task in ("reach", "button-press"):  # what it gives away, once
        assert found.pop(f"paper/{task}/idle")["task"] == f"metaworld/{task}"
    assert runs == {
        name: (each["run"]["task"], each["run"]["planner"]["name"], each["seed"])
        for name, each in found.items()
    }
    assert PAPER.unchosen(preset, selection) == ""
    assert [u.directory for u in units] == [tmp_path / u.name for u in units]


def test_planners_of_a_stage_share_what_they_are_compared_on(tmp_path: Path) -> None:
    """Units of a part of a grid are those of the whole: nothing is made twice."""
    whole = PAPER.units("cpu", Selection(["comparison"]), tmp_path)
    axes = {"planner": ["cem", "gd_one"]}
    part = PAPER.units("cpu", Selection(["comparison"], axes=axes), tmp_path)
    names = {unit.name.rpartition("/")[2] for unit in part}
    assert names == {"data", "model", "trace", "cem", "gd_one"}
    settings = {unit.name: unit.settings() for unit in whole}
    assert all(settings[unit.name] == unit.settings() for unit in part)
    assert len(part) == len(names)


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        ("planner=latco_no_relaxation", {"ablations"}),
        ("planner=grad_mpc", {"comparison"}),
        ("planner=cem,gd_one", {"comparison"}),  # tasks waits for a request
        ("planner=cem task=push", {"tasks"}),
        ("run=cheetah-run/cem", {"online", "evaluation"}),
    ],
)
def test_stages_that_have_all_choices_run(
    words: str, stages: set[str], tmp_path: Path
) -> None:
    options = Command(PAPER).parser().parse_args(words.split())
    units = PAPER.units(*choice(PAPER, options), tmp_path)
    names = {"comparison"} if "ablations" in stages else set()  # its models
    assert {unit.name.partition("/")[0] for unit in units} == stages | names


def test_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert Command(PAPER).main(["--settings", "--preset", "paper", "task=push"]) == DONE
    assert (
        "paper.planner.horizon=50\n      Actions of a plan." in capsys.readouterr().err
    )


def test_the_report_of_nothing_says_so(tmp_path: Path) -> None:
    directory, output = str(tmp_path), tmp_path / "results"
    arguments = ["report", "--directory", directory, "--output", str(output)]
    assert Command(PAPER).main(arguments) == DONE
    assert "No finished unit yet" in (output / "README.md").read_text()


def tiny() -> OnlineRun:
    """Return the smallest run that has three rounds."""
    run = smoke_cheetah()
    training = replace(run.training, action_repeat=100, sequence_length=4)
    return replace(run, training=training)


def test_an_online_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    run = tiny()
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(run, seed=0, directory=whole)
    short = replace(run, training=replace(run.training, rounds=1))
    train(short, seed=0, directory=halves)
    train(run, seed=0, directory=halves)
    states = []
    for folder in (whole, halves):
        latest = Checkpoints(folder / "checkpoints").load_latest()
        assert latest is not None
        assert latest[0] == 3
        states.append(latest[1]["job"]["trainer"])
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name


def test_the_report_of_an_online_run(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    pytest.importorskip("matplotlib")
    run, folder = tiny(), tmp_path / "runs" / "seed_0"
    out = tmp_path / "out"
    train(run, seed=0, directory=folder)
    settings = {"seed": 0, "run": {"task": run.task, "planner": {"name": "latco"}}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (row,) = online_report.write(
        results_of(tmp_path / "runs", out), "online", PLANNERS, 8
    )
    assert row.steps == 5000
    assert (out / "online_cheetah-run.png").stat().st_size > 1000
    rows = ledger.read(out, "online")
    assert {row["round"] for row in rows} == {"0", "1", "2"}
    metrics = {(m["round"], m["name"]): m for m in read_metrics(folder / "metrics.csv")}
    assert row.test is not None
    last = float(metrics["2", "test/return"]["value"])
    assert row.test.value == pytest.approx(last)
    seeds = float(metrics["0", "collect/return"]["value"])
    assert row.random.value == pytest.approx(seeds)
    assert row.cost["seconds_per_plan"] > 0
    # What is published makes the same line.
    again = online_report.write(
        results_of(tmp_path / "none", out), "online", PLANNERS, 8
    )
    assert [repr(each) for each in again] == [repr(row)]


def test_plans_from_images_are_shown_from_the_ledger(tmp_path: Path) -> None:
    """Also where the folder of runs is gone; other rows do not count."""
    assert pixels_report.write(tmp_path / "none", tmp_path) == ""
    names = [name for name in pixels_report.SHOWN if name != "start"]
    plans = [{"start": "0", **{name: str(i + 0.5) for i, name in enumerate(names)}}]
    ledger.add(tmp_path, pixels_report.entries(plans, 3))
    ledger.add(tmp_path, [{"experiment": "online", "unit": "a", "episode": 7}])
    text = pixels_report.write(tmp_path / "none", tmp_path)
    header, _, *rows = [x for x in text.splitlines() if x.startswith("|")]
    assert header.split(" | ")[3] == "planned return"
    assert rows == ["| 0 | 0.5 | 1.5 | 2.5 | 3.5 | 4.5 |"]
    (row,) = ledger.read(tmp_path, "pixels")
    assert (row["seed"], row["unit"], row["episode_return"]) == (
        "3",
        "pixels/plans",
        "2.5",
    )


@pytest.mark.slow
@pytest.mark.render
def test_the_smoke_preset_from_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "results"
    arguments = ["--preset", "smoke", "--directory", str(tmp_path)]
    assert Command(PAPER).main([*arguments, "--output", str(output)]) == DONE
    names = {path.name for path in output.iterdir()}
    assert {"README.md", "run.json", "film_strip.png", "plan.gif"} <= names
    assert {"comparison_distance.png", "comparison_optimization.png"} <= names
    record = json.loads((output / "run.json").read_text())["pixels/plans"]
    assert {"settings", "versions", "source", "hardware", "wall_seconds"} <= set(record)
