"""Rollouts: states that follow from a state and actions, x[t+1] = f(x[t], u[t])."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def rollout(
    dynamics: Callable[[Tensor, Tensor], Tensor],
    state: Float[Tensor, "*batch S"],
    actions: Float[Tensor, "*batch T A"],
) -> Float[Tensor, "*batch T+1 S"]:
    """Roll `dynamics` out from `state` under `actions`.

    Args:
        dynamics: `(state, action) → next_state` for any leading dimensions.
        state: The given state `[…, S]`.
        actions: `[…, T, A]`, with the state's leading dimensions.

    Returns:
        States `[…, T+1, S]`, the given state first.

    Example:
        >>> rollout(lambda x, u: x + u, torch.zeros(1), torch.ones(3, 1)).flatten()
        tensor([0., 1., 2., 3.])
    """
    states = [state]
    for action in actions.unbind(dim=-2):
        states.append(dynamics(states[-1], action))
    return torch.stack(states, dim=-2)
