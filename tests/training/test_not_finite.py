"""A loss that becomes NaN stops a run and names the last good checkpoint."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import BOX, make_envs

from diffplan.agents import PolicyAgent
from diffplan.errors import DiffplanError, NonFiniteError
from diffplan.models import RSSM, Actor, Critic
from diffplan.models.base import LossRecord, SequenceBatch
from diffplan.training import (
    Dreamer,
    DreamerConfig,
    OfflineTrainer,
    OnlineConfig,
    OnlineTrainer,
    read_metrics,
)
from diffplan.training.checkpoint import Checkpoints

UPDATES = 2
"""In each round, the first included."""


class Model(RSSM):
    """Fails at one of its losses, if told to."""

    fails_at, losses = -1, 0

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        record = super().loss(batch, generator)
        self.losses += 1
        if self.losses == self.fails_at:
            # A loss of which the metrics say nothing: the gradient's norm does.
            return LossRecord(record.total * torch.nan, record.metrics)
        return record


class Learner(Dreamer):
    """The same for its actor, its critic or the gradient of its actor."""

    fails_at, count, part = -1, 0, ""

    def losses(self, start: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        actor, critic, metrics = super().losses(start)
        self.count += 1
        if self.count == self.fails_at:
            if self.part == "gradient":  # the loss is finite, √0 is not differentiable
                weights = next(self.actor.parameters())
                return actor + (0 * weights.square().sum()).sqrt(), critic, metrics
            metrics[f"{self.part}_loss"] = torch.tensor(torch.nan)
            poison = {"actor": (torch.nan, 1.0), "critic": (1.0, torch.nan)}[self.part]
            return actor * poison[0], critic * poison[1], metrics
        return actor, critic, metrics


def make(
    directory: Path, part: str = "", fails_at: int = -1, rounds: int = 3
) -> OnlineTrainer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "embedding_size": 6, "reward_hidden": 6}
    model = Model(
        (1,), 1, belief_size=4, state_size=3, vector_hidden=6, vector_layers=1, **sizes
    )
    actor, critic = Actor(7, BOX, hidden_size=6), Critic(7, hidden_size=6)
    learner = Learner(model, actor, critic, DreamerConfig(horizon=3), seed=0)
    failing = model if part == "model" else learner
    failing.fails_at, learner.part = fails_at, part
    config = OnlineConfig(
        rounds=rounds,
        seed_episodes=1,
        pretrain_updates=UPDATES,
        updates_per_round=UPDATES,
        batch_size=2,
        sequence_length=3,
        evaluate_every=0,
    )
    agent = PolicyAgent(model, actor, BOX)
    return OnlineTrainer(
        model,
        agent,
        make_envs(1),
        config,
        seed=1,
        directory=directory,
        auxiliary=learner,
    )


def run(trainer: OnlineTrainer | OfflineTrainer) -> None:
    trainer.run(tensorboard=False, quiet=True)


def state_of(trainer: OnlineTrainer) -> dict[str, Tensor]:
    parts = {"model": trainer.model, **vars(trainer.auxiliary)}
    return {
        f"{name}.{key}": value
        for name in ("model", "actor", "critic")
        for key, value in parts[name].state_dict().items()
    }


def reproducible(directory: Path) -> list[Any]:
    rows = read_metrics(directory / "metrics.csv")
    return [row for row in rows if not row["name"].startswith("time/")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> OnlineTrainer:
    trainer = make(tmp_path_factory.mktemp("whole"))
    run(trainer)
    return trainer


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("actor", "actor_loss"),
        ("critic", "critic_loss"),
        ("gradient", "actor_gradient_norm"),
        ("model", "gradient_norm"),
    ],
)
@pytest.mark.parametrize("update", [1, UPDATES])
def test_a_run_stops_and_goes_on_from_the_checkpoint_that_it_names(
    part: str, told: str, update: int, whole: OnlineTrainer, tmp_path: Path
) -> None:
    """In the first and in the last update of round 2, after which all would be saved.

    The last is the dangerous one: no loss of the round shows what it did to the
    weights.
    """
    broken = make(tmp_path, part, fails_at=2 * UPDATES + update)
    with pytest.raises(NonFiniteError, match=f"round 2: .*{told}") as caught:
        run(broken)
    assert isinstance(caught.value, DiffplanError)
    assert not all(value.isfinite().all() for value in state_of(broken).values())
    found = re.search(r"after round 1, is (.*)$", str(caught.value))
    assert found is not None
    named = Path(found[1])
    assert named == Checkpoints(tmp_path / "checkpoints").latest()[1]
    assert sorted(named.parent.iterdir())[-1] == named
    run(resumed := make(tmp_path))
    assert reproducible(tmp_path) == reproducible(whole.directory)
    expected = state_of(whole)
    for name, value in state_of(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_a_run_that_fails_before_its_first_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"round 0: .* no checkpoint from before"):
        run(make(tmp_path, "actor", fails_at=1, rounds=1))
    assert Checkpoints(tmp_path / "checkpoints").latest() is None
