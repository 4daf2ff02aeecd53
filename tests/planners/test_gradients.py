"""Declared gradients are right, and undeclared ones are refused."""

import copy
from collections.abc import Callable

import pytest
import torch
from planner_cases import (
    CASES,
    PlannerCase,
    each_planner,
    each_planner_that,
    parameter,
)
from problems import central_difference, pendulum, same_to_rounding, states_of
from torch import Tensor

import diffplan as dp
from diffplan.errors import ShapeError, UnsupportedGradientError
from diffplan.planners import GradMPC

each_unrolled = each_planner_that(lambda case: dp.Unroll in case.gradients)
# Those whose gradient is that of the plan, so that finite differences agree.
UNROLLED = [c for c in CASES if dp.Unroll in c.gradients and not c.estimator]
each_exact = each_planner_that(lambda case: case in UNROLLED)
each_warm_started = each_planner_that(
    lambda case: (
        case in UNROLLED
        and "warm start" in case.build().supported_gradients[dp.Unroll].wrt
    )
)

SMALL = {
    "MPPI": {"num_samples": 6, "iterations": 3, "temperature": 1.0},
    "MPPI-fixed-std": {"num_samples": 6, "iterations": 3, "temperature": 1.0},
    "DCEM": {"num_samples": 6, "num_elites": 2, "iterations": 3, "temperature": 1.0},
    "LatentActions-DCEM": {
        "num_samples": 6,
        "num_elites": 2,
        "iterations": 3,
        "temperature": 1.0,
    },
    "ILQR": {"iterations": 2},
    "ShootingGN": {"iterations": 2},
    "ShootingGD": {"num_starts": 2, "iterations": 4},
    "GradMPC": {"num_starts": 2, "iterations": 4, "step_size": 0.02},
    "GradMPC-rmsprop": {"num_starts": 2, "iterations": 4},
}


def small(case: PlannerCase, **changes: object) -> dp.Planner:
    """A planner of few steps on few samples, so that gradcheck is quick."""
    name = case.name.removesuffix("-sweep")
    arguments = {**SMALL.get(name, {"iterations": 4}), **changes}
    return case.build(horizon=3, gradient=dp.Unroll(), **arguments)


def problem_with(parameters: dict[str, Tensor]) -> dp.PlanningProblem:
    """The pendulum with other numbers in dynamics and objective."""
    problem = pendulum()
    dynamics, objective = problem.dynamics, problem.objective
    given = {"gravity": dynamics.gravity, "goal": objective.goal, **parameters}

    def step(state: Tensor, action: Tensor) -> Tensor:
        gravity = {"gravity": given["gravity"]}
        return torch.func.functional_call(dynamics, gravity, (state, action))

    del objective.goal  # a parameter; a given tensor takes its place
    objective.goal = given["goal"]
    wide = dp.Box([-3.0], [3.0])  # no start lies on a bound, where slopes jump
    return dp.PlanningProblem(step, objective, wide)


def check(function: Callable[[Tensor], Tensor], at: Tensor) -> None:
    assert function(at).requires_grad
    assert torch.autograd.gradcheck(function, (at,), eps=1e-6, atol=1e-5, rtol=1e-4)


