"""What a planner's `solve` returns, its traces, and the `Plan` that becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from diffplan.functional._isolation import isolated
from diffplan.plan import Plan, Status
from diffplan.planners._evaluation import checkpointed_evaluation
from diffplan.planners._progress import unless_worse
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem


@dataclass(frozen=True)
class Solution:
    """What `Planner.solve` found, with one batch dimension B.

    Attributes:
        actions: `[B, T, A]`; `Planner` projects them onto the action space.
        status: `[B]` integers of `Status`; None means `Status.COMPLETED`.
        iterations: `[B]` integers, or one number for all.
        diagnostics: See `Plan.diagnostics`.
        memory: See `Plan.memory`.
        known: Actions `[B, T, A]` that are returned instead where they cost less by
            more than a hundredth, such as an allowed warm start; or None.
    """

    actions: Tensor
    status: Tensor | None = None
    iterations: Tensor | int = 0
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None


def answer(
    request: PlanRequest,
    solution: Solution,
    *,
    sound: Tensor | bool,
    constant: bool,
    checkpoint: bool,
) -> Plan:
    """Return the plan of a solution: allowed actions, their states, cost and status.

    Args:
        request: What was asked for.
        solution: What was found; actions that are not finite become allowed ones.
        sound: Whether the planner's own numbers make sense, a bool.
        constant: Whether actions have no graph.
        checkpoint: See `Planner.checkpoint`.
    """
    problem, state = request.problem, request.state
    raw = solution.actions
    finite = torch.isfinite(raw).all(dim=-1).all(dim=-1) & sound
    safe = torch.where(finite[:, None, None], raw, torch.zeros_like(raw))
    actions = problem.project(safe)
    if constant:
        actions = actions.detach()  # also from bounds and constraints
    if not request.evaluate:
        shape = (state.shape[0], actions.shape[1] + 1, state.shape[1])
        states = state.new_full(shape, torch.nan)
        cost = state.new_full(shape[:1], torch.nan)
    else:
        follow = checkpointed_evaluation if checkpoint else type(problem).evaluate
        if solution.known is None:
            states, cost = isolated(follow, problem, state, actions, lead=1)
        else:
            both = actions, solution.known
            actions, states, cost = unless_worse(follow, problem, state, *both)
        finite = finite & torch.isfinite(cost)
    return Plan(
        actions=actions,
        states=states,
        cost=cost,
        status=_status(problem, actions, solution.status, finite),
        iterations=_per_problem(solution.iterations, finite),
        diagnostics=dict(solution.diagnostics),
        memory=dict(solution.memory),
    )


def _status(
    problem: PlanningProblem, actions: Tensor, found: Tensor | None, finite: Tensor
) -> Tensor:
    status: Tensor | int = int(Status.COMPLETED) if found is None else found
    if problem.action_constraints:
        broken = ~problem.contains(actions).all(dim=-1)
        status = torch.where(broken, int(Status.CONSTRAINT_VIOLATED), status)
    return torch.where(finite, status, int(Status.NON_FINITE))


def _per_problem(iterations: Tensor | int, like: Tensor) -> Tensor:
    if isinstance(iterations, Tensor):
        return iterations.expand(like.shape).clone()
    return torch.full_like(like, iterations, dtype=torch.long)


def judged(
    solution: Solution, actions: Tensor, sound: Tensor, stationarity: Tensor
) -> Solution:
    """Return a solution with polished actions and a status that says how sound it is.

    Args:
        solution: Of the planner.
        actions: With the implicit gradient `[B, T, A]`.
        sound: Which elements have a derivative, `[B]` bool.
        stationarity: How far each element is from a minimum `[B]`.
    """
    found = torch.where(sound, int(Status.CONVERGED), int(Status.NOT_STATIONARY))
    if solution.status is not None:
        broken = solution.status == int(Status.NON_FINITE)
        found = torch.where(broken, solution.status, found)
    diagnostics = {**solution.diagnostics, "stationarity": stationarity[:, None]}
    return replace(solution, actions=actions, status=found, diagnostics=diagnostics)


def stack_trace(values: list[Tensor], state: Tensor) -> Tensor:
    """Stack numbers `[B]` of each iteration into a trace `[B, iterations]`."""
    if not values:
        return state.new_zeros(state.shape[0], 0)
    return torch.stack(values, dim=-1).detach()
