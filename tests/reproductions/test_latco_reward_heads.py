"""Reward heads on a frozen model: what they learn, and how LatCo reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan.models import RSSM
from diffplan.training import Episode, ReplayBuffer
from reproductions.latco import reward_heads
from reproductions.latco.comparison_config import DataConfig, HeadsConfig
from reproductions.latco.comparison_model import HEAD


def save_episodes(directory: Path, count: int, seed: int) -> None:
    """Random walks whose reward is 1 where the first number is positive."""
    rng, buffer = np.random.default_rng(seed), ReplayBuffer(directory)
    for _ in range(count):
        actions = rng.choice([-1.0, 1.0], (40, 1)).astype(np.float32)
        walk = np.cumsum(np.concatenate([[[0.5]], actions]), 0).astype(np.float32)
        buffer.add(Episode(walk, actions, (walk[1:, 0] > 0).astype(np.float32)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("heads")
    torch.manual_seed(0)
    model = RSSM((1,), 1, state_size=6, belief_size=6, hidden_size=16, reward_hidden=16)
    model.save(made / "model.pt")
    for part, count in (("training", 12), ("validation", 4)):
        save_episodes(made / part, count, count)
    for name in ("one", "again"):
        (made / name).mkdir()
        reward_heads.fit(
            made / name,
            made / "model.pt",
            made,
            DataConfig(),
            HeadsConfig(count=3, updates=400, batch_size=128, learning_rate=1e-2),
            seed=3,
        )
    return made


def test_heads_learn_the_reward_and_differ(folder: Path) -> None:
    judged = json.loads((folder / "one" / HEAD).read_text())
    assert judged["steps"] == 4 * 40
    assert judged["accuracy"] > 0.8  # of an untrained encoder, and the least of three
    model = RSSM.load(folder / "model.pt")
    states = 3 * torch.randn(200, model.state_dim)
    heads = reward_heads.load(model, folder / "one" / "heads.pt", "latco_least").heads
    told = torch.stack([head(states) for head in heads], -1)
    assert (told.std(dim=-1) > 0.01).all()


def test_planners_read_the_least_or_pay_for_doubt(folder: Path) -> None:
    model, path = RSSM.load(folder / "model.pt"), folder / "one" / "heads.pt"
    least = reward_heads.load(model, path, "latco_least")
    doubt = reward_heads.load(model, path, "latco_doubt")
    states = torch.randn(5, 2, model.state_dim)
    told = torch.stack([head(states) for head in least.heads], -1)
    assert told.shape == (5, 2, 3)
    torch.testing.assert_close(least(states), told.min(dim=-1).values)
    expected = told.mean(dim=-1) - told.std(dim=-1, correction=0)
    torch.testing.assert_close(doubt(states), expected)
    assert not any(weight.requires_grad for weight in least.parameters())


def test_a_fit_is_repeated_exactly(folder: Path) -> None:
    first, again = (
        torch.load(folder / name / "heads.pt", weights_only=True)
        for name in ("one", "again")
    )
    for head, other in zip(first, again, strict=True):
        for name, weight in head.items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=0)
