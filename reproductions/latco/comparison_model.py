"""The model of stage (a): fitted once, offline, and judged where it matters."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffplan._runs.online import on_device, resolve_device
from diffplan._runs.settings import Settings
from diffplan._runs.tables import write_text
from diffplan.models.rssm import RSSM
from diffplan.training.episode import Episode
from diffplan.training.offline import OfflineConfig, OfflineTrainer
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.seeding import global_seeds
from reproductions.latco.comparison_config import STATE_VECTORS, DataConfig, Setup
from reproductions.latco.data import PARTS

ACTION_DIM = 4
CPU = torch.device("cpu")
AHEAD = (1, 5, 10, 20, 30)
"""Steps after which predictions are judged."""
WEIGHTS, HEAD = "model.pt", "reward_head.json"


def train(
    directory: Path,
    data_directory: Path,
    data: DataConfig,  # noqa: ARG001 - a unit's settings: other data, other model
    model: Settings,
    training: OfflineConfig,
    seed: int,
    setup: Setup = STATE_VECTORS,
) -> None:
    """Fit the RSSM; write `WEIGHTS` and `HEAD`. Resumes by itself."""
    buffer, validation = (ReplayBuffer.load(data_directory / part) for part in PARTS)
    device = resolve_device(setup.device)
    rssm = fit(
        *(directory, buffer, validation, model, training, seed, ACTION_DIM),
        device=device,
    )
    states = filtered_states(rssm, validation.episodes)
    judged = judge_reward_head(rssm.reward, validation, states) | {
        "open_loop": judge_open_loop(rssm, validation, states),
        "parameters": sum(weights.numel() for weights in rssm.parameters()),
        "episodes": len(buffer),
    }
    write_text(directory / HEAD, json.dumps(judged, indent=2) + "\n")
    rssm.save(directory / WEIGHTS)


def fit(
    directory: Path,
    buffer: ReplayBuffer,
    validation: ReplayBuffer,
    model: Settings,
    training: OfflineConfig,
    seed: int,
    *sizes: int,
    device: torch.device = CPU,
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
        device: Of the model.
    """
    observations = np.concatenate([e.observations for e in buffer.episodes])
    with global_seeds(seed):
        rssm: RSSM = model.build(torch.from_numpy(observations), *sizes)
    OfflineTrainer(
        rssm.to(device),
        buffer,
        on_device(training, device),
        seed=seed,
        directory=directory,
        validation=validation,
    ).run(quiet=True, tensorboard=False)
    return rssm


@torch.no_grad()
def judge_reward_head(
    reward: Callable[[Tensor], Tensor],
    buffer: ReplayBuffer,
    states: Tensor,
    margin: int = 5,
) -> dict[str, float]:
    """Return how well filtered states tell reward 0 from 1 in held-out episodes.

    Away from the goal anything is right; what a planner of a sparse reward lives on is
    the change from 0 to 1, so the steps within `margin` of a change are counted apart.
    """
    right, near, changes = [], [], 0
    predicted = reward(states[:, 1:]).cpu() > 0.5
    for episode, said in zip(buffer.episodes, predicted, strict=True):
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
def judge_open_loop(
    model: RSSM, buffer: ReplayBuffer, states: Tensor, every: int = 15, seen: int = 5
) -> dict[str, dict[str, float]]:
    """Return how well predictions hold that see actions alone, by steps ahead.

    `reward_accuracy`: reward told 0 from 1; `recall`: of the steps with reward 1, the
    share that is predicted (NaN if there is none); `error`: mean squared error of the
    decoded state over that of a state that saw the observations as well. Predictions
    begin where reward 0 is seen, after `seen` steps and every `every` steps.
    """
    episodes = buffer.episodes
    actions, rewards, observations = (
        torch.from_numpy(np.stack([getattr(e, name) for e in episodes]))
        for name in ("actions", "rewards", "observations")
    )
    found: dict[str, list[Tensor]] = {str(ahead): [] for ahead in AHEAD}
    for first in range(seen, actions.shape[1] - AHEAD[-1] + 1, every):
        away = rewards[:, first - 1] < 0.5
        state = states[away, first]
        for ahead in range(1, AHEAD[-1] + 1):
            now = first + ahead
            state = model.step(state, actions[away, now - 1].to(state))
            if ahead in AHEAD:
                true = observations[away, now]
                errors = [_error(model, s, true) for s in (state, states[away, now])]
                said = model.reward(state).cpu() > 0.5
                numbers = (said, rewards[away, now - 1] > 0.5, *errors)
                found[str(ahead)].append(torch.stack([n.double() for n in numbers]))
    return {ahead: _judged(*torch.cat(each, 1)) for ahead, each in found.items()}


def _error(model: RSSM, states: Tensor, observations: Tensor) -> Tensor:
    """Return mean squared errors of decoded states, in the scale of the loss."""
    wanted = model.scale(observations.to(states.device))
    return (
        (model.scale(model.decode(states)) - wanted).square().flatten(1).mean(1).cpu()
    )


def _judged(
    said: Tensor, true: Tensor, error: Tensor, least: Tensor
) -> dict[str, float]:
    return {
        "reward_accuracy": float((said == true).double().mean()),
        "recall": float(said[true > 0.5].mean()) if true.any() else math.nan,
        "error": float(error.mean() / least.mean()),
        "predictions": len(said),
    }


@torch.no_grad()
def filtered_states(model: RSSM, episodes: Sequence[Episode]) -> Tensor:
    """Return posterior-mean states `[E, T + 1, S]` along equally long episodes."""
    state = model.initial_state((len(episodes),))
    observations, actions = (
        torch.from_numpy(np.stack([getattr(e, name) for e in episodes])).to(
            state.device
        )
        for name in ("observations", "actions")
    )
    previous = torch.zeros_like(actions[:, 0])
    states = []
    for index in range(observations.shape[1]):
        state = model.observe(state, previous, observations[:, index])
        states.append(state)
        previous = actions[:, min(index, actions.shape[1] - 1)]
    return torch.stack(states, dim=1)
