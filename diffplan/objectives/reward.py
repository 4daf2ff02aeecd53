"""Rewards as costs: the only file in which a sign flips.

A reward of a state is received on arrival: a plan of T actions earns r(x_1) … r(x_T),
and the given state x_0, which no plan can change, counts nothing. A reward of a state
and an action is received for taking it: r(x_0, u_0) … r(x_{T-1}, u_{T-1}).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffplan._checked_model import ALIGNED
from diffplan._checks import require_share
from diffplan._user_functions import ask
from diffplan.capabilities import takes_action
from diffplan.errors import ArgumentError
from diffplan.objectives._base import (
    ResidualObjective,
    StageObjective,
    check_trajectory,
    no_residual,
)

_Reward = Callable[..., Tensor]
"""`state […, S] → reward […]`, or with the argument `action […, A]`; maximised."""


class NegativeReturn(StageObjective):
    """Minus the sum of rewards, discounted, and of the value of where the plan ends.

    cost = -Σ_{t=0}^{T-1} γ^t r_t - γ^T V(x_T), with r_t = r(x_{t+1}), or r(x_t, u_t)
    for a reward that sees the action.

    Args:
        reward: `state […, S] → reward […]`, such as a world model's `reward`; or a
            function of state and action, see `diffplan.capabilities.takes_action`.
        discount: γ, in 0 … 1.
        value: `state […, S] → value […]`, what is earned after the plan; None for
            nothing.

    Raises:
        ArgumentError: the discount is out of range.

    Example:
        >>> objective = NegativeReturn(lambda state: state[..., 0])
        >>> objective(torch.ones(4, 1), torch.zeros(3, 1))
        tensor(-3.)
    """

    def __init__(
        self, reward: _Reward, *, discount: float = 1.0, value: _Reward | None = None
    ) -> None:
        super().__init__()
        self.reward = reward
        self.discount = require_share("discount", discount)
        self.value = value
        self.sees_action = takes_action(reward)
        if discount == 1.0 and type(self) is NegativeReturn:
            self.uses_time = False  # a subclass may have terms that do

    def running_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return minus the reward of a step, as it counts at the start."""
        if self.sees_action:
            return -self._now(time, 0, self.reward, state, action)
        return -self._now(time, 1, self.reward, state)

    def terminal_cost(self, state: Tensor, time: Tensor | None = None) -> Tensor:
        """Return minus what the last state earns, and minus its value."""
        cost = torch.zeros_like(state[..., 0])
        if not self.sees_action:
            cost = -self._now(time, 1, self.reward, state)
        if self.value is not None:
            cost = cost - self._now(time, 0, self.value, state)
        return cost

    def initial_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return zero for a reward on arrival: the given state is no choice."""
        if self.sees_action:
            return self.running_cost(state, action, time)
        return torch.zeros_like(state[..., 0])

    def _now(
        self, time: Tensor | None, arrived: int, function: _Reward, *given: Tensor
    ) -> Tensor:
        # A reward on arrival belongs to the step before.
        earned = _checked(function, *given)
        if self.discount == 1.0:
            return earned
        if time is None:
            raise ArgumentError(
                "time: expected the numbers of the steps, which a discount depends on, "
                "got None"
            )
        return self.discount ** (time - arrived).to(earned.dtype) * earned


class TerminatingReturn(nn.Module):
    """Minus the expected discounted return of an episode that may end on the way.

    cost = -Σ_{t=0}^{T-1} γ^t p_t r_t - γ^T p_T V(x_T), p_t = c(x_1) ⋯ c(x_t)

    What is earned on arrival at x_{t+1} counts although the episode may end there. The
    probability of getting to a step couples it with all before, so that this objective
    has no terms of steps: planners that only ask for costs and their gradients take it
    (CEM, DCEM, MPPI, GradMPC, ShootingGD); second-order planners refuse it.

    Args:
        reward: As for `NegativeReturn`.
        continuation: `state […, S] → probability […]` that the episode goes on.
        discount: γ, in 0 … 1.
        value: As for `NegativeReturn`.

    Raises:
        ArgumentError: the discount is out of range.

    References:
        Hafner et al. 2023, "Mastering diverse domains through world models", for
        returns weighed by a learned continuation.

    Example:
        >>> half = lambda state: torch.full_like(state[..., 0], 0.5)
        >>> objective = TerminatingReturn(lambda state: state[..., 0], half)
        >>> objective(torch.ones(4, 1), torch.zeros(3, 1))  # 1 + ½ + ¼
        tensor(-1.7500)
    """

    def __init__(
        self,
        reward: _Reward,
        continuation: _Reward,
        *,
        discount: float = 1.0,
        value: _Reward | None = None,
    ) -> None:
        super().__init__()
        self.reward = reward
        self.continuation = continuation
        self.discount = require_share("discount", discount)
        self.value = value
        self.sees_action = takes_action(reward)

    def forward(
        self,
        states: Float[Tensor, "*batch steps S"],
        actions: Float[Tensor, "*batch T A"],
    ) -> Float[Tensor, "*batch"]:
        """Return the cost of a whole trajectory."""
        check_trajectory(states, actions)
        before, after = states[..., :-1, :], states[..., 1:, :]
        given = (before, actions) if self.sees_action else (after,)
        earned = _checked(self.reward, *given)
        weight = self.discount * _checked(self.continuation, after)
        weight = weight.cumprod(dim=-1)  # of what comes after steps 1 … T
        # The first reward is certain.
        total = earned[..., 0] + (weight[..., :-1] * earned[..., 1:]).sum(dim=-1)
        if self.value is not None:
            total = total + weight[..., -1] * _checked(self.value, states[..., -1, :])
        return -total

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(  # noqa: D102
            self,
            states: Float[Tensor, "*batch steps S"],
            actions: Float[Tensor, "*batch T A"],
        ) -> Float[Tensor, "*batch"]: ...


def _checked(function: _Reward, *given: Tensor) -> Tensor:
    lead = given[0].shape[:-1]
    return ask("objective:", function, *given, expected=lead, advice=ALIGNED)


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

    def __init__(self, reward: _Reward) -> None:
        super().__init__()
        self.reward = reward

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return softplus(-reward) `[…, 1]`."""
        return nn.functional.softplus(-_checked(self.reward, state)).unsqueeze(-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return softplus(-reward) of the last state `[…, 1]`."""
        return nn.functional.softplus(-_checked(self.reward, state)).unsqueeze(-1)

    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return no residual `[…, 0]`: the given state is no choice of the plan."""
        return no_residual(state)
