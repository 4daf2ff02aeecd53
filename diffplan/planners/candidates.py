"""Candidates: several action sequences for one problem, `[B, N, T, A]`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffplan.errors import ShapeError
from diffplan.planners.checkpointing import checkpointed_cost
from diffplan.problem import PlanningProblem


def candidate_costs(
    problem: PlanningProblem,
    state: Float[Tensor, "B S"],
    candidates: Float[Tensor, "B N T A"],
    chunk_size: int | None = None,
    checkpoint: bool = False,
) -> Float[Tensor, "B N"]:
    """Return the cost of every candidate, rolled out from the given state.

    Args:
        problem: Dynamics and objective; both see leading dimensions `[B, N]`, or
            `[B, P, N]` with the particles of a `StochasticProblem`.
        state: `[B, S]`.
        candidates: `[B, N, T, A]`.
        chunk_size: How many candidates to roll out at once, which bounds memory;
            None takes all.
        checkpoint: Whether to bound the memory of a gradient too, see
            `diffplan.planners.checkpointing`.

    Raises:
        ShapeError: the objective does not return one cost per trajectory.
    """
    count = candidates.shape[1]
    costs = []
    for chunk in candidates.split(chunk_size or count, dim=1):
        start = state.unsqueeze(1).expand(-1, chunk.shape[1], -1)
        if checkpoint:
            cost = checkpointed_cost(problem, start, chunk)
        else:
            cost = problem.cost(start, chunk)
        if cost.shape != chunk.shape[:2]:
            raise ShapeError(
                f"objective: expected one cost per trajectory "
                f"{list(chunk.shape[:2])}, got {list(cost.shape)}"
            )
        costs.append(cost)
    return torch.cat(costs, dim=1)


def worst_if_nan(cost: Tensor) -> Tensor:
    """Replace NaN by infinity, so that a failed rollout is never the best one.

    `topk`, `argmin` and `min` of PyTorch rank NaN first.
    """
    return torch.where(cost.isnan(), torch.full_like(cost, torch.inf), cost)


def pick(
    values: Float[Tensor, "B N *rest"], index: Int[Tensor, "B"]
) -> Float[Tensor, "B *rest"]:
    """Return `values[b, index[b]]` for every b."""
    shape = (-1, 1, *values.shape[2:])
    wide = index.reshape(-1, *(1,) * (values.ndim - 1)).expand(shape)
    return values.gather(1, wide).squeeze(1)
