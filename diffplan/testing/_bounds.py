"""Conformance checks of bounds that depend on the step and on the problem."""

import torch
from torch import Tensor

from diffplan.errors import ShapeError
from diffplan.planners.base import Planner
from diffplan.problem import Box, PlanningProblem
from diffplan.testing._assertions import constants_expected, fail, refusal, within
from diffplan.testing._batches import same_plan_in_a_batch


def check_moving_bounds(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """Bounds of each step and problem are kept, as those of one problem alone are."""
    if problem.action_constraints:
        return  # a narrower box need not meet them
    box = _moving(problem.action_space.to(state), planner.horizon, state)
    keys = torch.arange(len(state), device=state.device)
    with constants_expected():
        whole = planner(within(problem, box), state, keys=keys).detach()
        again = planner(within(problem, box), state, warm_start=whole.shifted())
    for plan in (whole, again):
        if not box.contains(plan.actions).all():
            fail(f"actions leave bounds that depend on the step: {plan.actions}")
    for index in range(len(state)):
        one = slice(index, index + 1)
        alone = within(problem, Box(box.low[index], box.high[index]))
        plan = planner(alone, state[one], keys=keys[one]).detach()
        same_plan_in_a_batch("the bounds [T, A] of one problem", plan, whole[one])
    longer = torch.cat([box.low, box.low[:, :1]], dim=1)
    with refusal(ShapeError, "action_space", "bounds for another horizon"):
        planner(within(problem, Box(longer, longer)), state)
    with refusal(ShapeError, "action_space", "bounds of another batch"):
        planner(within(problem, Box(box.low[1:], box.high[1:])), state)


def check_questions_in_moving_bounds(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """At each step the model is asked about the actions allowed there, and no others.

    A planner that differs, as collocation does, declares `leaves_bounds`.
    """
    if planner.leaves_bounds or problem.action_constraints:
        return
    box = _moving(problem.action_space.to(state), planner.horizon, state)
    box = Box(box.low[0], box.high[0])  # one problem's, [T, A]
    wrong: list[Tensor] = []

    def watched(before: Tensor, action: Tensor, time: Tensor) -> Tensor:
        low, high = (side.index_select(0, time) for side in (box.low, box.high))
        given = action.detach()
        wrong.append(((given < low) | (given > high)).sum())
        return problem.step(before, action, time)

    asked = PlanningProblem(watched, problem.objective, box)
    with constants_expected():
        planner(asked, state)
        # Border checks ask about a few actions of the last step as well.
        outside = int(torch.stack(wrong).sum())
    if outside:
        fail(f"the dynamics were asked about {outside} numbers outside of {box}")


def _moving(box: Box, horizon: int, state: Tensor) -> Box:
    """Bounds `[B, T, A]` that narrow and move, and differ from problem to problem."""
    steps = torch.arange(horizon, device=state.device).to(state)[:, None]
    number = torch.arange(len(state), device=state.device).to(state)[:, None, None]
    middle = box.center + 0.3 * box.scale * (1.7 * steps + number).sin()
    width = 0.4 * box.scale * (1 + 0.5 * (steps + 2 * number).cos())
    return Box(middle - width, middle + width)