def leaf(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@each_exact
def test_unrolled_gradient_to_the_initial_state(case: PlannerCase) -> None:
    planner = small(case)
    state = states_of(2).requires_grad_()
    check(lambda x: planner(problem_with({}), x).actions, state)


@each_exact
def test_unrolled_gradient_to_the_dynamics(case: PlannerCase) -> None:
    planner = small(case)
    state = states_of(2)
    check(
        lambda g: planner(problem_with({"gravity": g[0]}), state).actions, leaf([5.0])
    )


@each_exact
def test_unrolled_gradient_to_the_objective(case: PlannerCase) -> None:
    planner = small(case)
    state = states_of(2)
    check(
        lambda g: planner(problem_with({"goal": g}), state).actions, leaf([0.1, -0.2])
    )


@each_warm_started
def test_unrolled_gradient_to_the_warm_start(case: PlannerCase) -> None:
    planner = small(case)
    problem, state = problem_with({}), states_of(1)
    plan = planner(problem, state).detach()

    def actions_from(start: Tensor) -> Tensor:
        warm = dp.Plan(start, plan.states, plan.cost)
        return planner(problem, state, warm_start=warm).actions

    check(
        actions_from, leaf([0.3, -0.4, 0.2]).detach().reshape(1, 3, 1).requires_grad_()
    )


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [(case, *number) for case in UNROLLED for number in case.learnable],
    ids=[f"{case.name}-{n[0]}" for case in UNROLLED for n in case.learnable],
)
def test_unrolled_gradient_to_planner_parameters(
    case: PlannerCase, name: str, value: float
) -> None:
    if case.missing:
        pytest.skip(f"{case.missing} is not installed")
    planner = small(case, **{name: parameter(value)})
    assert name in dict(planner.named_parameters())
    problem, state = problem_with({}), states_of(2)

    def actions_with(number: Tensor) -> Tensor:
        # Module.forward reads the parameter by name: functional_call swaps it.
        plan = torch.func.functional_call(planner, {name: number}, (problem, state))
        return plan.actions

    check(actions_with, torch.tensor(value, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_second_derivatives_of_gradient_planning(optimizer: str) -> None:
    planner = GradMPC(2, iterations=2, num_starts=1, optimizer=optimizer)
    problem = problem_with({})
    assert torch.autograd.gradgradcheck(
        lambda x: planner(problem, x).actions,
        (states_of(1).requires_grad_(),),
        atol=1e-4,
        rtol=1e-3,
    )


@each_planner
def test_detached_actions_are_constants_and_cost_has_the_envelope_gradient(
    case: PlannerCase,
) -> None:
    planner = case.build(horizon=3, iterations=5, gradient=dp.Detach())
    problem = pendulum()
    state = states_of(1)[0].requires_grad_()
    plan = planner(problem, state)
    assert not plan.actions.requires_grad
    (gradient,) = torch.autograd.grad(plan.cost, state)
    actions = plan.actions

    def cost_at_fixed_actions(start: Tensor) -> Tensor:
        states = [start]
        for action in actions:
            states.append(problem.dynamics(states[-1], action))
        return problem.objective(torch.stack(states), actions)

    expected = central_difference(cost_at_fixed_actions, state.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-7)


@each_unrolled
def test_detach_and_unroll_find_the_same_plan(case: PlannerCase) -> None:
    problem, state = pendulum(), states_of(2)
    given: dict = {"iterations": 5}
    if hasattr(case.build(), "early_exit"):  # else one that has converged stays there
        given["early_exit"] = False
    unrolled = case.build(gradient=dp.Unroll(), **given)(problem, state)
    detached = case.build(gradient=dp.Detach(), **given)(problem, state)
    same_to_rounding(unrolled.actions, detached.actions)


@each_planner
@pytest.mark.parametrize("strategy", [dp.Unroll, dp.Detach])
def test_undeclared_gradients_are_refused_at_construction(
    case: PlannerCase, strategy: type[dp.GradientStrategy]
) -> None:
    if strategy in case.gradients:
        assert isinstance(case.build(gradient=strategy()).gradient, strategy)
    else:
        with pytest.raises(UnsupportedGradientError, match="supports Detach"):
            case.build(gradient=strategy())


@each_planner
def test_declared_gradients_are_those_of_the_class(case: PlannerCase) -> None:
    assert set(case.build().supported_gradients) == set(case.gradients)


@each_planner
def test_declared_learnable_numbers_are_those_of_the_class(case: PlannerCase) -> None:
    assert [name for name, _ in case.learnable] == list(case.build().learnable_numbers)


@each_unrolled
def test_learnable_numbers_are_no_matrices(case: PlannerCase) -> None:
    for name, value in case.learnable:
        matrix = torch.full((1, 1), value, dtype=torch.float64)
        with pytest.raises(ShapeError, match=rf"{name}: expected one .* got \[1, 1\]"):
            case.build(**{name: matrix})


@each_unrolled
def test_learnable_numbers_move_and_save_with_the_planner(case: PlannerCase) -> None:
    for name, value in case.learnable:
        planner = case.build(**{name: parameter(value)})
        other = copy.deepcopy(case.build(**{name: parameter(2 * value)}))
        other.load_state_dict(planner.state_dict())
        assert getattr(other, name).item() == value
