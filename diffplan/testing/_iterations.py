"""Checks of what planners show while they plan, and of actions that are choices."""

import copy

import torch
from torch import Tensor

from diffplan.constraints.categorical import Categorical
from diffplan.errors import ArgumentError, UnsupportedProblemError
from diffplan.planners.base import Planner
from diffplan.planners.request import Iterate
from diffplan.problem import PlanningProblem
from diffplan.testing._assertions import (
    constants_expected,
    fail,
    refusal,
    same_plan,
    within,
)


def check_callback(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A callback sees every iteration, changes nothing, and no graph has to call it."""
    seen: list[Iterate] = []
    leaf = state.detach().clone().requires_grad_()
    with constants_expected():
        plan = planner(problem, leaf[None], callback=seen.append)
        same_plan("a callback", plan[0], planner(problem, leaf))
    if len(seen) < int(plan.iterations.max()):
        fail(f"the callback saw {len(seen)} iterations of {plan.iterations.tolist()}")
    steps, width = planner.horizon, problem.action_space.dim
    for number, iterate in enumerate(seen):
        _check_iterate(iterate, number, (steps, width), leaf)
    with refusal(ArgumentError, "callback", "a callback under torch.func"):
        torch.func.vmap(lambda x: planner(problem, x, callback=seen.append).cost)(state)
    compiled = copy.deepcopy(planner)
    compiled.compile(backend="eager")
    if compiled._compiled is not None:  # some compile a part of their work only
        with refusal(ArgumentError, "callback", "a callback of a compiled planner"):
            compiled(problem, state, callback=seen.append)
    # TypeError, for type checks at run time may come before ours.
    with refusal(TypeError, "callback", "a callback that cannot be called"):
        planner(problem, state, callback=3)  # type: ignore[arg-type]


def _check_iterate(
    iterate: Iterate, number: int, trailing: tuple[int, int], state: Tensor
) -> None:
    lead, count = (1, len(state)), iterate.cost.shape[-1]
    steps, width = trailing
    expected = {
        "actions": (*lead, count, steps, width),
        "cost": (*lead, count),
        "states": (*lead, count, steps + 1, state.shape[-1]),
    }
    if iterate.iteration != number:
        fail(f"iterate.iteration: expected {number}, got {iterate.iteration}")
    for name, shape in expected.items():
        value = getattr(iterate, name)
        if value is None and name == "states":
            continue
        if tuple(value.shape) != shape or value.dtype != state.dtype:
            fail(f"iterate.{name}: expected {shape}, got {tuple(value.shape)}")
        if value.requires_grad:
            fail(f"iterate.{name} has a graph, which a log would keep")


def check_choices(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Actions that are choices (`dp.Categorical`) are answered as such, or refused."""
    if problem.action_constraints:
        return  # those on choices are refused, whoever plans
    space = Categorical(problem.action_space.dim)
    choosing = within(problem, space)
    if not planner.plans_categories:
        with refusal(UnsupportedProblemError, "action_space", "actions to choose from"):
            planner(choosing, state)
        return
    plan = planner(choosing, state)
    warm = planner(choosing, state, warm_start=plan.detach().shifted())
    for actions in (plan.actions, warm.actions):
        if not space.contains(actions).all():
            fail(f"actions are no choices of {space}: {actions.tolist()}")
