"""The price of changing the action: counted, optimal, for every planner."""

import numpy as np
import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from problems import (
    double_integrator,
    pendulum,
    quadratic_optimum,
    states_of,
    timed_problem,
)
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, ShapeError, UnsupportedProblemError
from diffplan.models import LinearDynamics
from diffplan.objectives import ActionChange, QuadraticCost, with_action_change

STEPS = 5
WEIGHT = 2.0
LAST = torch.tensor([[0.5], [-0.4]], dtype=torch.float64)


def by_hand(
    problem: dp.PlanningProblem, state: Tensor, last: Tensor, actions: Tensor
) -> float:
    """What actions `[T, A]` cost, changes included, by a loop over the steps."""
    states, total, before = [state], 0.0, last
    for step, action in enumerate(actions):
        time = (torch.tensor(step),) if problem.uses_time else ()
        states.append(problem.dynamics(states[-1], action, *time).detach())
        total += 0.5 * WEIGHT * float((action - before).square().sum())
        before = action
    return total + float(problem.objective(torch.stack(states), actions).detach())


def optimum(problem: dp.PlanningProblem, state: Tensor, last: Tensor) -> Tensor:
    def cost(flat: np.ndarray) -> float:
        return by_hand(problem, state, last, torch.as_tensor(flat).unsqueeze(-1))

    ends = np.full(STEPS, 0.6)
    return quadratic_optimum(cost, -ends, ends).unsqueeze(-1)


@each_planner
@pytest.mark.parametrize("timed", [False, True])
def test_changes_are_priced_from_the_last_action_on(
    case: PlannerCase, timed: bool
) -> None:
    problem = timed_problem() if timed else double_integrator(limit=0.6)
    state = states_of(2)
    smooth = with_action_change(problem, WEIGHT)
    plan = case.build()(smooth, torch.cat([state, LAST], -1)).detach()
    for index in range(2):
        given = problem, state[index], LAST[index]
        expected = by_hand(*given, plan.actions[index])
        assert plan.cost[index].item() == pytest.approx(expected, rel=1e-8)
        least = by_hand(*given, optimum(*given))
        passive = by_hand(*given, torch.zeros_like(plan.actions[index]))
        assert case.is_near(plan.cost[index].item(), least, passive)
    before = torch.cat([LAST[:, None], plan.actions], 1)
    tolerance = case.dynamics_tolerance
    torch.testing.assert_close(
        plan.states[..., 2:], before, rtol=tolerance, atol=tolerance
    )


