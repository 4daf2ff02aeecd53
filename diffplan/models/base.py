"""What a world model is: a latent dynamics that filters, rewards, decodes and learns.

A planner needs only `step` (and an objective needs `reward`); an agent needs
`observe`; training needs `loss`. The whole latent structure of a model lives in one
tensor `[…, S]`, the planning state.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diffplan.errors import ShapeError


@dataclass(frozen=True)
class SequenceBatch:
    """Equally long pieces of episodes, the food of `WorldModel.loss`.

    `actions[:, t]` leads from `observations[:, t]` to `observations[:, t + 1]`;
    `rewards[:, t]` is received on arrival at `t + 1`.

    Args:
        observations: `[B, L + 1, …]`; uint8 images `[B, L + 1, 3, 64, 64]` or float
            vectors `[B, L + 1, D]`.
        actions: `[B, L, A]`.
        rewards: `[B, L]`.

    Raises:
        ShapeError: B or L differ between the three tensors.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor

    def __post_init__(self) -> None:
        if self.actions.dim() != 3 or self.observations.dim() < 3:
            raise ShapeError(
                "SequenceBatch: expected observations [B, L + 1, …] and actions "
                f"[B, L, A], got {list(self.observations.shape)} and "
                f"{list(self.actions.shape)}"
            )
        batch, length = self.actions.shape[:2]
        if length < 1:
            raise ShapeError("actions: expected at least one step, got none")
        if self.observations.shape[:2] != (batch, length + 1):
            raise ShapeError(
                f"observations: expected [{batch}, {length + 1}, …], got "
                f"{list(self.observations.shape)}: one more than the "
                f"{length} actions, for each of {batch} sequences"
            )
        if self.rewards.shape != (batch, length):
            raise ShapeError(
                f"rewards: expected [{batch}, {length}], got "
                f"{list(self.rewards.shape)}: one reward for each action"
            )

    @property
    def size(self) -> int:
        """Number of sequences B."""
        return self.actions.shape[0]

    @property
    def length(self) -> int:
        """Number of actions L of each sequence."""
        return self.actions.shape[1]

    def to(self, device: torch.device | str) -> "SequenceBatch":
        """Copy of the batch on `device`."""
        return replace(
            self,
            observations=self.observations.to(device),
            actions=self.actions.to(device),
            rewards=self.rewards.to(device),
        )


@dataclass(frozen=True)
class LossRecord:
    """A loss to be minimised and what it is made of.

    Args:
        total: Scalar with a graph.
        metrics: Named scalars without a graph, for logs.
    """

    total: Tensor
    metrics: dict[str, Tensor]


class WorldModel(nn.Module, ABC):
    """A learned latent dynamics, with the planning state in one tensor.

    A model is itself a dynamics: `model(state, action)` is `model.step(state, action)`.
    `step`, `reward` and `decode` accept any leading dimensions.

    Two capabilities are optional, and therefore not declared here: a model that can
    `linearize(state, action) → (next […, S], A […, S, S], B […, S, A])` has an
    analytic Jacobian, one that can `predict(state, action) → Normal` knows its own
    uncertainty. Planners look for these methods.

    Attributes:
        state_dim: Size S of the planning state.
        action_dim: Size A of an action.
    """

    state_dim: int
    action_dim: int

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Most likely next state `[…, S]` after `action […, A]` in `state […, S]`."""

    @abstractmethod
    def observe(
        self,
        state: Tensor,
        action: Tensor,
        observation: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """State `[…, S]` that takes into account what was seen after `action`.

        Args:
            state: `[…, S]` before the action.
            action: `[…, A]`; zeros for the first observation of an episode.
            observation: `[…, *observation_shape]` after the action.
            noise: Standard normal draw; None gives the posterior mean.

        Raises:
            ShapeError: the leading dimensions differ: one observation must not pass
                for that of three states (`diffplan.errors.require_leading`).
        """

    @abstractmethod
    def reward(self, state: Tensor) -> Tensor:
        """Predicted reward `[…]` for arriving in `state […, S]`."""

    @abstractmethod
    def decode(self, state: Tensor) -> Tensor:
        """Predicted observation of `state […, S]`; images as floats around [0, 1]."""

    @abstractmethod
    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        """Training loss on `batch`, with all noise drawn from `generator`."""

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Same as `step`, so that a model is a dynamics."""
        return self.step(state, action)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Tensor:
        """Planning state before the first observation: zeros `[*batch_shape, S]`."""
        return next(self.parameters()).new_zeros((*batch_shape, self.state_dim))
