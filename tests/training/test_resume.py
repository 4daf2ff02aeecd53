"""An interrupted run, started again, equals an uninterrupted one bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_runs
from toy import BOX, LinearModel, make_envs
from toy_runs import make_offline, make_online

from diffplan.agents import UniformAgent
from diffplan.errors import ArgumentError, FileError
from diffplan.training import (
    Checkpoints,
    CheckpointWarning,
    OfflineTrainer,
    OnlineTrainer,
    OptimizerConfig,
    ReplayBuffer,
    read_metrics,
    run_episodes,
)

Trainer = OnlineTrainer | OfflineTrainer
BOTH = pytest.mark.parametrize("make", [make_online, make_offline])


class Stop(Exception):
    """Stands for a kill."""


def reproducible(directory: Path) -> list[dict[str, str]]:
    """Return all rows that do not tell the time."""
    rows = read_metrics(directory / "metrics.csv")
    return [row for row in rows if not row["name"].startswith("time/")]


def stop_in_round(trainer: Trainer, index: int) -> None:
    """Let the trainer die in the middle of a round, after it has changed things."""
    play = trainer.play_round

    def dying(current: int) -> Any:
        result = play(current)
        if current == index:
            raise Stop
        return result

    trainer.play_round = dying


def run(trainer: Trainer) -> None:
    trainer.run(tensorboard=False, quiet=True)


@BOTH
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_resumed_run_equals_uninterrupted_run(
    make: Callable[..., Trainer], stop: int, tmp_path: Path
) -> None:
    run(whole := make(tmp_path / "whole"))
    broken = make(tmp_path / "broken")
    stop_in_round(broken, stop)
    with pytest.raises(Stop):
        run(broken)
    run(resumed := make(tmp_path / "broken"))
    expected = reproducible(tmp_path / "whole")
    assert reproducible(tmp_path / "broken") == expected
    assert {row["round"] for row in expected} == {str(i) for i in range(6)}
    assert torch.equal(whole.model.gain, resumed.model.gain)
    assert not torch.equal(whole.model.gain, LinearModel().gain)


@BOTH
def test_rows_after_the_last_checkpoint_are_replaced(
    make: Callable[..., Trainer], tmp_path: Path
) -> None:
    run(make(tmp_path / "whole", checkpoint_every=3))
    broken = make(tmp_path / "broken", checkpoint_every=3)
    stop_in_round(broken, 5)
    with pytest.raises(Stop):
        run(broken)
    rows = {row["round"] for row in reproducible(tmp_path / "broken")}
    assert rows == {"0", "1", "2", "3", "4"}
    # A kill while a row is written leaves half of it.
    with (tmp_path / "broken" / "metrics.csv").open("a") as file:
        file.write("5,120,train/lo")
    run(make(tmp_path / "broken", checkpoint_every=3))
    assert reproducible(tmp_path / "broken") == reproducible(tmp_path / "whole")


def test_killed_process_leaves_no_gap_and_no_duplicate(tmp_path: Path) -> None:
    run(make_online(tmp_path / "whole", rounds=12))
    folder = tmp_path / "killed"
    command = [sys.executable, str(Path(toy_runs.__file__)), str(folder)]
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    # Slow rounds, so that the kill comes in the middle of one.
    environment = {**os.environ, "PYTHONPATH": path, "TOY_DELAY": "0.05"}
    child = subprocess.Popen(command, env=environment)
    second = "checkpoints/checkpoint_00000002_*.pt"
    deadline = time.monotonic() + 120
    while not list(folder.glob(second)) and child.poll() is None:
        assert time.monotonic() < deadline, "the child made no second checkpoint"
        time.sleep(0.01)
    time.sleep(0.12)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert len(reproducible(folder)) < len(reproducible(tmp_path / "whole"))
    subprocess.run(command, env={**environment, "TOY_DELAY": "0"}, check=True)
    assert reproducible(folder) == reproducible(tmp_path / "whole")


def test_two_at_once_are_one_and_a_refusal(tmp_path: Path) -> None:
    run(make_online(tmp_path / "whole"))
    first, second = (make_online(tmp_path / "shared") for _ in range(2))
    play, told = first.play_round, list[str]()

    def refused() -> None:
        with pytest.raises(ArgumentError) as caught:
            run(second)
        told.append(str(caught.value))

    def meanwhile(index: int) -> Any:
        if index == 2:
            other = threading.Thread(target=refused)
            other.start()
            other.join()
        return play(index)

    first.play_round = meanwhile
    run(first)
    assert f"in use by process {os.getpid()} " in told[0]
    assert reproducible(tmp_path / "shared") == reproducible(tmp_path / "whole")
    assert second.environment_step == 0


def test_ctrl_c_before_the_first_round_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard takes seconds to be imported."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffplan.training.run.RunLogger", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(make_online(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"


def test_infinity_is_written_as_json_and_goes_on(tmp_path: Path) -> None:
    boundless = OptimizerConfig(learning_rate=1e-2, gradient_clip=float("inf"))
    run(make_online(tmp_path, rounds=1, optimizer=boundless))
    text = (tmp_path / "run.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)  # of what is no JSON
    assert float(found["config"]["optimizer"]["gradient_clip"]) == float("inf")
    # Checkpoints of earlier versions hold the number.
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    index, content = checkpoints.load_latest()
    content["settings"]["optimizer"]["gradient_clip"] = float("inf")
    checkpoints.save(index, content)
    run(make_online(tmp_path, rounds=2, optimizer=boundless))
    with pytest.raises(ArgumentError, match=r"gradient_clip was 'inf', now 100\.0"):
        run(make_online(tmp_path, rounds=2))


def test_a_finished_run_plays_nothing_again(tmp_path: Path) -> None:
    trainer = make_online(tmp_path)
    run(trainer)
    before = reproducible(tmp_path)
    run(trainer)
    assert reproducible(tmp_path) == before
    assert len(trainer.buffer) == 3 + 5 * 2


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    run(make_online(tmp_path / "long", rounds=7))
    run(make_online(tmp_path / "short", rounds=4))
    run(make_online(tmp_path / "short", rounds=7))
    assert reproducible(tmp_path / "short") == reproducible(tmp_path / "long")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(make_online(tmp_path, rounds=1))
    with pytest.raises(ArgumentError, match="updates_per_round was 4, now 5"):
        run(make_online(tmp_path, rounds=1, updates_per_round=5))
    with pytest.raises(ArgumentError, match="seed was 0, now 1"):
        run(make_online(tmp_path, rounds=1, seed=1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@BOTH
def test_a_damaged_checkpoint_costs_a_round_and_changes_nothing(
    make: Callable[..., Trainer], tmp_path: Path
) -> None:
    run(make(tmp_path / "whole"))
    broken = make(tmp_path / "broken")
    stop_in_round(broken, 4)
    with pytest.raises(Stop):
        run(broken)
    cut(max((tmp_path / "broken" / "checkpoints").glob("*.pt")))
    with pytest.warns(CheckpointWarning, match="checkpoint_00000004"):
        run(make(tmp_path / "broken"))
    assert reproducible(tmp_path / "broken") == reproducible(tmp_path / "whole")


def test_an_episode_of_another_run_stops_a_resumed_one(tmp_path: Path) -> None:
    for seed, name in ((0, "mine"), (1, "other")):
        run(make_online(tmp_path / name, rounds=1, seed=seed))
    mine, other = (tmp_path / name / "episodes" for name in ("mine", "other"))
    kept = tmp_path / "kept"
    for path in sorted(mine.glob("*.npz")):
        shutil.copy(path, kept)
        shutil.copy(other / path.name, path)
        with pytest.raises(FileError, match=r"another run|that this run wrote"):
            run(make_online(tmp_path / "mine", rounds=2))
        shutil.copy(kept, path)
    # All of them: they fit together, but the checkpoint knows the last one.
    for path in other.glob("*.npz"):
        shutil.copy(path, mine)
    with pytest.raises(FileError, match="that this run wrote"):
        run(make_online(tmp_path / "mine", rounds=2))


def test_offline_training_goes_on_with_the_episodes_that_it_began_with(
    tmp_path: Path,
) -> None:
    def trainer(episodes: Path) -> OfflineTrainer:
        made = make_offline(tmp_path / "run")
        buffer = ReplayBuffer.load(episodes)
        return OfflineTrainer(
            made.model, buffer, made.config, seed=0, directory=tmp_path / "run"
        )

    folders = tmp_path / "mine", tmp_path / "other"
    for length, folder in zip((8, 9), folders, strict=True):
        envs = make_envs(1, length)
        buffer = ReplayBuffer(folder)
        for episode in run_episodes(UniformAgent(BOX), envs, [0, 1]):
            buffer.add(episode)
    run(trainer(folders[0]))
    run(trainer(folders[0]))
    with pytest.raises(FileError, match="that this run began with"):
        run(trainer(folders[1]))


@BOTH
def test_a_checkpoint_of_another_model_is_an_error_in_our_words(
    make: Callable[..., Trainer], tmp_path: Path
) -> None:
    run(make(tmp_path))
    other = make(tmp_path)
    other.model.more = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(FileError, match=r"expected a checkpoint of this run.*more"):
        run(other)


def test_a_checkpoint_of_another_program_is_an_error(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "checkpoints").save(1, {"mine": 1})
    with pytest.raises(FileError, match="expected a checkpoint of this run"):
        run(make_online(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", '{"sessions": 3}', "\x00"])
@pytest.mark.parametrize("name", ["run.json", "metrics.csv"])
def test_damaged_texts_of_a_run_are_named(
    name: str, content: str, tmp_path: Path
) -> None:
    run(make_online(tmp_path, rounds=1))
    (tmp_path / name).write_text(content)
    with pytest.raises(FileError, match=name):
        run(make_online(tmp_path, rounds=2))


def test_seeds_decide(tmp_path: Path) -> None:
    run(make_online(tmp_path / "a"))
    run(make_online(tmp_path / "b"))
    run(make_online(tmp_path / "c", seed=1))
    assert reproducible(tmp_path / "a") == reproducible(tmp_path / "b")
    assert reproducible(tmp_path / "a") != reproducible(tmp_path / "c")


@pytest.mark.parametrize("kept", [0, 9, None])
def test_lost_metrics_are_written_again_from_the_checkpoint(
    kept: int | None, tmp_path: Path
) -> None:
    """Lines of the file that are left; None stands for no file."""
    run(make_online(tmp_path / "whole", rounds=3))
    run(make_online(tmp_path / "cut", rounds=2))
    path = tmp_path / "cut" / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    if kept is not None:
        path.write_text("".join(lines[: 1 + kept]))
    run(make_online(tmp_path / "cut", rounds=3))
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda agent: setattr(agent.planner, "noise", 0.2), r"noise was 0\.1, now 0"),
        (lambda agent: setattr(agent, "exploration", None), r"agent\.exploration was"),
        (lambda agent: setattr(agent, "replan_every", 2), "replan_every was 3, now 2"),
    ],
    ids=["planner", "exploration", "agent"],
)
def test_another_planner_or_noise_is_told(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    run(make_online(tmp_path, rounds=1))
    other = make_online(tmp_path, rounds=2)
    change(other.agent)
    with pytest.raises(ArgumentError, match=message):
        run(other)


def test_a_checkpoint_that_does_not_know_its_agent_goes_on(tmp_path: Path) -> None:
    """One of an earlier version, without agents and metrics."""
    run(make_online(tmp_path, rounds=1))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    index, content = checkpoints.load_latest()
    del content["metrics"], content["settings"]["agent"]
    for name in ("seed_agent", "action_space", "auxiliary"):
        del content["settings"][name]
    for name in ("absorbing_steps", "offline_episodes"):
        del content["settings"][name]
    checkpoints.save(index, content)
    run(make_online(tmp_path, rounds=2))
    assert {row["round"] for row in reproducible(tmp_path)} == {"0", "1", "2"}
