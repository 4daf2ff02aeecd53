"""Where the randomness of a plan comes from: a seed, a key per problem, and a count.

The count is that of the plans made so far in a warm-started chain. It travels in the
memory of the plans, so that each draws fresh noise and equal calls stay equal.
"""

from dataclasses import replace

import torch
from torch import Tensor

from diffplan.errors import ShapeError, TensorTypeError
from diffplan.functional.random import stream_keys
from diffplan.plan import Plan

PLAN_INDEX = "plan_index"
"""The entry of `Plan.memory` that counts, int64 `[…, 1, 1]`; without it, none."""


def check_randomness(
    state: Tensor, generator: torch.Generator | None, keys: Tensor | None
) -> None:
    """Check what a planner is given to draw from; no number is looked at.

    Raises:
        TensorTypeError: `generator` is no generator, or `keys` are not int64.
        ShapeError: `keys` do not have the leading dimensions of `state`.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TensorTypeError(
            "generator: expected a torch.Generator, such as "
            f"torch.Generator().manual_seed(0), got {generator!r}"
        )
    if keys is None:
        return
    if not isinstance(keys, Tensor) or keys.dtype != torch.int64:
        kind = keys.dtype if isinstance(keys, Tensor) else type(keys).__name__
        raise TensorTypeError(
            f"keys: expected an int64 tensor, one key per problem, got {kind}"
        )
    if keys.shape != state.shape[:-1]:
        raise ShapeError(
            f"keys: expected {list(state.shape[:-1])}, the leading dimensions of "
            f"state, got {list(keys.shape)}"
        )


def noise_keys(
    state: Tensor,
    warm_start: Plan | None = None,
    generator: torch.Generator | None = None,
    keys: Tensor | None = None,
) -> Tensor:
    """Return the key of each problem's noise, int64 `[…]`, for states `[…, S]`.

    Args:
        state: `[…, S]`.
        warm_start: The plan before, with the leading dimensions of `state`.
        generator: Gives the seed, and so advances; None stands for seed 0.
        keys: Of the problems `[…]`; None stands for the index in the flattened batch.
    """
    made = plans_made(warm_start)
    return stream_keys(
        state.shape[:-1],
        state.device,
        seed=0 if generator is None else generator,
        keys=keys,
        count=0 if made is None else made[..., 0, 0],
    )


def plans_made(plan: Plan | None) -> Tensor | None:
    """Return how many plans led to this one, itself included, int64 `[…, 1, 1]`."""
    return None if plan is None else plan.memory.get(PLAN_INDEX)


def counted(plan: Plan, warm_start: Plan | None) -> Plan:
    """Return the plan with its number in the chain of plans that it ends."""
    made = plans_made(warm_start)
    if made is None:
        made = torch.zeros_like(plan.status)[..., None, None]
    return replace(plan, memory={**plan.memory, PLAN_INDEX: made + 1})
