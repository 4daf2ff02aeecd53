"""What action sequences cost: in chunks, step by step, or with little memory kept.

Candidates are several action sequences for one problem, `[B, N, T, A]`.

With checkpoints, memory grows like √T: a rollout of T steps is cut into segments of
about √T. What the first pass keeps is the state at the start of each; what lies inside
is computed again, one segment after the other, where a derivative needs it. That costs
one more forward pass per derivative.

The cost of a `StageObjective` is summed segment by segment, so that not even the states
of a whole rollout are held together. Other objectives read whole trajectories, so that
their states stay in memory, though not the activations behind them; gradient planners,
which differentiate twice, and the particles of a `StochasticProblem` then compute one
whole rollout again.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffplan.functional._isolation import guarded_rollout, isolated
from diffplan.functional._rollout import recomputed
from diffplan.objectives._base import StageObjective
from diffplan.problem import PlanningProblem

CACHED = 2**20
"""Bytes of states that are evaluated at once on a CPU."""


def candidate_costs(
    problem: PlanningProblem,
    state: Float[Tensor, "B S"],
    candidates: Float[Tensor, "B N T A"],
    chunk_size: int | None = None,
    checkpoint: bool = False,
    iteration: int | None = None,
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
        checkpoint: Whether to bound the memory of a gradient too, by segments.
        iteration: Of a search, for a problem that draws anew in each, see
            `StochasticProblem`; None evaluates all with the noise of the plan.
    """
    chunks = (candidates,) if chunk_size is None else candidates.split(chunk_size, 1)
    costs: list[Tensor] = []
    first = 0
    for chunk in chunks:
        count, seen = chunk.shape[1], problem
        if iteration is not None:
            seen = problem.redrawn(iteration, first, count)
        # Copied, for a product of matrices takes a far slower way for expanded ones.
        start = state.unsqueeze(1).expand(-1, count, -1).contiguous()
        counted = partial(row_costs, checkpoint=checkpoint)
        costs += isolated(counted, seen, start, chunk, lead=2)
        first += count
    return torch.cat(costs, dim=1) if len(costs) > 1 else costs[0]