@each_planner_that(lambda case: dp.Unroll in case.gradients and not case.estimator)
def test_plans_are_differentiable_by_the_last_action(case: PlannerCase) -> None:
    problem, state = with_action_change(pendulum(), WEIGHT), states_of(2)
    # Few iterations: once the plan has converged, rounding decides on the last steps.
    planner = case.build(gradient=dp.Unroll(), iterations=2)

    def loss(last: Tensor) -> Tensor:
        return planner(problem, torch.cat([state, last], -1)).actions.sin().sum()

    last = LAST.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(last), last)
    with torch.no_grad():
        ahead, behind = loss(LAST + 1e-6), loss(LAST - 1e-6)
    torch.testing.assert_close(
        slope.sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("objective", ["residual", "stage", "whole"])
def test_weights_and_data_of_each_problem_stay_with_it(objective: str) -> None:
    plain, state = double_integrator(limit=0.6), states_of(2)
    goals = torch.tensor([[0.5, 0.0], [-0.3, 0.1]], dtype=torch.float64)
    weights = torch.tensor([[0.5], [4.0]], dtype=torch.float64)

    def cost(goal: Tensor) -> dp.Objective:
        if objective == "residual":
            return dp.objectives.GoalDistance(goal)
        eye = torch.eye(2, dtype=torch.float64)
        lead = goal.unsqueeze(-2) if goal.ndim > 1 else goal
        stages = QuadraticCost(
            eye, 0.1 * eye[:1, :1], state_linear=-lead, final_linear=-goal
        )
        return stages if objective == "stage" else Whole(stages)

    start = torch.cat([state, LAST], -1)
    planner = dp.CEM(STEPS, num_samples=30, num_elites=5, iterations=3)
    keys = torch.arange(2)

    def plan(goal: Tensor, weight: Tensor, index: slice) -> dp.Plan:
        problem = dp.PlanningProblem(plain.dynamics, cost(goal), plain.action_space)
        smooth = with_action_change(problem, weight)
        return planner(smooth, start[index], keys=keys[index])

    both = plan(goals, weights, slice(None))
    for index in range(2):
        alone = plan(goals[index], weights[index], slice(index, index + 1))
        torch.testing.assert_close(both.actions[index], alone.actions[0])
        torch.testing.assert_close(both.cost[index], alone.cost[0])


class Whole(torch.nn.Module):
    """An objective that shows nothing of its stages."""

    def __init__(self, stages: dp.objectives.StageObjective) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.stages(states, actions)


def test_an_analytic_jacobian_stays_one() -> None:
    a, b = (torch.randn(STEPS, 2, n, dtype=torch.float64) for n in (2, 1))
    plain = dp.PlanningProblem(
        LinearDynamics(a, b), double_integrator().objective, dp.Box([-1.0], [1.0])
    )
    problem = with_action_change(plain, WEIGHT)
    assert problem.capabilities()["linearize"]
    state = torch.randn(3, STEPS, 3, dtype=torch.float64)
    action = torch.randn(3, STEPS, 1, dtype=torch.float64)
    times = problem.times(0, STEPS, state)
    found = problem.linearize(state, action, times)
    problem.given_jacobian = None
    assert not problem.capabilities()["linearize"]
    by_autodiff = problem.linearize(state, action, times)
    for got, expected in zip(found, by_autodiff, strict=True):
        torch.testing.assert_close(got, expected)


def test_constraints_and_bounds_go_along() -> None:
    plain = double_integrator()
    wall = dp.constraints.StateConstraint(
        lambda state, action: state[..., :1] - 0.2,
        terminal=lambda state: state[..., :1] - 0.2,
        initial=False,
    )
    high = torch.linspace(0.6, 0.2, STEPS, dtype=torch.float64).unsqueeze(-1)
    problem = dp.PlanningProblem(
        plain.dynamics, plain.objective, dp.Box(-high, high), [wall]
    )
    smooth = with_action_change(problem, WEIGHT)
    planner = dp.AugmentedLagrangian(dp.ILQR(STEPS), outer_iterations=8)
    state = torch.zeros(2, 2, dtype=torch.float64)
    plan = planner(smooth, torch.cat([state, LAST], -1))
    assert plan.succeeded.all()
    assert (plan.states[..., 0] <= 0.2 + 1e-4).all()
    assert (plan.actions.abs() <= high).all()


def test_wrong_uses_are_refused_by_name() -> None:
    plain = double_integrator(limit=0.6)
    with pytest.raises(ArgumentError, match="weight: expected at least 0"):
        with_action_change(plain, -1.0)
    with pytest.raises(ShapeError, match=r"weight: expected \[\], \[1\]"):
        ActionChange(torch.ones(3))(torch.zeros(3, 3), torch.zeros(2, 1))
    with pytest.raises(ShapeError, match="a state and the action before"):
        ActionChange(1.0)(torch.zeros(3, 1), torch.zeros(2, 1))
    with pytest.raises(ShapeError, match="state"):
        dp.CEM(STEPS)(with_action_change(plain, 1.0), states_of(2))
    noisy = dp.StochasticProblem(Noisy(), plain.objective, plain.action_space)
    with pytest.raises(UnsupportedProblemError, match="with_action_change"):
        with_action_change(noisy, 1.0)


class Noisy:
    def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(state + 0 * action, torch.ones_like(state))
