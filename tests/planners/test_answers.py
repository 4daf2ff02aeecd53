"""An answer is no worse than what was known, and asks the model what is allowed."""

import math
from dataclasses import replace

import pytest
import torch
from planner_cases import CASES, PlannerCase, each_planner, each_planner_that
from problems import double_integrator, pendulum, same_to_rounding, states_of
from torch import Tensor

import diffplan as dp
from diffplan.testing import point_mass_problem
from diffplan.testing._answers import check_questions

ROUNDING = 1e-12
"""Of costs in float64 that are computed twice."""

each_descent = each_planner_that(
    lambda case: (
        (planner := case.build()).needs_derivatives and not planner.leaves_bounds
    )
)
each_first_order = each_planner_that(
    lambda case: (  # ShootingGD and GradMPC
        "step_size" in dict(case.learnable) and not case.build().leaves_bounds
    )
)


def warm(plan: dp.Plan, problem: dp.PlanningProblem, actions: Tensor) -> dp.Plan:
    states, cost = problem.evaluate(plan.states[:, 0], actions)
    return replace(plan, actions=actions, states=states, cost=cost).detach()


def no_higher(cost: Tensor, known: Tensor) -> bool:
    return bool((cost <= known + ROUNDING * (1 + known.abs())).all())


@each_descent
@pytest.mark.parametrize("iterations", [1, 4])
def test_descents_never_answer_worse_than_they_began(
    case: PlannerCase, iterations: int
) -> None:
    for problem in (double_integrator(limit=0.6), pendulum()):
        state = states_of(4)
        planner = case.build(iterations=iterations)
        with torch.no_grad():
            cold = planner(problem, state)
            middle = torch.zeros_like(cold.actions)  # of symmetrical boxes
            assert no_higher(cold.cost, problem.cost(state, middle))
            best = dp.ILQR(5, iterations=30)(problem, state)
            for actions in (middle, best.actions, 0.3 * best.actions, 0.5 + middle):
                start = warm(cold, problem, actions)
                answer = planner(problem, state, warm_start=start)
                assert no_higher(answer.cost, start.cost)


@each_first_order
def test_a_descent_that_diverges_returns_the_best_iterate_and_says_so(
    case: PlannerCase,
) -> None:
    # Steps of this size leave the optimum at once; plain descent never comes back.
    problem, state = double_integrator(limit=0.6), states_of(3).requires_grad_()
    good = dp.ILQR(5)(problem, state.detach()).detach()
    planner = case.build(iterations=8, step_size=1000.0)
    plan = planner(problem, state, warm_start=good)
    assert (plan.status == dp.Status.DIVERGED).all()
    assert not plan.succeeded.any()
    assert "step_size" in plan.explain()
    assert no_higher(plan.cost, good.cost)
    assert (plan.diagnostics["candidate_cost"].amin(1) > 1.01 * good.cost).all()


@each_first_order
def test_the_gradient_of_the_best_iterate_is_its_own(case: PlannerCase) -> None:
    # The oracle: a descent that ends at that iterate.
    problem, state = pendulum(), states_of(1).requires_grad_()
    start = warm(
        case.build(iterations=0)(problem, states_of(1)),
        problem,
        torch.tensor([[[0.6], [-0.3], [0.1], [0.0], [0.2]]], dtype=torch.float64),
    )

    def plan(iterations: int, keep_best: bool) -> dp.Plan:
        planner = case.build(
            iterations=iterations,
            step_size=0.2,
            keep_best=keep_best,
            **({"num_starts": 1} if case.name == "ShootingGD" else {}),
            **({"num_starts": 1} if "GradMPC" in case.name else {}),
        )
        return planner(problem, state, warm_start=start)

    def gradient(found: dp.Plan) -> Tensor:
        return torch.autograd.grad(found.actions.sin().sum(), state)[0]

    found = plan(12, keep_best=True)
    costs = [plan(count, keep_best=False).cost for count in range(13)]
    best = int(torch.stack(costs).argmin())
    assert 0 < best < 12  # neither the first nor the last
    expected = plan(best, keep_best=False)
    same_to_rounding(found.actions, expected.actions)
    slope = gradient(expected)
    torch.testing.assert_close(gradient(found), slope, rtol=1e-12, atol=1e-14)
    assert (slope != 0).any()


def test_a_constant_damping_that_lets_steps_overshoot_is_no_worse() -> None:
    problem, state = pendulum(), states_of(5) * 4
    with torch.no_grad():
        for damping in (1e-6, 1.0):
            planner = dp.ShootingGN(5, iterations=4, damping=damping, step_sizes=(1.0,))
            cold = planner(problem, state)
            again = planner(problem, state, warm_start=cold)
            assert no_higher(again.cost, cold.cost)


@pytest.mark.parametrize("kind", [dp.CEM, dp.MPPI, dp.DCEM, dp.LatCo])
def test_default_settings_are_no_worse_than_a_warm_start(
    kind: type[dp.Planner],
) -> None:
    planner, problem = kind(5, gradient=dp.Detach()), pendulum()
    state = states_of(2)
    best = dp.ILQR(5, iterations=30)(problem, state).detach()
    with torch.no_grad():
        cold = planner(problem, state)
        middle = torch.zeros_like(cold.actions)
        assert (cold.cost <= 1.01 * problem.cost(state, middle)).all()
        for start in (cold, warm(cold, problem, best.actions)):
            answer = planner(problem, state, warm_start=start)
            assert (answer.cost <= 1.01 * start.cost).all()


