"""What a world model is: a latent dynamics that sees, predicts and learns.

Everybody asks a model for what they use and no more: a planner for `step`, an agent for
`observe` (or `encode`) besides, a trainer for `loss`. Whatever else a model knows is a
capability, see `WorldModel`. The whole latent structure of a model lives in one tensor
`[…, S]`, the planning state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffplan.capabilities import Encoding, knows
from diffplan.errors import ShapeError, TensorTypeError


@dataclass(frozen=True)
class SequenceBatch:
    """Equally long pieces of episodes, from which `WorldModel.loss` is computed.

    `actions[:, t]` leads from `observations[:, t]` to `observations[:, t + 1]`;
    `rewards[:, t]` and `terminated[:, t]` are those of the arrival at `t + 1`.

    Args:
        observations: `[B, L + 1, …]`; uint8 images `[B, L + 1, 3, 64, 64]` or float
            vectors `[B, L + 1, D]`.
        actions: `[B, L, A]`.
        rewards: `[B, L]`.
        terminated: bool `[B, L]`, whether the task ended the episode there, so that
            nothing follows. Where an episode was only cut short (truncated) it is
            False, and the value of what would have followed counts. Left out, it is
            False everywhere.

    Raises:
        ShapeError: B or L differ between the tensors.
        TensorTypeError: `terminated` is not bool.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    # Once the batch is made, this is a tensor: a loss need not ask.
    terminated: Tensor = None  # type: ignore[assignment]

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
        if self.terminated is None:
            nothing = torch.zeros_like(self.rewards, dtype=torch.bool)
            object.__setattr__(self, "terminated", nothing)
        if self.terminated.dtype != torch.bool:
            raise TensorTypeError(
                f"terminated: expected bool, got {self.terminated.dtype}"
            )
        if self.terminated.shape != (batch, length):
            raise ShapeError(
                f"terminated: expected [{batch}, {length}], got "
                f"{list(self.terminated.shape)}: one for each action"
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
            terminated=self.terminated.to(device),
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

    A subclass defines `step`, `loss`, and one of two ways to see: `observe`, or, where
    an observation tells everything, `encode(observation […, *shape]) → state […, S]`.
    What else it knows, it says by defining a method of these names; whoever can use a
    capability looks for the name (`diffplan.capabilities`). All take any leading
    dimensions:

    - `reward(state) → […]` is the reward on arrival in a state;
      `reward(state, action) → […]` that of an action taken in it. The second argument
      is the declaration: see `takes_action`.
    - `continues(state) → […]` is the probability that the task has not ended there.
    - `value(state) → […]` is the return that is still to come, under the model's own
      `policy(state) → action […, A]` if it has one.
    - `decode(state)` is the predicted observation, images as floats around [0, 1];
      `scale(observation)` puts one in units in which it is about one in size, and
      `unscale` takes it back.
    - `linearize(state, action) → (next […, S], A […, S, S], B […, S, A])` is an
      analytic Jacobian; `predict(state, action) → Normal` the model's own uncertainty,
      around the same next state as `step`.

    Attributes:
        state_dim: Size S of the planning state.
        action_dim: Size A of an action.
        state_size: Only where the posterior is random: how many standard normal
            numbers the `noise` of `observe` has.
    """

    state_dim: int
    action_dim: int

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the most likely next state `[…, S]` after `action […, A]`."""

    @abstractmethod
    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        """Return the training loss on `batch`, all noise drawn from `generator`.

        One total serves several optimisers if each term reaches only the parameters it
        is meant for: detach what it should leave alone.
        """

    def observe(
        self,
        state: Tensor,
        action: Tensor,
        observation: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return the state `[…, S]` that takes into account what was seen.

        Unless a model overrides this, that is `encode(observation)`, whatever the state
        and the action before.

        Args:
            state: `[…, S]` before the action.
            action: `[…, A]`; zeros for the first observation of an episode.
            observation: `[…, *observation_shape]` after the action.
            noise: Standard normal draw `[…, state_size]`; None gives the posterior
                mean.

        Raises:
            ShapeError: the leading dimensions differ: one observation must not pass
                for that of three states (`diffplan.errors.require_leading`).
        """
        del noise  # What is encoded is certain.
        if not knows(self, Encoding):
            raise NotImplementedError(
                f"{type(self).__name__}: expected a world model to define observe, or "
                "encode where it needs no memory; it defines neither"
            )
        seen = self.encode(observation)
        for name, lead in (("observation", seen), ("action", action)):
            if lead.shape[:-1] != state.shape[:-1]:
                raise ShapeError(
                    f"{name}: expected the leading dimensions {list(state.shape[:-1])} "
                    f"of the state, got {list(lead.shape[:-1])}"
                )
        return seen

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return `step(state, action)`, so that a model is a dynamics."""
        return self.step(state, action)

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(self, state: Tensor, action: Tensor) -> Tensor: ...  # noqa: D102

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Tensor:
        """Return the state before the first observation: zeros `[*batch_shape, S]`."""
        return next(self.parameters()).new_zeros((*batch_shape, self.state_dim))

    def optimizers(
        self, learning_rate: float, epsilon: float
    ) -> Mapping[str, torch.optim.Optimizer]:
        """Return what trains the model; unless overridden one Adam, of all parameters.

        Each parameter that asks for a gradient belongs to exactly one of them, and
        gradients are clipped for each alone. Those of a target network ask for none.

        Args:
            learning_rate: That of the trainer's settings. Every group of an optimiser
                keeps the rate it is given here, times the trainer's schedule.
            epsilon: Of Adam.

        Returns:
            Optimisers by name; the name of an only one may be empty.
        """
        parameters = self.parameters()
        return {"": torch.optim.Adam(parameters, lr=learning_rate, eps=epsilon)}

    def after_update(self) -> None:
        """Follow an update of the parameters: here target networks are moved."""
