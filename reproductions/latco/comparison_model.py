"""The model of stage (a): fitted once, offline, and judged where it matters."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffplan.models.rssm import RSSM
from diffplan.training._episode import Episode
from diffplan.training.offline import OfflineConfig, OfflineTrainer
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.seeding import global_seeds
from reproductions.common.settings import Settings
from reproductions.common.tables import write_text
from reproductions.latco.comparison_config import DataConfig
from reproductions.latco.data import PARTS

ACTION_DIM = 4
WEIGHTS = "model.pt"


def train(
    directory: Path,
    data_directory: Path,
    data: DataConfig,  # noqa: ARG001 - a unit's settings: other data, other model
    model: Settings,
    training: OfflineConfig,
    seed: int,
) -> None:
    """Fit the RSSM; write `WEIGHTS` and `reward_head.json`. Resumes by itself."""
    buffer, validation = (ReplayBuffer.load(data_directory / part) for part in PARTS)
    rssm = fit(directory, buffer, validation, model, training, seed, ACTION_DIM)
    judged = judge_reward_head(rssm, validation) | {
        "parameters": sum(weights.numel() for weights in rssm.parameters()),
        "episodes": len(buffer),
    }
    write_text(directory / "reward_head.json", json.dumps(judged, indent=2) + "\n")
    rssm.save(directory / WEIGHTS)


def fit(
    directory: Path,
    buffer: ReplayBuffer,
    validation: ReplayBuffer,
    model: Settings,
    training: OfflineConfig,
    seed: int,
    *sizes: int,
) -> RSSM:
    """Return the RSSM, fitted from the folder's checkpoint on if there is one.

    Args:
        directory: Of the unit.
        buffer: Trained on; its observations set the scale.
        validation: Only judged.
        model: Builds it from these observations and the `sizes`.
        training: Of the trainer.
        seed: Of weights and batches.
        *sizes: Other numbers that building the model takes.
    """
    observations = np.concatenate([e.observations for e in buffer.episodes])
    with global_seeds(seed):
        rssm: RSSM = model.build(torch.from_numpy(observations), *sizes)
    OfflineTrainer(
        rssm,
        buffer,
        training,
        seed=seed,
        directory=directory,
        validation=validation,
    ).run(quiet=True, tensorboard=False)
    return rssm


@torch.no_grad()
def judge_reward_head(
    model: RSSM, buffer: ReplayBuffer, margin: int = 5
) -> dict[str, float]:
    """Return how well filtered states tell reward 0 from 1 in held-out episodes.

    Away from the goal anything is right; what a planner of a sparse reward lives on is
    the change from 0 to 1, so the steps within `margin` of a change are counted apart.
    """
    right, near, changes = [], [], 0
    for episode in buffer.episodes:
        states = filtered_states(model, episode)
        said = model.reward(states[1:]) > 0.5
        true = torch.from_numpy(episode.rewards) > 0.5
        change = torch.nonzero(true[1:] != true[:-1]).flatten() + 1
        changes += len(change)
        steps = torch.arange(len(true))
        distance = (
            (steps[:, None] - change).abs().amin(1) if len(change) else steps + 99
        )
        right.append(said == true)
        near.append(distance <= margin)
    correct, close = torch.cat(right), torch.cat(near)
    return {
        "accuracy": float(correct.float().mean()),
        "accuracy_near_changes": float(correct[close].float().mean()),
        "changes": changes,
        "steps": len(correct),
    }


@torch.no_grad()
def filtered_states(model: RSSM, episode: Episode) -> Tensor:
    """Return posterior-mean states `[T + 1, S]` along an episode."""
    observations = torch.from_numpy(episode.observations)
    actions = torch.from_numpy(episode.actions)
    state = model.initial_state()
    previous = torch.zeros_like(actions[0])
    states = []
    for index, observation in enumerate(observations):
        state = model.observe(state, previous, observation)
        states.append(state)
        if index < len(actions):
            previous = actions[index]
    return torch.stack(states)
