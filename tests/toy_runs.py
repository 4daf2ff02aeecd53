"""Whole training runs in the toy world; as a program, one that can be killed."""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from toy import BOX, GreedyPlanner, LinearModel, make_envs

from diffplan.agents import GaussianNoise, PlanningAgent, UniformAgent
from diffplan.models.base import LossRecord, SequenceBatch
from diffplan.objectives.reward import NegativeReturn
from diffplan.training import (
    OfflineConfig,
    OfflineTrainer,
    OnlineConfig,
    OnlineTrainer,
    OptimizerConfig,
    ReplayBuffer,
    run_episodes,
)

OPTIMIZER = OptimizerConfig(learning_rate=1e-2)


def make_online(
    directory: Path,
    seed: int = 0,
    model: LinearModel | None = None,
    **settings: Any,
) -> OnlineTrainer:
    """Return a trainer; every source of randomness is in use."""
    model = model or LinearModel()
    agent = PlanningAgent(
        model,
        GreedyPlanner(noise=0.1),
        NegativeReturn(model.reward),
        BOX,
        replan_every=3,
        exploration=GaussianNoise(0.3),
        posterior="sample",
    )
    standard = {
        "rounds": 5,
        "seed_episodes": 3,
        "episodes_per_round": 2,
        "pretrain_updates": 6,
        "updates_per_round": 4,
        "batch_size": 4,
        "sequence_length": 5,
        "evaluate_every": 2,
        "evaluation_episodes": 3,
        "action_repeat": 2,
        "optimizer": OPTIMIZER,
    }
    config = OnlineConfig(**{**standard, **settings})
    return OnlineTrainer(
        model, agent, make_envs(2), config, seed=seed, directory=directory
    )


def make_offline(directory: Path, seed: int = 0, **settings: Any) -> OfflineTrainer:
    buffer, validation = ReplayBuffer(), ReplayBuffer()
    for target, seeds in ((buffer, range(6)), (validation, range(6, 9))):
        for episode in run_episodes(UniformAgent(BOX), make_envs(3), list(seeds)):
            target.add(episode)
    standard = {
        "updates": 23,
        "updates_per_round": 4,
        "batch_size": 4,
        "sequence_length": 5,
        "checkpoint_every": 1,
        "optimizer": OPTIMIZER,
    }
    return OfflineTrainer(
        LinearModel(),
        buffer,
        OfflineConfig(**{**standard, **settings}),
        seed=seed,
        directory=directory,
        validation=validation,
    )


class SlowModel(LinearModel):
    """Waits before every loss."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self.delay = delay

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        time.sleep(self.delay)
        return super().loss(batch, generator)


if __name__ == "__main__":
    torch.set_num_threads(1)
    slow = SlowModel(float(os.environ.get("TOY_DELAY", "0")))
    make = partial(make_online, model=slow, rounds=12)
    make(Path(sys.argv[1])).run(tensorboard=False, quiet=True)
