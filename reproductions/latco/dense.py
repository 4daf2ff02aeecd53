"""The model of dense tasks (Fig. 10), whose rewards are normalised as they come in."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffplan.errors import ArgumentError
from diffplan.models.base import LossRecord, SequenceBatch
from diffplan.models.rssm import RSSM


class DenseRSSM(RSSM):
    """An RSSM that learns rewards less their mean, divided by their deviation.

    Both are exponential averages of each training batch's, from 0 and 1 on, and have
    no lower bound. A batch meets what the batches before it left. `reward` stays in
    these units: the softplus of LatCo's objective would flatten large rewards.

    Args:
        observation_shape: Of `RSSM`.
        action_dim: A.
        reward_momentum: Of both averages, from 0 up to but without 1.
        **options: Of `RSSM`.

    Attributes:
        reward_mean: A scalar.
        reward_std: A scalar, of whole batches (divided by their size).

    References:
        Rybkin et al. 2021, appendix E.2; the averages are those of the authors' code.
    """

    reward_mean: Tensor
    reward_std: Tensor

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        action_dim: int,
        *,
        reward_momentum: float = 0.99,
        **options: Any,
    ) -> None:
        super().__init__(observation_shape, action_dim, **options)
        if not 0 <= reward_momentum < 1:
            raise ArgumentError(
                f"reward_momentum: expected 0 up to but without 1, got "
                f"{reward_momentum}"
            )
        self.reward_momentum = self.config["reward_momentum"] = reward_momentum
        self.register_buffer("reward_mean", torch.tensor(0.0))
        self.register_buffer("reward_std", torch.tensor(1.0))

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        """Return the loss of a batch with its rewards normalised; see `RSSM.loss`."""
        rewards = batch.rewards.to(self.reward_mean)
        normal = (rewards - self.reward_mean) / self.reward_std
        record = super().loss(replace(batch, rewards=normal), generator)
        if torch.is_grad_enabled():  # validation only looks
            share = 1 - self.reward_momentum
            self.reward_mean.lerp_(rewards.mean(), share)
            self.reward_std.lerp_(rewards.std(correction=0), share)
        return record