def test_a_mean_of_soft_choices_is_kept_if_so_asked() -> None:
    problem, state = pendulum(), states_of(4)
    best = dp.ILQR(5, iterations=30)(problem, state).detach()
    start = replace(best, memory={})
    for kind in (dp.MPPI, dp.DCEM, dp.CEM):
        kept = kind(5, num_samples=10, num_elites=10) if kind is dp.CEM else kind(5)
        mean = kind(5, keep_best=False)
        if kind is dp.CEM:
            mean = kind(5, num_samples=10, num_elites=10, keep_best=False)
        for planner, rises in ((kept, False), (mean, True)):
            cost = planner(problem, state, warm_start=start).cost
            assert bool((cost > 1.01 * best.cost).any()) == rises


# The model is asked only what the problem allows.


@each_planner
@pytest.mark.parametrize(
    ("low", "high"),
    [(-0.4, 0.3), (0.5, 0.9), (-math.inf, 0.2), (0.7, math.inf), (0.25, 0.25)],
)
def test_the_model_is_asked_inside_any_box(
    case: PlannerCase, low: float, high: float
) -> None:
    problem, state = point_mass_problem(torch.float64)
    box = dp.Box(torch.tensor([low]).double(), torch.tensor([high]).double())
    narrow = dp.PlanningProblem(problem.dynamics, problem.objective, box)
    changes = {"gradient": dp.Detach()}
    planner = case.build(horizon=2, iterations=2, **changes)
    check_questions(planner, narrow, state[:2])


@each_planner_that(
    lambda case: case.action_constraints and not case.build().leaves_bounds
)
def test_the_model_is_asked_inside_of_constraints(case: PlannerCase) -> None:
    ball = dp.constraints.Ball(0.5)
    asked: list[Tensor] = []

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        asked.append(action.detach())
        return state + action

    count = case.action_dim or 2
    problem = dp.PlanningProblem(
        dynamics,
        dp.objectives.GoalDistance(torch.full((count,), 3.0).double()),
        dp.Box([-1.0] * count, [1.0] * count),
        constraints=[ball],
    )
    state = torch.zeros(2, count).double()
    start = case.build(horizon=2, iterations=2)(problem, state).detach()
    far = replace(start, actions=start.actions + 4)
    case.build(horizon=2, iterations=2)(problem, state, warm_start=far)
    assert all(problem.contains(actions).all() for actions in asked)


@each_planner_that(lambda case: not case.build().leaves_bounds)
def test_a_model_that_is_defined_for_allowed_actions_only(case: PlannerCase) -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + 0.3 * (1.01 - action.square()).sqrt(),
        dp.objectives.GoalDistance(torch.full((1,), 0.5).double()),
        dp.Box([-1.0], [1.0]),
    )
    state = torch.zeros(4, 1).double()
    plan = case.build(iterations=6)(problem, state)
    outside = replace(plan.detach(), actions=torch.full_like(plan.actions, -7.0))
    for found in (plan, case.build(iterations=6)(problem, state, warm_start=outside)):
        assert torch.isfinite(found.cost).all()
        assert (found.status != dp.Status.NON_FINITE).all()


# Legal but degenerate.


class Still(dp.objectives.ResidualObjective):
    """A cost that is zero, times its arguments."""

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return 0 * torch.cat((state, action), -1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        return 0 * state


@each_planner
@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("horizon", [1, 3])
def test_a_constant_cost_is_answered(
    case: PlannerCase, iterations: int, horizon: int
) -> None:
    problem, state = point_mass_problem(torch.float64)
    constant = dp.PlanningProblem(problem.dynamics, Still(), problem.action_space)
    plan = case.build(horizon=horizon, iterations=iterations)(constant, state)
    assert torch.isfinite(plan.actions).all()
    assert (plan.cost == 0).all()
    assert not (plan.status == dp.Status.NON_FINITE).any()


@each_planner_that(lambda case: case.build().needs_derivatives is False)
def test_a_constant_without_a_graph_is_answered_by_samples(case: PlannerCase) -> None:
    problem, state = point_mass_problem()

    def constant(states: Tensor, actions: Tensor) -> Tensor:
        return states.new_ones(actions.shape[:-2])

    free = dp.PlanningProblem(problem.dynamics, constant, problem.action_space)
    plan = case.build(horizon=2, iterations=2)(free, state)
    assert plan.succeeded.all()


@each_first_order
def test_what_was_not_tested_is_not_called_converged(case: PlannerCase) -> None:
    problem, state = point_mass_problem()
    for iterations in (0, 3):
        plan = case.build(iterations=iterations)(problem, state)
        assert (plan.status == dp.Status.COMPLETED).all()
        assert plan.succeeded.all()
        assert "not tested" in plan.explain()


def test_the_planners_that_descend_are_known() -> None:
    found = {type(c.build()).__name__ for c in CASES if c.build().needs_derivatives}
    assert found >= {
        "ShootingGD",
        "GradMPC",
        "ILQR",
        "ShootingGN",
        "LatCo",
        "FirstOrderLatCo",
    }
    assert not found & {"CEM", "DCEM", "MPPI"}


@each_descent
def test_a_finite_cost_is_known_though_nothing_has_a_derivative(
    case: PlannerCase,
) -> None:
    # NaN beyond an action, and NaN as every derivative, as of a masked product.
    plain, state = double_integrator(limit=0.6), states_of(3)

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        following = plain.dynamics(state, action)
        return torch.where(action > 0.1, following * torch.nan, following)

    problem = dp.PlanningProblem(dynamics, plain.objective, plain.action_space)
    with torch.no_grad():
        plan = case.build()(problem, state)
        known = problem.cost(state, torch.zeros_like(plan.actions))
    assert (plan.cost <= known).all()  # NaN is not
