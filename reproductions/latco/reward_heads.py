"""Several reward heads on one frozen model, for a LatCo that doubts; beyond the paper.

Collocation looks for states that the model calls rewarding, and finds those that its
head is wrong about. Each of these heads starts from other weights and learns from other
episodes, so that where there were no data they are wrong in different ways.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffplan._runs.online import resolve_device
from diffplan._runs.tables import write_text
from diffplan.models.base import SequenceBatch
from diffplan.models.rssm import RSSM
from diffplan.objectives import Ensemble, LowerConfidenceBound, minimum
from diffplan.training.episode import Episode
from diffplan.training.model_trainer import hold_then_decay
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.seeding import derive_seed, global_seeds, make_generator
from reproductions.latco.comparison_config import (
    STATE_VECTORS,
    DataConfig,
    HeadsConfig,
    Setup,
)
from reproductions.latco.comparison_model import (
    HEAD,
    filtered_states,
    judge_reward_head,
)
from reproductions.latco.data import PARTS

READ = {"latco_least": minimum, "latco_doubt": LowerConfidenceBound(1.0)}
"""How planners read the heads, by name: the least, or the mean less a deviation."""
WEIGHTS = "heads.pt"


def fit(
    directory: Path,
    model_path: Path,
    data_directory: Path,
    data: DataConfig,  # noqa: ARG001 - a unit's settings: other data, other heads
    heads: HeadsConfig,
    seed: int,
    setup: Setup = STATE_VECTORS,
) -> None:
    """Fit the heads; write `WEIGHTS` and `HEAD`, which judges the least of them."""
    training, validation = (ReplayBuffer.load(data_directory / p) for p in PARTS)
    model = RSSM.load(model_path).eval().to(resolve_device(setup.device))
    made = _untrained(model, heads.count, seed)
    states, rewards = _sampled(model, training.episodes, seed)
    for index, head in enumerate(made):
        _fit(head, states, rewards, heads, derive_seed(seed, "head", index))
    least = Ensemble([_Reward(head) for head in made], minimum)
    seen = filtered_states(model, validation.episodes)
    judged = judge_reward_head(least, validation, seen)
    write_text(directory / HEAD, json.dumps(judged, indent=2) + "\n")
    torch.save([head.state_dict() for head in made], directory / WEIGHTS)


def load(model: RSSM, path: Path, planner: str) -> Ensemble:
    """Return the reward that a planner of `READ` sees, from the heads of a model."""
    weights = torch.load(path, weights_only=True)
    heads = _untrained(model, len(weights), 0)
    for head, each in zip(heads, weights, strict=True):
        head.load_state_dict(each)
    return Ensemble([_Reward(head) for head in heads], READ[planner]).requires_grad_(
        False
    )


class _Reward(nn.Module):
    """The reward that a head tells, as the model's own method `reward` does."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, state: Tensor) -> Tensor:
        told: Tensor = self.head(state)
        return told.squeeze(-1)


def _untrained(model: RSSM, count: int, seed: int) -> list[nn.Module]:
    """Return heads like the model's own, as a new model would begin with."""
    with global_seeds(derive_seed(seed, "reward heads")):
        made = [RSSM(**model.config).reward_head for _ in range(count)]
    return [head.to(next(model.parameters()).device) for head in made]


@torch.no_grad()
def _sampled(
    model: RSSM, episodes: Sequence[Episode], seed: int
) -> tuple[Tensor, Tensor]:
    """Return states `[E, T, S]`, sampled as in the model's loss, and their rewards."""
    device = next(model.parameters()).device
    batch = SequenceBatch(
        *(
            torch.from_numpy(np.stack([getattr(e, name) for e in episodes])).to(device)
            for name in ("observations", "actions", "rewards")
        )
    )
    states = model.observe_sequence(batch, make_generator(seed, "posterior"))
    return states[:, 1:], batch.rewards.to(states)


def _fit(
    head: nn.Module, states: Tensor, rewards: Tensor, config: HeadsConfig, seed: int
) -> None:
    """Lower the squared error on episodes that were drawn with replacement."""
    generator = make_generator(seed, "episodes")
    count, length = rewards.shape
    own = torch.randint(count, (count,), generator=generator)
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, hold_then_decay(config.updates)
    )
    for _ in range(config.updates):
        size = (config.batch_size,)
        episode = own[torch.randint(count, size, generator=generator)]
        step = torch.randint(length, size, generator=generator)
        error = head(states[episode, step]).squeeze(-1) - rewards[episode, step]
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        schedule.step()
