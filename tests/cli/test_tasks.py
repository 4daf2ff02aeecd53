"""Tasks of `diffplan train`: vectors, choices, images, and ends."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SIZES, TASK, command, trained

import diffplan as dp
from diffplan._runs import tasks
from diffplan.errors import ArgumentError, MissingDependencyError, UnknownNameError
from diffplan.training import load_episode, load_plan_record, read_metrics

gymnasium = pytest.importorskip("gymnasium")

CHOOSING = "CartPole-v1"


def test_a_task_of_gymnasium_is_a_scaled_vector() -> None:
    env = tasks.make_task(TASK, observation="state", action_repeat=2)
    assert env.action_space.low.tolist() == [-1.0]
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    # Twice the largest torque, by hand in the simulator itself.
    plain = gymnasium.make(TASK)
    plain.reset(seed=0)
    earned = [plain.step(np.float32([2.0])) for _ in range(2)]
    seen, reward, *_ = env.step(np.float32([1.0]))
    np.testing.assert_allclose(seen, earned[-1][0], rtol=1e-6)
    np.testing.assert_allclose(reward, sum(each[1] for each in earned), rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "more", "error", "told"),
    [
        ("Pendulm-v1", {}, UnknownNameError, "id of Gymnasium"),
        (TASK, {"observation": "pixels"}, MissingDependencyError, "pygame"),
    ],
)
def test_other_tasks_are_refused(
    task: str,
    more: dict[str, Any],
    error: type[Exception],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # whether it is installed or not
    with pytest.raises(error, match=told):
        tasks.make_task(task, **more)


def test_other_actions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gymnasium.make(CHOOSING)
    env.action_space = gymnasium.spaces.MultiBinary(3)
    monkeypatch.setattr(gymnasium, "make", lambda task, **more: env)
    with pytest.raises(ArgumentError, match=r"or Discrete, .* has MultiBinary\(3\)"):
        tasks.make_task(CHOOSING)


# Choices and ends


def test_choices_are_one_hot() -> None:
    env, plain = tasks.make_task(CHOOSING), gymnasium.make(CHOOSING)
    env.reset(seed=3)
    plain.reset(seed=3)
    for choice in (0, 1, 1):
        seen, *_ = env.step(np.eye(2, dtype=np.float32)[choice])
        np.testing.assert_allclose(seen, plain.step(choice)[0], rtol=1e-6)


def test_choices_are_learnt_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "cartpole"
    # Windows of 30 steps are longer than most episodes of random actions.
    long = ["training.action_repeat=1", "training.sequence_length=30"]
    assert trained(run, *long, "training.seed_episodes=3", task=CHOOSING) == 0
    episodes = [load_episode(path) for path in (run / "episodes").glob("*.npz")]
    assert len(episodes) == 4
    for episode in episodes:
        assert episode.terminated
        assert (np.sort(episode.actions, axis=1) == [0, 1]).all()
        assert episode.episode_return == episode.length
    assert command("evaluate", run, "planner=mppi", "--episodes", 2) == 0
    assert "| random actions | 2 |" in capsys.readouterr().out
    assert command("plan", run, "--name", "one") == 0
    actions = torch.tensor(load_plan_record(run / "plans" / "one.npz").actions)
    assert dp.Categorical(2).contains(actions[-1]).all()
    assert command("view", run, "--output", tmp_path / "page.html") == 0
    capsys.readouterr()
    assert command("tune", run, "planner=cem,ilqr") == 64
    assert "dp.CEM, dp.DCEM and dp.MPPI plan choices" in capsys.readouterr().err
    assert not (run / "tune.log").exists()
    loaded = dp.runs.load_run(run)
    assert isinstance(loaded.agent.action_space, dp.Categorical)
    assert loaded.agent.exploration == dp.agents.RandomChoice(0.3)


def test_workers_simulate_too(tmp_path: Path) -> None:
    alone, apart = tmp_path / "alone", tmp_path / "apart"
    assert trained(alone, task=CHOOSING) == 0
    assert trained(apart, "num_workers=1", task=CHOOSING) == 0
    found = [
        [row for row in read_metrics(run / "metrics.csv") if "time/" not in row["name"]]
        for run in (alone, apart)
    ]
    assert found[0] == found[1]


def test_planners_that_descend_refuse_choices_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SIZES, "planner=latco", "--directory", tmp_path / "run"]
    assert command("train", CHOOSING, *words) == 64
    assert "Categorical" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Images


class Drawn(gymnasium.Env):
    """Its pictures are red above and blue below, brighter with every drawing."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Discrete(4)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.drawings = render_mode, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 9
        return 0, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return 0, float(action), False, self.left == 0, {}

    def render(self) -> np.ndarray:
        self.drawings += 1
        picture = np.zeros((90, 120, 3), np.uint8)
        picture[:45, :, 2] = picture[45:, :, 0] = 100 + self.drawings
        return picture[::-1]  # as OpenGL's


@pytest.fixture
def drawn() -> Iterator[str]:
    gymnasium.register("Drawn-v0", Drawn)
    yield "Drawn-v0"
    del gymnasium.registry["Drawn-v0"]


def test_tasks_of_gymnasium_are_seen_as_images(drawn: str) -> None:
    env = tasks.make_task(drawn, observation="pixels", action_repeat=3)
    before = env.unwrapped.drawings
    image, _ = env.reset(seed=0)
    assert env.observation_space.contains(image)
    assert (image.shape, image.dtype) == ((3, 64, 64), np.uint8)
    bright = 101 + before
    assert (image[:, :31] == np.array([bright, 0, 0])[:, None, None]).all()
    assert (image[:, 33:] == np.array([0, 0, bright])[:, None, None]).all()
    image, *_ = env.step(np.float32([0, 1]))
    assert image.max() == bright + 1  # one drawing for three steps


def test_images_are_learnt_from_the_command_line(drawn: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["observation=pixels", "training.action_repeat=2", "model.image_depth=2"]
    assert trained(run, *words, task=drawn) == 0
    assert command("plan", run, "--name", "one") == 0
    record = load_plan_record(run / "plans" / "one.npz")
    assert record.seen.shape[1:] == record.images.shape[2:] == (64, 64, 3)
    shares = [
        float(row["value"])
        for row in read_metrics(run / "metrics.csv")
        if row["name"] == "time/rendering_share"
    ]
    assert min(shares) > 0
