"""Two small models that are no RSSM: they decode nothing, and one knows no reward.

`TaskModel` has the shape of TD-MPC2 (Hansen et al. 2024, arXiv:2310.16828): encoder,
latent dynamics, reward of state and action, two value heads with a target network, a
policy, consistency loss. `EmbeddingModel` is a joint-embedding predictive model: it
predicts embeddings, and a goal is the embedding of what is to be seen. They keep the
ideas and leave out the refinements (SimNorm, two-hot regression, entropy).
"""

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.objectives._base import StageObjective

DISCOUNT = 0.97
DECAY = 0.5  # Of target networks, per update: fast, so that a test sees it.


def network(*sizes: int) -> nn.Sequential:
    """Layers with ELU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ELU()]
    return nn.Sequential(*layers[:-1])


def target_of(module: nn.Module) -> nn.Module:
    """Return a copy that no optimiser trains."""
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module) -> None:
    """Move a target network towards the network that is trained."""
    for old, new in zip(target.parameters(), module.parameters(), strict=True):
        old.lerp_(new, 1 - DECAY)


class LatentModel(WorldModel):
    """Encoder and latent dynamics."""

    def __init__(self, observation_dim: int, action_dim: int, state_dim: int) -> None:
        super().__init__()
        self.state_dim, self.action_dim = state_dim, action_dim
        self.encoder = network(observation_dim, 16, state_dim)
        self.dynamics = network(state_dim + action_dim, 16, state_dim)

    def encode(self, observation: Tensor) -> Tensor:
        return self.encoder(observation)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.dynamics(torch.cat([state, action], dim=-1))

    def imagine(self, batch: SequenceBatch) -> Tensor:
        """States `[B, L + 1, S]`: the first is seen, the others are predicted."""
        states = [self.encode(batch.observations[:, 0])]
        for action in batch.actions.unbind(dim=1):
            states.append(self.step(states[-1], action))
        return torch.stack(states, dim=1)


class TaskModel(LatentModel):
    """Knows rewards, values and a policy, and has two optimisers."""

    def __init__(
        self, observation_dim: int = 1, action_dim: int = 1, state_dim: int = 4
    ) -> None:
        super().__init__(observation_dim, action_dim, state_dim)
        pair = state_dim + action_dim
        self.reward_head = network(pair, 16, 1)
        self.end_head = network(state_dim, 16, 1)
        self.actor = network(state_dim, 16, action_dim)
        self.critics = nn.ModuleList(network(pair, 16, 1) for _ in range(2))
        self.target_critics = target_of(self.critics)

    def reward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.reward_head(torch.cat([state, action], dim=-1)).squeeze(-1)

    def continues(self, state: Tensor) -> Tensor:
        return self.end_head(state).squeeze(-1).sigmoid()

    def policy(self, state: Tensor) -> Tensor:
        return self.actor(state).tanh()

    def value(self, state: Tensor) -> Tensor:
        return self.values(self.critics, state, self.policy(state)).amin(dim=0)

    def values(self, critics: nn.ModuleList, state: Tensor, action: Tensor) -> Tensor:
        """Values `[heads, …]` of an action in a state."""
        pair = torch.cat([state, action], dim=-1)
        return torch.stack([critic(pair).squeeze(-1) for critic in critics])

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        del generator  # Nothing is drawn.
        states = self.imagine(batch)
        before, after = states[:, :-1], states[:, 1:]
        running = 1 - batch.terminated.to(batch.rewards)
        with torch.no_grad():
            seen = self.encode(batch.observations[:, 1:])
            following = self.values(self.target_critics, seen, self.policy(seen))
            target = batch.rewards + DISCOUNT * running * following.amin(dim=0)
        reward = self.reward(before, batch.actions)
        value = self.values(self.critics, before, batch.actions)
        parts = {
            "consistency": F.mse_loss(after, seen),
            "reward": F.mse_loss(reward, batch.rewards),
            "value": (value - target).square().mean(),
            "end": F.binary_cross_entropy(self.continues(after), running),
            "policy": self.policy_loss(before.detach()),
        }
        metrics = {name: part.detach() for name, part in parts.items()}
        return LossRecord(torch.stack(list(parts.values())).sum(), metrics)

    def policy_loss(self, states: Tensor) -> Tensor:
        """Minus the value of the policy's actions, which moves the policy alone."""
        fixed = {name: p.detach() for name, p in self.critics.named_parameters()}
        pair = torch.cat([states, self.policy(states)], dim=-1)
        values = [
            functional_call(critic, head_parameters(fixed, index), (pair,))
            for index, critic in enumerate(self.critics)
        ]
        return -torch.stack(values).amin(dim=0).mean()

    def optimizers(
        self, learning_rate: float, epsilon: float
    ) -> Mapping[str, torch.optim.Optimizer]:
        acting = list(self.actor.parameters())
        mine = {id(parameter) for parameter in acting}
        others = [p for p in self.parameters() if id(p) not in mine and p.requires_grad]
        return {
            "model": torch.optim.Adam(others, lr=learning_rate, eps=epsilon),
            "policy": torch.optim.Adam(acting, lr=0.1 * learning_rate, eps=epsilon),
        }

    def after_update(self) -> None:
        follow(self.target_critics, self.critics)


def head_parameters(parameters: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The parameters of one entry of a module list, under their own names."""
    begin = f"{index}."
    return {k[len(begin) :]: p for k, p in parameters.items() if k.startswith(begin)}


class EmbeddingModel(LatentModel):
    """Predicts the embeddings of a slowly moving copy of its encoder."""

    def __init__(
        self, observation_dim: int = 1, action_dim: int = 1, state_dim: int = 4
    ) -> None:
        super().__init__(observation_dim, action_dim, state_dim)
        self.target_encoder = target_of(self.encoder)

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        del generator  # Nothing is drawn.
        target = self.target_encoder(batch.observations[:, 1:])
        distance = F.mse_loss(self.imagine(batch)[:, 1:], target)
        return LossRecord(distance, {"distance": distance.detach()})

    def after_update(self) -> None:
        follow(self.target_encoder, self.encoder)


class TaskCost(StageObjective):
    """Minus the rewards of T actions and the value of where they lead."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return -self.model.reward(state, action)

    def terminal_cost(self, state: Tensor) -> Tensor:
        return -self.model.value(state)
