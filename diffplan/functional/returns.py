"""Sums of rewards along an episode, and how much better they were than expected."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import require_share
from diffplan.errors import ShapeError


def generalized_advantages(
    rewards: Float[Tensor, "*batch T"],
    values: Tensor,
    *,
    discount: float = 0.99,
    gae_lambda: float = 0.95,
    terminated: Tensor | None = None,
) -> Float[Tensor, "*batch T"]:
    """Return Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V(s_{t+1}) - V(s_t).

    An episode that merely ran out of time did not end there: give the value of its last
    state and do not call it terminated.

    Args:
        rewards: `[…, T]`, `rewards[t]` received on arrival at `t + 1`.
        values: `[…, T + 1]`, of the states before and after each action.
        discount: γ.
        gae_lambda: λ.
        terminated: `[…, T]` booleans: nothing follows this step; what stands behind it
            belongs to another episode. None stands for nowhere.

    Returns:
        Advantages. The values of the states before each action added, they are the
        returns that the value learns.

    Raises:
        ShapeError: the lengths do not fit.
        ArgumentError: γ or λ is outside 0 … 1.

    References:
        Schulman et al. 2016 (arXiv:1506.02438), equation 16.

    Example:
        >>> generalized_advantages(
        ...     torch.ones(3), torch.zeros(4), discount=1.0, gae_lambda=1.0
        ... )
        tensor([3., 2., 1.])
    """
    require_share("discount", discount)
    require_share("gae_lambda", gae_lambda)
    expected = (*rewards.shape[:-1], rewards.shape[-1] + 1)
    if values.shape != expected:
        raise ShapeError(
            f"values: expected {list(expected)}, one more than the rewards, got "
            f"{list(values.shape)}"
        )
    goes_on = torch.ones_like(rewards)
    if terminated is not None:
        goes_on = (~terminated.expand(rewards.shape)).to(rewards.dtype)
    errors = rewards + discount * goes_on * values[..., 1:] - values[..., :-1]
    advantage = torch.zeros_like(values[..., 0])
    found: list[Tensor] = []
    for time in range(rewards.shape[-1] - 1, -1, -1):
        decay = discount * gae_lambda * goes_on[..., time]
        advantage = errors[..., time] + decay * advantage
        found.append(advantage)
    return torch.stack(found[::-1], dim=-1) if found else torch.zeros_like(rewards)
