"""The whole chain with a real simulator, the RSSM and the cross-entropy method."""

from pathlib import Path

import numpy as np
import pytest
import torch

import diffplan as dp
import diffplan.envs
from diffplan.agents import GaussianNoise, PlanningAgent
from diffplan.training import (
    OnlineConfig,
    OnlineTrainer,
    OptimizerConfig,
    global_seeds,
    load_episode,
    read_metrics,
)

pytest.importorskip("dm_control")


def make(directory: Path, rounds: int) -> OnlineTrainer:
    environments = diffplan.envs.make_vector(
        "dm_control/cartpole-swingup", 2, action_repeat=8, time_limit=100
    )
    with global_seeds(0):
        model = dp.models.RSSM(
            (5,),
            action_dim=1,
            belief_size=16,
            state_size=4,
            embedding_size=16,
            hidden_size=16,
            reward_hidden=16,
            vector_hidden=16,
        )
    agent = PlanningAgent(
        model,
        dp.CEM(horizon=4, num_samples=16, num_elites=4, iterations=2),
        dp.objectives.NegativeReturn(model.reward),
        dp.Box([-1.0], [1.0]),
        replan_every=2,
        exploration=GaussianNoise(0.3),
        posterior="sample",
    )
    config = OnlineConfig(
        rounds=rounds,
        seed_episodes=2,
        episodes_per_round=2,
        pretrain_updates=20,
        updates_per_round=20,
        batch_size=4,
        sequence_length=8,
        action_repeat=8,
        evaluate_every=1,
        evaluation_episodes=2,
        optimizer=OptimizerConfig(learning_rate=3e-3),
    )
    return OnlineTrainer(
        model, agent, environments, config, seed=3, directory=directory
    )


def rows(directory: Path) -> list[dict[str, str]]:
    table = read_metrics(directory / "metrics.csv")
    return [row for row in table if not row["name"].startswith("time/")]


def test_real_run_learns_resumes_and_records(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make(whole, 3).run(tensorboard=False, quiet=True)
    make(parts, 1).run(tensorboard=False, quiet=True)
    resumed = make(parts, 3)
    resumed.run(tensorboard=False, quiet=True)
    # Round 1 was the shorter run's last, which is evaluated in any case.
    assert rows(parts) == rows(whole)
    losses = [float(r["value"]) for r in rows(whole) if r["name"] == "train/loss"]
    assert losses[-1] < losses[0]
    # 100 simulated steps are 12 decisions of 8 and one of 4.
    episode = load_episode(whole / "episodes" / "episode_000007.npz")
    assert episode.observations.shape == (14, 5)
    assert np.abs(episode.actions).max() <= 1
    state = resumed.model.initial_state((1,))
    assert torch.isfinite(resumed.model.reward(state)).all()
