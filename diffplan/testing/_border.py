"""Conformance checks for planners: wrong functions, dtypes and goals are refused.

Wrong shapes never broadcast, the states decide the dtype, and data of each problem stay
with their problem.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from diffplan.errors import DiffplanError, ShapeError, TensorTypeError
from diffplan.objectives import (
    ActionPenalty,
    GoalDistance,
    ResidualObjective,
    StageObjective,
    SumOfResiduals,
)
from diffplan.planners.base import Planner
from diffplan.problem import Box, Objective, PlanningProblem
from diffplan.testing._assertions import refusal, same, same_plan

Wrong = dict[str, Callable[[Tensor], Any]]

WRONG_RESIDUALS: Wrong = {
    "that lost its last dimension": lambda state: state.square().sum(dim=-1),
    "summed over the batch": lambda state: state.sum(dim=0),
    "with all dimensions in one": lambda state: state.reshape(-1),
    "that is a constant": lambda state: torch.zeros_like(state.flatten()[:1]),
    "in another dtype": lambda state: state.to(_other(state.dtype)),
    "that is None": lambda state: None,  # noqa: ARG005
    "that is a number": lambda state: 0.0,  # noqa: ARG005
}
"""What a residual `[…, R]` of states `[…, S]` must not be."""

WRONG_COSTS: Wrong = {
    "summed over the batch as well": lambda state: state.square().sum(),
    "averaged over the batch": lambda state: state.square().sum(-1).mean(0),
    "that kept a dimension": lambda state: state.square().sum(-1, keepdim=True),
    "for each feature": lambda state: state.square(),
    "that is a constant": lambda state: torch.zeros_like(state.flatten()[0]),
    "in another dtype": lambda state: state.square().sum(-1).to(_other(state.dtype)),
    "of booleans": lambda state: state.sum(-1) > 0,
    "that is None": lambda state: None,  # noqa: ARG005
    "that is a bool": lambda state: True,  # noqa: ARG005
}
"""What a cost `[…]` of states `[…, S]` must not be."""

WRONG_DYNAMICS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "that lose the last dimension": lambda state, action: state.sum(-1) + action.sum(),
    "averaged over the batch": lambda state, action: state.mean(0) + action.sum(),
    "that add a dimension": lambda state, action: state[..., None] + action.sum(),
    "in another dtype": lambda state, action: state.to(_other(action.dtype)),
    "that return None": lambda state, action: None,  # noqa: ARG005
    "that return a pair": lambda state, action: (state, action),
    "for 2-D input only": lambda state, action: torch.nn.GRUCell(
        action.shape[-1], state.shape[-1], dtype=state.dtype, device=state.device
    )(action, state),
}
"""What must not stand for a next state `[…, S]`."""


def check_wrong_objectives(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """A term of another shape or dtype is refused and named; nothing is broadcast."""
    for what, objective in wrong_objectives():
        wrong = _with(problem, objective)
        if _takes(planner, wrong):
            with refusal(DiffplanError, "objective", f"an objective with {what}"):
                planner(wrong, state)


def check_wrong_dynamics(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """Dynamics that return another shape or dtype, or need 2-D input, are refused."""
    for what, dynamics in WRONG_DYNAMICS.items():
        wrong = PlanningProblem(dynamics, _reach(state[0]), problem.action_space)
        words = "any leading dimensions" if "2-D" in what else "dynamics"
        with refusal(DiffplanError, words, f"dynamics {what}"):
            planner(wrong, state)


def check_dtypes(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """States decide the dtype; half precision is refused, autocast has no effect."""
    plan = planner(problem, state).detach()
    for dtype in (torch.float16, torch.bfloat16, torch.complex64, torch.int64):
        with refusal(TensorTypeError, "state", f"a state in {dtype}"):
            planner(problem, state.to(dtype))
    warm = planner(problem, state, warm_start=plan)
    other = plan.to(state.to(_other(state.dtype)))
    if state.dtype == torch.float32:  # float64 holds the same numbers
        again = planner(problem, state, warm_start=other)
        same_plan("a warm start in float64", again, warm)
    wide = problem.action_space
    wide = Box(wide.low.double(), wide.high.double())
    for what, given in (
        ("a warm start in another dtype", planner(problem, state, warm_start=other)),
        ("a box in float64", planner(_with(problem, problem.objective, wide), state)),
    ):
        for name in ("actions", "states", "cost"):
            same(
                f"plan.{name}.dtype with {what}",
                getattr(given, name).dtype,
                state.dtype,
            )
    with torch.autocast(state.device.type, dtype=torch.bfloat16):
        same_plan("autocast", planner(problem, state).detach(), plan)


def check_goals(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A goal of each problem stays with it; one that does not fit is refused."""
    count, size = state.shape
    goals = state.flip(0) + 0.1
    flat = planner(_with(problem, _reach(goals)), state)
    for lead in ((count, 1), (1, count)):
        shaped = _with(problem, _reach(goals.reshape(*lead, size)))
        plan = planner(shaped, state.reshape(*lead, size))
        same_plan(f"goals and states of {lead}", plan.map(_flat), flat)
    for wrong in (
        goals[:, None],
        goals[:1],
        goals[1:],
        goals.repeat(2, 1),
        goals[0, 0],
    ):
        with refusal(
            ShapeError, "goal", f"goals {list(wrong.shape)} for {count} states"
        ):
            planner(_with(problem, _reach(wrong)), state)
    with refusal(ShapeError, "GoalDistance", "a goal [B, S] that is closed over"):
        planner(_with(problem, _Closed(goals)), state)


