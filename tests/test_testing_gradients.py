"""The public check of gradients: it passes what is right and catches what is not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from planted_functions import Identity
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.testing import check_gradients


class Pushed(torch.nn.Module):
    """Dynamics and an objective that have a parameter each."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.strength.to(state) * action

    def cost(self, states: Tensor, actions: Tensor) -> Tensor:
        distance = (self.strength * (states - 1.0)).square().sum((-1, -2))
        return distance + 0.1 * actions.square().sum((-1, -2))


START = torch.zeros(2, 2, dtype=torch.float64)


def pushed(dynamics: Callable[..., Tensor], objective: object = None) -> object:
    goal = dp.objectives.GoalDistance(torch.ones(2).double())
    box = dp.Box([-1.0] * 2, [1.0] * 2)
    return dp.PlanningProblem(dynamics, objective or goal, box)


def check(problem: object, **options: object) -> dp.testing.GradientReport:
    planner = options.pop("planner", dp.GradMPC(2, iterations=3))
    return check_gradients(planner, problem, START, verbose=False, **options)


def test_parameters_behind_partials_and_methods_are_checked() -> None:
    problem = pushed(partial(Pushed().step), Pushed().cost)
    names = {row.name for row in check(problem).rows}
    of_state = {"state", "state, in forward mode"}
    assert names == of_state | {"dynamics.strength", "objective.strength"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wrt": {"state": START.clone().requires_grad_()}}, "always is added"),
        ({"wrt": {"start": START}}, "always is added"),
        ({"wrt": {"goal": torch.ones(2).requires_grad_()}}, "goal: .* float64"),
        ({"directions": 0}, "directions"),
        ({"directions": -3}, "directions"),
        ({"order": 7}, "order: expected 1 or 2"),
        ({"planner": dp.GradMPC(2, gradient=dp.Detach())}, "actions are constants"),
    ],
)
def test_gradients_that_cannot_be_checked_are_refused(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        check(pushed(Pushed().step), **options)


def test_a_parameter_in_float32_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"dynamics\.strength: .* float64"):
        check(pushed(Pushed(torch.float32).step))


def test_a_plan_without_the_graph_that_is_declared_is_caught() -> None:
    class Cut(dp.GradMPC):
        def solve(self, request):  # noqa: ANN001, ANN202
            solution = super().solve(request)
            return replace(solution, actions=solution.actions.detach())

    with pytest.raises(AssertionError, match="has no graph although"):
        check(pushed(Pushed().step), planner=Cut(2, iterations=3))


class Tripled(Identity):
    """The same number, of which forward mode says three times as much."""

    @staticmethod
    def jvp(context: object, tangent: Tensor) -> Tensor:
        return 3 * tangent


def through(function: type[torch.autograd.Function]) -> dp.GradMPC:
    class Passing(dp.GradMPC):
        def solve(self, request):  # noqa: ANN001, ANN202
            solution = super().solve(request)
            return replace(solution, actions=function.apply(solution.actions))

    return Passing(2, iterations=3)


def test_a_wrong_forward_mode_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"in forward mode .* wrong: above"):
        check(pushed(Pushed().step), planner=through(Tripled))


def test_a_planner_without_forward_mode_has_no_row_of_it() -> None:
    names = {
        row.name for row in check(pushed(Pushed().step), planner=through(Identity)).rows
    }
    assert names == {"state", "dynamics.strength"}
