"""What a run compares, when it goes on, with what it was begun with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import BOX
from toy_runs import make_online

from diffplan import CEM, Box
from diffplan.agents import PolicyAgent, UniformAgent
from diffplan.errors import ArgumentError
from diffplan.training import Episode, OnlineTrainer
from diffplan.training._description import changes, described


def run(trainer: OnlineTrainer) -> None:
    trainer.run(tensorboard=False, quiet=True)


def given(trainer: OnlineTrainer, length: int, reward: float) -> None:
    """Let a trainer begin with an offline episode."""
    rewards = np.full(length, reward)
    episode = Episode(np.zeros((length + 1, 1)), np.zeros((length, 1)), rewards)
    trainer._offline_episodes = (episode,)


def bounded(trainer: OnlineTrainer, bound: float) -> None:
    """Bound actions that a seed agent of its own does not tell."""
    trainer.seed_agent = PolicyAgent(trainer.model, torch.tanh, BOX)
    trainer.agent = PolicyAgent(trainer.model, torch.tanh, Box([-bound], [bound]))


@dataclass(frozen=True)
class Settings:
    """Of `Learner`."""

    discount: float


class Learner:
    """Learns nothing; what it counts is no setting."""

    def __init__(self, discount: float) -> None:
        self.config, self.updates = Settings(discount), 0

    def update(self, batch: Any) -> dict[str, torch.Tensor]:
        self.updates += 1
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: Any) -> None:
        self.updates = state["updates"]


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (
            lambda trainer, value: setattr(trainer, "_absorbing_steps", value),
            (5, 9),
            "absorbing_steps was 5, now 9",
        ),
        (
            lambda trainer, value: setattr(trainer, "auxiliary", Learner(value)),
            (0.9, 0.5),
            r"auxiliary\.config\.discount was 0\.9, now 0\.5",
        ),
        (
            lambda trainer, value: given(trainer, *value),
            ((8, 0.0), (8, 1.0)),
            r"\(offline_episodes\.checksum was '\w+', now '\w+'\)",
        ),
        (
            lambda trainer, value: given(trainer, *value),
            ((8, 0.0), (9, 0.0)),
            r"\(offline_episodes\.checksum was",
        ),
        (bounded, (1.0, 2.0), r"action_space\.high was 1\.0, now 2\.0"),
    ],
    ids=["absorbing", "auxiliary", "rewards", "lengths", "bounds"],
)
def test_what_a_run_is_given_beside_its_settings_is_compared(
    change: Callable[[OnlineTrainer, Any], None],
    values: tuple[Any, Any],
    message: str,
    tmp_path: Path,
) -> None:
    trainers = [make_online(tmp_path, rounds=rounds) for rounds in (1, 2, 2)]
    for trainer, value in zip(trainers, (*values, values[0]), strict=True):
        change(trainer, value)
    run(trainers[0])
    with pytest.raises(ArgumentError, match=message):
        run(trainers[1])
    run(trainers[2])
    run(trainers[2])  # What has been learnt since is no other setting.


def test_the_number_of_offline_episodes_is_compared(tmp_path: Path) -> None:
    run(make_online(tmp_path, rounds=1))
    other = make_online(tmp_path, rounds=1)
    given(other, 8, 0.0)
    with pytest.raises(ArgumentError, match=r"offline_episodes\.count was 0, now 1"):
        run(other)


def test_vectors_are_settings_and_weights_are_none() -> None:
    def told(std: float, bound: float) -> Any:
        box = Box([-bound] * 2, [bound] * 2)
        planner = CEM(5, num_samples=8, num_elites=2, initial_std=torch.full((2,), std))
        return described((UniformAgent(box), planner))

    assert told(0.25, 1.0) == told(0.25, 1.0)
    assert changes(told(0.25, 1.0), told(0.5, 2.0), ()) == [
        "0.action_space.high was [1.0, 1.0], now [2.0, 2.0]",
        "0.action_space.low was [-1.0, -1.0], now [-2.0, -2.0]",
        "1.initial_std was [0.25, 0.25], now [0.5, 0.5]",
    ]
    assert described(torch.zeros(101)) is None
    assert described(torch.nn.Parameter(torch.zeros(2))) is None


def test_a_checkpoint_that_does_not_know_vectors_goes_on() -> None:
    """One of an earlier version, of an agent with two-dimensional actions."""
    now = {"agent": {"low": [0.0, 0.0], "high": [1.0, 1.0]}, "absorbing_steps": 3}
    assert changes({"agent": {}}, now, ()) == []
    assert changes({"agent": {"low": None, "high": None}}, now, ()) != []
    assert changes({"planner": {}}, {"planner": {"std": [1.0, 2.0]}}, ()) != []
