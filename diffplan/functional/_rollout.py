"""Rollouts: states that follow from a state and actions, x[t+1] = f(x[t], u[t])."""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffplan._checks import require_count
from diffplan.errors import ShapeError
from diffplan.functional._derivatives import inside_transform as inside_transform

ResultT = TypeVar("ResultT")


def rollout(
    dynamics: Callable[..., Tensor],
    state: Float[Tensor, "*batch S"],
    actions: Float[Tensor, "*batch T A"],
    segment: int | None = None,
    times: Int[Tensor, "T"] | None = None,
) -> Float[Tensor, "*batch T+1 S"]:
    """Roll `dynamics` out from `state` under `actions`.

    Args:
        dynamics: `(state, action) → next_state` for any leading dimensions.
        state: The given state `[…, S]`.
        actions: `[…, T, A]`, with the state's leading dimensions.
        segment: How many steps backward may hold the activations of. It computes those
            of one segment after the other again, from the state that the segment
            begins with, so that a gradient needs the memory of T / segment states and
            of `segment` steps: least at √T. None keeps the activations of all steps.
        times: The numbers of the steps `[T]`, a third argument of dynamics that take
            them.

    Returns:
        States `[…, T+1, S]`, the given state first.

    Raises:
        ShapeError: state and actions do not fit, or dynamics change the shape.
        ArgumentError: `segment` is no whole number of at least 1.

    Example:
        >>> rollout(lambda x, u: x + u, torch.zeros(1), torch.ones(3, 1)).flatten()
        tensor([0., 1., 2., 3.])
    """
    # Time leads in memory: a step then reads and writes one block of numbers instead
    # of a few from each trajectory.
    by_time: tuple[Tensor, ...] = (actions.movedim(-2, 0).contiguous(),)
    if times is not None:
        by_time = (*by_time, times)

    def follow(start: Tensor, *parts: Tensor) -> list[Tensor]:
        visited = []
        for given in zip(*(part.unbind(0) for part in parts), strict=True):
            start = dynamics(start, *given)
            visited.append(start)
        return visited

    states = [state]
    if segment is None:
        states += follow(state, *by_time)
    else:
        segment = require_count("segment", segment)
        for parts in zip(*(value.split(segment) for value in by_time), strict=True):
            states += recomputed(follow, states[-1], *parts)
    for following in states:
        if following.shape != state.shape:
            raise ShapeError(
                f"dynamics: expected next states {list(state.shape)}, the shape of the "
                f"state, got {list(following.shape)}"
            )
    return torch.stack(states).movedim(0, -2)


def recomputed(function: Callable[..., ResultT], *inputs: Tensor) -> ResultT:
    """Call a function and keep only its inputs for backward, which calls it again.

    Derivatives of any order are those of the function. Inside transforms of
    `torch.func` everything is kept: they cannot recompute.

    Args:
        function: A pure function of `inputs`; it may also depend on tensors that it
            closes over, such as parameters.
        inputs: Its arguments.
    """
    if not torch.is_grad_enabled() or inside_transform():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)