def wrong_objectives() -> Iterator[tuple[str, Objective]]:
    """Give each objective that is wrong in one of its terms, with words for it."""
    for words, wrong in WRONG_RESIDUALS.items():
        yield f"a running residual {words}", _Residuals(running=wrong)
        yield f"a terminal residual {words}", _Residuals(terminal=wrong)
    for words, wrong in WRONG_COSTS.items():
        yield f"a running cost {words}", _Stages(running=wrong)
        yield f"a terminal cost {words}", _Stages(terminal=wrong)
        yield f"a cost {words}", _whole(wrong)


class _Residuals(ResidualObjective):
    """Residuals that are the states, but for the one that is given."""

    def __init__(self, **wrong: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrong = wrong

    def running_residual(self, state: Tensor, action: Tensor) -> Any:
        right = torch.cat([state, action], -1)
        return self.wrong["running"](state) if "running" in self.wrong else right

    def terminal_residual(self, state: Tensor) -> Any:
        return self.wrong["terminal"](state) if "terminal" in self.wrong else state


class _Stages(StageObjective):
    """Squared states, but for the cost that is given."""

    def __init__(self, **wrong: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrong = wrong

    def running_cost(self, state: Tensor, action: Tensor) -> Any:
        right = state.square().sum(-1) + action.square().sum(-1)
        return self.wrong["running"](state) if "running" in self.wrong else right

    def terminal_cost(self, state: Tensor) -> Any:
        right = state.square().sum(-1)
        return self.wrong["terminal"](state) if "terminal" in self.wrong else right


class _Closed(ResidualObjective):
    """The distance to goals `[B, S]` that nobody but this class knows about."""

    def __init__(self, goals: Tensor) -> None:
        super().__init__()
        self.closed_over = goals

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return self.terminal_residual(state)

    def terminal_residual(self, state: Tensor) -> Tensor:
        return state - self.closed_over


def _whole(wrong: Callable[[Tensor], Any]) -> Objective:
    def objective(states: Tensor, actions: Tensor) -> Any:
        return wrong(states[..., -1, :] + 0 * actions.sum((-1, -2)).unsqueeze(-1))

    return objective


def _reach(goal: Tensor) -> Objective:
    return SumOfResiduals([GoalDistance(goal), ActionPenalty(0.1)])


def _with(
    problem: PlanningProblem, objective: Objective, box: Box | None = None
) -> PlanningProblem:
    """Return the problem with another objective, or also another box."""
    return PlanningProblem(
        problem.dynamics,
        objective,
        problem.action_space if box is None else box,
        problem.action_constraints,
    )


def _takes(planner: Planner, problem: PlanningProblem) -> bool:
    """Return whether a planner plans for objectives of this kind."""
    try:
        planner.check_problem(problem)
    except DiffplanError:
        return False
    return True


def _other(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float64 else torch.float64


def _flat(value: Tensor) -> Tensor:
    return value.flatten(0, 1)
