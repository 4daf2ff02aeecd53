"""Candidates: several action sequences for one problem, `[B, N, T, A]`."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffplan.functional.isolation import isolated
from diffplan.objectives.base import StageObjective
from diffplan.planners.checkpointing import checkpointed_cost, is_stagewise
from diffplan.problem import PlanningProblem

CACHED = 2**20
"""Bytes of states that are evaluated at once on a CPU."""


def candidate_costs(
    problem: PlanningProblem,
    state: Float[Tensor, "B S"],
    candidates: Float[Tensor, "B N T A"],
    chunk_size: int | None = None,
    checkpoint: bool = False,
) -> Float[Tensor, "B N"]:
    """Return the cost of every candidate, rolled out from the given state.

    A candidate whose cost is not finite has no gradient, and spoils nobody else's.

    Args:
        problem: Dynamics and objective; both see leading dimensions `[B, N]`, or
            `[B, P, N]` with the particles of a `StochasticProblem`.
        state: `[B, S]`.
        candidates: `[B, N, T, A]`.
        chunk_size: How many candidates to roll out at once, which bounds memory;
            None takes all.
        checkpoint: Whether to bound the memory of a gradient too, see
            `diffplan.planners.checkpointing`.
    """
    costs_of = partial(row_costs, problem, checkpoint)
    chunks = (candidates,) if chunk_size is None else candidates.split(chunk_size, 1)
    costs: list[Tensor] = []
    for chunk in chunks:
        # Copied, for a product of matrices takes a far slower way for expanded ones.
        start = state.unsqueeze(1).expand(-1, chunk.shape[1], -1).contiguous()
        costs += isolated(costs_of, start, chunk, lead=2)
    return torch.cat(costs, dim=1) if len(costs) > 1 else costs[0]


def row_costs(
    problem: PlanningProblem, checkpoint: bool, start: Tensor, chunk: Tensor
) -> tuple[Tensor]:
    """Return the cost `[B, N]` of candidates from states `[B, N, S]`, in a tuple."""
    evaluated = checkpointed_cost if checkpoint else _cost
    return (evaluated(problem, start, chunk),)


def _cost(problem: PlanningProblem, state: Tensor, actions: Tensor) -> Tensor:
    # States that outgrow the cache of a CPU would be written to memory and read back
    # several times: their cost is then counted while they are at hand. A compiler sees
    # to that by itself.
    count = actions.shape[:-1].numel() * state.shape[-1]
    large = state.device.type == "cpu" and count * state.element_size() > CACHED
    whole = problem.is_compiled or problem.guarded
    if large and not whole and is_stagewise(problem):
        return _cost_by_step(problem, state, actions)
    return problem.cost(state, actions)


def _cost_by_step(problem: PlanningProblem, state: Tensor, actions: Tensor) -> Tensor:
    objective = problem.require_objective(StageObjective, "a sum over steps")
    by_time = actions.movedim(-2, 0).contiguous().unbind(0)
    times = problem.times(0, len(by_time), state)
    cost = torch.zeros_like(state[..., 0])
    for step, action in enumerate(by_time):
        # Terms always see an axis of steps, here of one.
        stage = objective.segment_cost(state.unsqueeze(-2), action.unsqueeze(-2), step)
        cost = cost + stage
        time = None if times is None else times[step]
        state = problem.step(state, action, time)
    return cost + objective.end_cost(state, len(by_time))


def worst_if_failed(cost: Tensor) -> Tensor:
    """Replace NaN and -∞ by ∞, so that a failed rollout is never the best one.

    `topk`, `argmin` and `min` of PyTorch rank NaN first, and a cost that overflowed
    downwards is as little of a cost.
    """
    return torch.where(cost.abs() < torch.inf, cost, torch.inf)


def pick(
    values: Float[Tensor, "B N *rest"], index: Int[Tensor, "B"]
) -> Float[Tensor, "B *rest"]:
    """Return `values[b, index[b]]` for every b."""
    shape = (-1, 1, *values.shape[2:])
    wide = index.reshape(-1, *(1,) * (values.ndim - 1)).expand(shape)
    return values.gather(1, wide).squeeze(1)