def row_costs(
    problem: PlanningProblem, start: Tensor, chunk: Tensor, *, checkpoint: bool = False
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
    by_time = _by_time(actions)
    times = problem.times(0, len(by_time), state)
    cost = torch.zeros_like(state[..., 0])
    for step, action in enumerate(by_time):
        # Terms always see an axis of steps, here of one.
        stage = objective.segment_cost(state.unsqueeze(-2), action.unsqueeze(-2), step)
        cost = cost + stage
        time = None if times is None else times[step]
        state = problem.step(state, action, time)
    return cost + objective.end_cost(state, len(by_time))


def _by_time(actions: Tensor) -> tuple[Tensor, ...]:
    """Return the actions `[…, A]` of each step, contiguous."""
    # In pieces whose rows stay in the cache until all steps are copied: up to four
    # times as fast as a copy of the whole.
    rows = actions.flatten(0, -3)
    pieces = [piece.transpose(0, 1) for piece in rows.split(4096)]
    by_time = torch.cat(pieces, dim=1)
    return by_time.view(actions.shape[-2], *actions.shape[:-2], -1).unbind(0)


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


Segment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(state […, S], actions […, steps, A]) → (last state […, S], cost […])`."""


def checkpointed_cost(
    problem: PlanningProblem, state: Tensor, actions: Tensor
) -> Tensor:
    """Return `problem.cost(state, actions)`, with little kept for backward.

    Args:
        problem: Dynamics and objective.
        state: `[…, S]`.
        actions: `[…, T, A]`.
    """
    if not is_stagewise(problem):
        return checkpointed_evaluation(problem, state, actions)[1]
    costs = []
    for segment, part in _segments(problem, actions):
        state, cost = recomputed(segment, state, part)
        costs.append(cost)
    return torch.stack(costs).sum(dim=0)


def checkpointed_evaluation(
    problem: PlanningProblem, state: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `problem.evaluate(state, actions)`, with little kept for backward.

    Args:
        problem: Dynamics and objective.
        state: `[…, S]`.
        actions: `[…, T, A]`.

    Returns:
        States `[…, T+1, S]`, which are kept, and cost `[…]`.
    """
    if problem.guarded or not _is_plain(problem):
        return recomputed(problem.evaluate, state, actions)
    length = segment_length(actions.shape[-2])
    states = problem.rollout(state, actions, length)
    return states, recomputed(problem.trajectory_cost, states, actions)


def checkpointed_gradient(
    problem: PlanningProblem, state: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient `[…, T, A]` of each cost to its own actions, and the costs.

    As `torch.func.grad` of the summed costs, and as differentiable, by a sweep back
    over the segments that keeps the states at their ends and the cost's derivative λ
    to them. It cannot run inside transforms of `torch.func`.

    Args:
        problem: Dynamics and objective.
        state: `[…, S]`.
        actions: `[…, T, A]`.

    Returns:
        Gradient `[…, T, A]` and cost `[…]`.
    """
    segments = _segments(problem, actions)
    starts, costs = [state], []
    for segment, part in segments:
        following, cost = recomputed(segment, starts[-1], part)
        starts.append(following)
        costs.append(cost)
    total = torch.stack(costs).sum(dim=0)
    gradients = []
    adjoint = torch.zeros_like(starts.pop())
    with torch.set_grad_enabled(torch.is_grad_enabled() and total.requires_grad):
        for segment, part in reversed(segments):
            pullback = partial(_pullback, segment)
            adjoint, gradient = recomputed(pullback, starts.pop(), part, adjoint)
            gradients.append(gradient)
    return torch.cat(gradients[::-1], dim=-2), total


def segment_length(steps: int) -> int:
    """Return ⌈√steps⌉: segments and steps per segment then are about as many."""
    return math.isqrt(max(steps - 1, 0)) + 1


def _segments(
    problem: PlanningProblem, actions: Tensor
) -> list[tuple[Segment, Tensor]]:
    """Cut actions into segments, each with what rolls it out and counts its cost."""
    if not is_stagewise(problem):
        return [(lambda state, given: (state, problem.cost(state, given)), actions)]
    parts = actions.split(segment_length(actions.shape[-2]), dim=-2)
    length, horizon = parts[0].shape[-2], actions.shape[-2]
    return [
        (partial(_stages, problem, index * length, horizon), part)
        for index, part in enumerate(parts)
    ]


def _stages(
    problem: PlanningProblem, first: int, horizon: int, state: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Roll a segment out; return its last state and the cost of its steps."""
    objective = problem.require_objective(StageObjective, "a segment")
    known = None
    if problem.guarded:
        times = problem.times(first, actions.shape[-2], state)
        states, known = guarded_rollout(problem.step, state, actions, times)
    else:
        states = problem.rollout(state, actions, first=first)
    before, after = states[..., :-1, :], states[..., -1, :]
    cost = objective.segment_cost(before, actions, first)
    if first + actions.shape[-2] == horizon:
        cost = cost + objective.end_cost(after, horizon)
    if known is not None:
        cost = torch.where(known[..., -1], cost, torch.nan)
    return after, cost


def _pullback(
    segment: Segment, state: Tensor, actions: Tensor, adjoint: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the derivative of cost + λ · last state to a segment's state and actions.

    Args:
        segment: What is differentiated.
        state: `[…, S]`.
        actions: `[…, steps, A]`.
        adjoint: λ `[…, S]`.
    """
    tracked = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = (_own(state, tracked), _own(actions, tracked))
        after, cost = segment(*inputs)
        ends = [(cost, torch.ones_like(cost)), (after, adjoint)]
        # A constant end, such as the cost of a step that nothing is paid for, has no
        # derivative to take. The first state's own, times zero, is always there.
        ends = [end for end in ends if end[0].requires_grad]
        ends.append((inputs[0], torch.zeros_like(state)))
        outputs, cotangents = zip(*ends, strict=True)
        by_state, by_actions = torch.autograd.grad(
            outputs, inputs, cotangents, create_graph=tracked, materialize_grads=True
        )
    return by_state, by_actions


def _own(value: Tensor, tracked: bool) -> Tensor:
    # A view of its own: a derivative to it never takes a detour through the graph that
    # `value` came from, as it would where the actions depend on the state.
    if tracked and value.requires_grad:
        return value.view_as(value)
    return value.detach().requires_grad_()


def _is_plain(problem: PlanningProblem) -> bool:
    # Kinds of problems that roll out in their own way, such as with particles, do not
    # promise that their parts add up to the whole.
    kind = type(problem)
    plain = kind.evaluate is PlanningProblem.evaluate
    return plain and kind.cost is PlanningProblem.cost


def is_stagewise(problem: PlanningProblem) -> bool:
    """Return whether a cost may be counted step by step, along any rollout."""
    objective = problem.objective
    return (
        _is_plain(problem)
        and isinstance(objective, StageObjective)
        and objective.sums_steps
    )
