"""Rewards as costs: the only file in which a sign flips.

A reward is received on arrival: a plan of T actions earns r(x_1) … r(x_T), and the
given state x_0, which no plan can change, counts nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffplan.objectives.base import ResidualObjective, StageObjective, no_residual

Reward = Callable[[Tensor], Tensor]
"""`state […, S] → reward […]`, to be maximised."""


class NegativeReturn(StageObjective):
    """Minus the undiscounted sum of rewards of the states 1 … T.

    Args:
        reward: `state […, S] → reward […]`, such as a world model's `reward`.

    Example:
        >>> objective = NegativeReturn(lambda state: state[..., 0])
        >>> objective(torch.ones(4, 1), torch.zeros(3, 1))
        tensor(-3.)
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        self.reward = reward

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        """Return minus the reward of `state`."""
        return -self.reward(state)

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return minus the reward of the last state."""
        return -self.reward(state)

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        """Return zero: the given state's reward is no choice of the plan."""
        return torch.zeros_like(state[..., 0])


class SoftplusReward(ResidualObjective):
    """LatCo's residual form of a reward: softplus(-r(x_t)) for t = 1 … T.

    A non-negative cost that needs no estimate of the largest reward (LatCo, section 4,
    "Levenberg-Marquardt optimization"): cost = ½ Σ_t softplus(-r(x_t))².

    Args:
        reward: `state […, S] → reward […]`.

    Example:
        >>> objective = SoftplusReward(lambda state: 0 * state[..., 0])
        >>> objective.terminal_residual(torch.zeros(1))
        tensor([0.6931])
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        self.reward = reward

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        """Return softplus(-reward) `[…, 1]`."""
        return nn.functional.softplus(-self.reward(state)).unsqueeze(-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return softplus(-reward) of the last state `[…, 1]`."""
        return nn.functional.softplus(-self.reward(state)).unsqueeze(-1)

    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        """Return no residual `[…, 0]`: the given state is no choice of the plan."""
        return no_residual(state)
