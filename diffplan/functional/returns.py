"""Sums of rewards along an episode, and how much better they were than expected."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffplan._checks import require_share


def generalized_advantages(
    rewards: Float[Tensor, "*batch T"],
    values: Float[Tensor, "*batch T+1"],
    *,
    discount: float = 0.99,
    gae_lambda: float = 0.95,
    terminated: Bool[Tensor, "*batch T"] | None = None,
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
    goes_on = torch.ones_like(rewards)
    if terminated is not None:
        goes_on = (~terminated).to(rewards.dtype)
    following = _weighted(discount * goes_on, values[..., 1:])
    errors = rewards + following - values[..., :-1]
    nothing = torch.zeros_like(values[..., 0])
    return _accumulated(errors, discount * gae_lambda * goes_on, nothing)


def lambda_returns(
    rewards: Float[Tensor, "*batch T"],
    next_values: Float[Tensor, "*batch T"],
    discounts: Float[Tensor, "*batch T"],
    lambda_: float,
) -> Float[Tensor, "*batch T"]:
    """Return what each state earns, between one step's trust in the value and all's.

    R_t = r_t + d_t ((1 - λ) V_{t+1} + λ R_{t+1}), and R_T = V_T: λ = 0 looks one step
    ahead, λ = 1 sums all rewards and adds the value of the last state.

    Args:
        rewards: r_0 … r_{T-1}.
        next_values: `[…, T]`, V_1 … V_T, of the state after each reward.
        discounts: `[…, T]`, d_0 … d_{T-1}: γ, times the probability that the task
            goes on.
        lambda_: λ, in 0 … 1.

    Raises:
        ShapeError: the shapes differ.
        ArgumentError: λ is out of range.

    References:
        Hafner et al. 2020, "Dream to control" (arXiv:1912.01603), eq. 4 to 6.

    Example:
        >>> ones = torch.ones(3)
        >>> lambda_returns(ones, 5 * ones, 0.5 * ones, lambda_=1.0)
        tensor([2.3750, 2.7500, 3.5000])
    """
    require_share("lambda_", lambda_)
    if not rewards.shape[-1]:
        return rewards
    one_step = rewards + _weighted((1 - lambda_) * discounts, next_values)
    return _accumulated(one_step, lambda_ * discounts, next_values[..., -1])


def _accumulated(terms: Tensor, decays: Tensor, last: Tensor) -> Tensor:
    """Return y_t = terms_t + decays_t y_{t+1}, all `[…, T]`, with y_T = last `[…]`."""
    found: list[Tensor] = []
    steps = zip(terms.unbind(-1), decays.unbind(-1), strict=True)
    for term, decay in reversed(list(steps)):
        last = term + _weighted(decay, last)
        found.append(last)
    return torch.stack(found[::-1], dim=-1) if found else torch.zeros_like(terms)


def _weighted(share: Tensor, value: Tensor) -> Tensor:
    """Return share · value; a share of zero takes nothing from infinity or NaN."""
    finite = value.nan_to_num(0.0, 0.0, 0.0)
    return share * torch.where(share == 0, finite, value)
