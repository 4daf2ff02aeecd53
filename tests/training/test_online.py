import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from toy import BOX, PointEnv, make_envs
from toy_runs import make_offline, make_online

from diffplan.agents import UniformAgent
from diffplan.envs.vector import VectorEnv
from diffplan.errors import ArgumentError
from diffplan.training import (
    OfflineConfig,
    OfflineTrainer,
    OnlineConfig,
    ReplayBuffer,
    hold_then_decay,
    load_episode,
    read_metrics,
    run_episodes,
)


class Images(PointEnv):
    """Shows the position as the brightness of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(0, 255, (3, 8, 8), np.uint8)

    def _observation(self) -> np.ndarray:
        return np.full((3, 8, 8), 128 + 50 * self.position, np.uint8)


def table(directory: Path) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for row in read_metrics(directory / "metrics.csv"):
        values.setdefault(row["name"], {})[int(row["round"])] = float(row["value"])
    return values


def test_a_round_collects_trains_and_evaluates(tmp_path: Path) -> None:
    trainer = make_online(tmp_path)
    trainer.run(tensorboard=False, quiet=True)
    values = table(tmp_path)
    # 3 seed episodes of 8 decisions and then 2 in each round, action repeat 2.
    rows = read_metrics(tmp_path / "metrics.csv")
    steps = {int(row["round"]): int(row["environment_step"]) for row in rows}
    assert steps == {i: 2 * 8 * (3 + 2 * i) for i in range(6)}
    # Every second round and the last one.
    assert set(values["test/return"]) == {0, 2, 4, 5}
    assert set(values["train/loss"]) == set(range(6))
    assert trainer.trainer.updates == 6 + 5 * 4
    files = sorted((tmp_path / "episodes").glob("*.npz"))
    assert len(files) == 3 + 5 * 2
    returns = [load_episode(path).episode_return for path in files]
    assert values["collect/return"][0] == pytest.approx(np.mean(returns[:3]))
    assert values["collect/return"][5] == pytest.approx(np.mean(returns[-2:]))
    single = [values[f"test/episode_{i}/return"][5] for i in range(3)]
    assert values["test/return"][5] == pytest.approx(np.mean(single))
    starts = {
        values[f"test/episode_{i}/initial_start"][r] for i in range(3) for r in (4, 5)
    }
    assert len(starts) == 6


def test_every_episode_has_a_seed_of_its_own(tmp_path: Path) -> None:
    make_online(tmp_path).run(tensorboard=False, quiet=True)
    files = sorted((tmp_path / "episodes").glob("*.npz"))
    starts = {load_episode(path).initial_info["start"] for path in files}
    assert len(starts) == len(files)


def test_an_evaluation_outside_of_rounds_has_episodes_of_its_own(
    tmp_path: Path,
) -> None:
    trainer = make_online(tmp_path)
    trainer.run(tensorboard=False, quiet=True)
    values = table(tmp_path)
    starts = {
        value
        for number in range(3)
        for value in values[f"test/episode_{number}/initial_start"].values()
    }
    assert len(starts) == 3 * 4
    own = [info["start"] for info in trainer.evaluate(3).initial_infos]
    assert len(starts.union(own)) == 3 * 4 + 3
    assert [info["start"] for info in trainer.evaluate(3).initial_infos] == own


def test_only_rounds_write_videos(tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    trainer = make_online(tmp_path, rounds=0)
    trainer.agent = UniformAgent(BOX)  # needs no model that knows images
    trainer._train = lambda updates: {}
    trainer.environments = VectorEnv([Images] * 2)
    trainer.run(tensorboard=False, quiet=True)
    (file,) = (tmp_path / "videos").iterdir()
    assert file.stem == "round_000000"
    file.unlink()
    assert trainer.evaluate(2).lengths.tolist() == [8, 8]
    assert not list((tmp_path / "videos").iterdir())


def test_seed_episodes_are_uniform_and_later_ones_are_planned(tmp_path: Path) -> None:
    trainer = make_online(tmp_path, rounds=1)
    trainer.run(tensorboard=False, quiet=True)
    assert trainer.agent.planner.batches[0] == 2
    collected = 3 * 1  # plans per batch of 8 decisions, 3 executed per plan
    # Round 0 evaluates 3 episodes in 2 batches, round 1 collects and evaluates.
    assert len(trainer.agent.planner.batches) == collected * (2 + 1 + 2)


def test_times_are_shares_of_the_round(tmp_path: Path) -> None:
    make_online(tmp_path).run(tensorboard=False, quiet=True)
    values = table(tmp_path)
    names = ("planning", "environment", "training", "evaluation")
    for index in (2, 4):
        shares = [values[f"time/{name}_share"][index] for name in names]
        assert all(share > 0 for share in shares)
        assert sum(shares) <= 1
        seconds = values["time/seconds"][index]
        rate = values["time/environment_steps_per_second"][index]
        assert rate == pytest.approx(2 * 2 * 8 / seconds)
        planning = values["time/planning_seconds"][index]
        assert planning / seconds == pytest.approx(shares[0])


def test_offline_episodes_are_pooled_and_survive_a_restart(tmp_path: Path) -> None:
    extra = run_episodes(UniformAgent(BOX), make_envs(2), [90, 91])
    trainer = make_online(tmp_path, rounds=1)
    trainer._offline_episodes = tuple(extra)
    trainer.buffer = trainer._first_buffer()
    trainer.run(tensorboard=False, quiet=True)
    assert len(trainer.buffer) == 2 + 3 + 2
    assert len(list((tmp_path / "episodes").glob("*.npz"))) == 5
    trainer.run(tensorboard=False, quiet=True)
    assert len(trainer.buffer) == 2 + 3 + 2


def test_offline_training_follows_its_schedule(tmp_path: Path) -> None:
    trainer = make_offline(tmp_path)
    trainer.run(tensorboard=False, quiet=True)
    values = table(tmp_path)
    assert trainer.trainer.updates == 23
    schedule = hold_then_decay(23)
    for index, last in enumerate([3, 7, 11, 15, 19, 22]):
        rate = values["train/learning_rate"][index]
        assert rate == pytest.approx(1e-2 * schedule(last))
    steps = [
        int(row["environment_step"]) for row in read_metrics(tmp_path / "metrics.csv")
    ]
    assert sorted(set(steps)) == [4, 8, 12, 16, 20, 23]
    losses = values["validation/loss"]
    assert losses[5] < losses[0]


def test_validation_always_sees_the_same_windows(tmp_path: Path) -> None:
    trainer = make_offline(tmp_path)
    first = trainer._validate(trainer.validation)
    assert trainer._validate(trainer.validation) == first
    with torch.no_grad():
        trainer.model.gain.add_(0.1)
    assert trainer._validate(trainer.validation) != first


def test_run_folder_says_what_the_run_was(tmp_path: Path) -> None:
    make_online(tmp_path).run(tensorboard=False, quiet=True)
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["seed"] == 0
    assert content["status"] == "completed"
    assert content["config"]["optimizer"]["learning_rate"] == 1e-2
    session = content["sessions"][0]
    assert session["versions"]["torch"] == torch.__version__
    assert session["wall_seconds"] >= 0
    assert math.isfinite(session["hardware"]["cores"])


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="seed_episodes: expected a whole"):
        OnlineConfig(seed_episodes=0)
    with pytest.raises(ArgumentError, match="updates: expected a whole"):
        OfflineConfig(updates=0)
    with pytest.raises(ArgumentError, match="buffer: expected at least one episode"):
        OfflineTrainer(
            make_offline(tmp_path).model,
            ReplayBuffer(),
            OfflineConfig(updates=1),
            seed=0,
            directory=tmp_path,
        )
