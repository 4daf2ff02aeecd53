"""Plans followed through the iterations of their planner, from known starts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import diffplan.envs
from diffplan._runs.online import action_box
from diffplan.models.base import WorldModel
from diffplan.plan import Plan
from diffplan.planners import Iterate
from diffplan.planners.base import Planner
from diffplan.problem import Box, Objective, PlanningProblem
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed, make_generator
from reproductions.latco.comparison_config import EvaluationConfig


def start_seeds(evaluation: EvaluationConfig) -> list[int]:
    """Return the environments' seeds, which fix the starts."""
    return [
        derive_seed(evaluation.seed, "comparison start", index, bits=SIMULATOR_BITS)
        for index in range(evaluation.starts)
    ]


def first_plans(
    model: WorldModel,
    planner: Planner,
    objective: Objective,
    task: str,
    evaluation: EvaluationConfig,
    seed: int,
    **seen: Any,
) -> tuple[Tensor, Plan, Mapping[str, Any]]:
    """Return what `follow` does of the first plans, and what the starts tell.

    Args:
        model: Frozen.
        planner: Plans from the first observations.
        objective: What it minimises.
        task: As for `first_states`.
        evaluation: Which starts there are, and how many are followed.
        seed: Of the planner's random numbers.
        **seen: As for `first_states`.
    """
    seeds = start_seeds(evaluation)[: evaluation.trace_starts]
    state, infos, box = first_states(model, task, seeds, **seen)
    problem = PlanningProblem(model.step, objective, box)
    states, plan = follow(planner, problem, state, make_generator(seed, "trace"))
    return states, plan, infos


@torch.no_grad()
def first_states(
    model: WorldModel, task: str, seeds: Sequence[int], **seen: Any
) -> tuple[Tensor, Mapping[str, Any], Box]:
    """Return what a model makes of the first observations of some episodes.

    Args:
        model: Filters.
        task: As for `diffplan.envs.make`.
        seeds: Of the environments.
        **seen: Of `diffplan.envs.make`: how the task is observed.

    Returns:
        States `[B, S]`, what the environments tell at the start `[B, …]`, and the
        actions that the task allows.
    """
    start = model.initial_state((len(seeds),))
    with diffplan.envs.make_vector(task, len(seeds), **seen) as environments:
        box = action_box(environments.single_action_space, start.device)
        observations, infos = environments.reset(list(seeds))
    state = model.observe(
        start,
        torch.zeros(len(seeds), box.dim, device=start.device),
        torch.from_numpy(observations).to(start.device),
    )
    return state, infos, box


@torch.no_grad()
def follow(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Plan]:
    """Plan, and keep the states of every iterate.

    Of a planner with several candidates the first one is followed; of one that plans
    actions alone, what they lead to.

    Args:
        planner: What is followed.
        problem: What is planned.
        state: `[B, S]`.
        generator: Of the plans' random numbers.

    Returns:
        States `[B, I + 1, T + 1, S]`, the first those that the planner began with, the
        last those of the plan; and the plan.
    """
    seen: list[Tensor] = []

    def look(iterate: Iterate) -> None:
        # An iteration shows what it begins with, so the first one shows the start.
        states = iterate.states
        seen.append(
            problem.rollout(state, iterate.actions[:, 0])
            if states is None
            else states[:, 0]
        )

    plan = planner(problem, state, generator=generator, callback=look)
    planned = plan.diagnostics.get("planned_states")
    last = plan.states if planned is None else torch.cat([state[:, None], planned], 1)
    return torch.stack([*seen, last], dim=1), plan
