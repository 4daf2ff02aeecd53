"""Evaluation videos show reality and, beside it, what the plan had imagined."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan.agents import AgentState
from diffplan.models import RSSM
from diffplan.plan import Plan
from diffplan.training import EpisodeRecorder
from diffplan.training import recorder as recorder_module
from diffplan.training.video import to_frames

BOTH = np.ones(2, bool)
"""Of the two episodes run."""


def small_model() -> RSSM:
    return RSSM((3, 64, 64), 2, belief_size=4, state_size=2, image_depth=2)


def memory_of(model: RSSM, plan: Plan | None, age: int) -> AgentState:
    start = AgentState.start(model.initial_state((2,)), 2, seed=0)
    return replace(start, plan=plan, age=torch.tensor([age, age]))


def test_each_moment_is_beside_the_state_planned_for_it(tmp_path: Path) -> None:
    model = small_model()
    states = torch.randn(2, 4, model.state_dim)
    plan = Plan(torch.zeros(2, 3, 2), states, torch.zeros(2))
    recorder = EpisodeRecorder(model)
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 64, 64), np.uint8)
    for step in range(3):
        # After acting, `age` counts the action that was just chosen.
        recorder(0, images[step], memory_of(model, plan, step + 1), BOTH)
        recorder(
            2, images[step], memory_of(model, plan, step + 1), BOTH
        )  # another batch
    assert len(recorder.seen) == 3
    for step in range(3):
        assert np.array_equal(recorder.seen[step], images[step, 0])
        expected = model.decode(states[0, step]).detach().numpy()
        np.testing.assert_allclose(recorder.imagined[step], expected)


def test_nothing_is_kept_after_the_first_episode_has_ended() -> None:
    recorder = EpisodeRecorder(small_model())
    image = np.zeros((2, 3, 64, 64), np.uint8)
    for step in range(5):
        memory = memory_of(recorder.model, None, 1)
        recorder(0, image, memory, np.array([step < 2, True]))
    assert len(recorder.seen) == 2


def test_a_failed_plan_does_not_stop_the_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    model = small_model()
    lost = torch.full((2, 4, model.state_dim), torch.nan)
    recorder = EpisodeRecorder(model)
    plan = Plan(torch.zeros(2, 3, 2), lost, torch.zeros(2))
    recorder(0, np.zeros((2, 3, 64, 64), np.uint8), memory_of(model, plan, 1), BOTH)
    assert (to_frames(recorder.imagined[0][None]) == 0).all()
    assert recorder.write(tmp_path / "video") is not None


def test_the_file_holds_both_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imageio = pytest.importorskip("imageio.v2")
    # Without ffmpeg: reading a GIF back needs no child process.
    monkeypatch.setattr(
        recorder_module, "find_spec", lambda name: name if name == "imageio" else None
    )
    model = small_model()
    plan = Plan(
        torch.zeros(2, 3, 2), torch.randn(2, 4, model.state_dim), torch.zeros(2)
    )
    recorder = EpisodeRecorder(model)
    grey = np.full((2, 3, 64, 64), 90, np.uint8)
    for step in range(3):
        recorder(0, grey, memory_of(model, plan, step + 1), BOTH)
    file = recorder.write(tmp_path / "videos" / "round_000002")
    assert file == tmp_path / "videos" / "round_000002.gif"
    frames = np.stack(imageio.mimread(file))[..., :3]
    assert frames.shape == (3, 64, 130, 3)
    assert np.abs(frames[..., :64, :].astype(int) - 90).max() <= 4
    imagined = to_frames(np.stack(recorder.imagined)).astype(int)
    assert np.abs(frames[..., 66:, :].astype(int) - imagined).mean() < 12


def test_vectors_are_not_recorded(tmp_path: Path) -> None:
    model = small_model()
    recorder = EpisodeRecorder(model)
    recorder(0, np.zeros((2, 5), np.float32), memory_of(model, None, 1), BOTH)
    assert recorder.write(tmp_path / "nothing") is None
    assert not list(tmp_path.iterdir())
