"""Bounds that depend on the step and on the problem, for every planner."""

import copy

import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from problems import bounded_actions, cost_of, double_integrator, pendulum, states_of
from torch import Tensor

import diffplan as dp
from diffplan.agents import UniformAgent
from diffplan.errors import ShapeError
from diffplan.testing import point_mass_problem

STEPS = 5
# Of two problems, five steps, one number: they hold the optimum at some steps.
HIGH = torch.tensor(
    [[0.1, 0.7, 0.3, 0.2, 0.6], [0.5, 0.2, 0.4, 0.1, 0.3]], dtype=torch.float64
).unsqueeze(-1)
LOW = -HIGH.flip(1)


def within(
    problem: dp.PlanningProblem, low: Tensor, high: Tensor
) -> dp.PlanningProblem:
    other = copy.copy(problem)
    other.action_space = dp.Box(low, high)
    return other


@each_planner
def test_lqr_in_bounds_of_each_step_and_problem_is_solved(case: PlannerCase) -> None:
    problem, state = double_integrator(), states_of(2)
    plan = case.build()(within(problem, LOW, HIGH), state)
    assert ((plan.actions >= LOW) & (plan.actions <= HIGH)).all()
    for index in range(2):
        alone = within(problem, LOW[index], HIGH[index])
        best = bounded_actions(alone, state[index], STEPS)
        held = (best - LOW[index]).abs().minimum((best - HIGH[index]).abs()) < 1e-6
        assert held.any()
        least = cost_of(problem, state[index], best)
        assert least - 1e-9 <= plan.cost[index] <= least * (1 + case.optimum_gap)


@each_planner
def test_leading_dimensions_of_bounds_are_those_of_the_states(
    case: PlannerCase,
) -> None:
    problem, state = double_integrator(), states_of(2)
    planner = case.build(iterations=3)
    flat = planner(within(problem, LOW, HIGH), state)
    for lead in ((2, 1), (1, 2)):
        low, high = (side.reshape(*lead, STEPS, 1) for side in (LOW, HIGH))
        plan = planner(within(problem, low, high), state.reshape(*lead, 2))
        torch.testing.assert_close(plan.actions.flatten(0, 1), flat.actions)


@each_planner
def test_bounds_of_each_problem_may_be_the_same_at_all_steps(case: PlannerCase) -> None:
    problem, state = double_integrator(), states_of(2)
    planner = case.build(iterations=3)
    few = within(problem, LOW[:, :1], HIGH[:, :1])
    low, high = (side[:, :1].expand(2, STEPS, 1) for side in (LOW, HIGH))
    got, expected = planner(few, state), planner(within(problem, low, high), state)
    torch.testing.assert_close(got.actions, expected.actions)


@pytest.mark.parametrize("count", [1, 2])
def test_several_starts_of_collocation_meet_a_warm_one(count: int) -> None:
    problem, state = double_integrator(), states_of(count)
    planner = dp.LatCo(STEPS, iterations=2, num_starts=3)
    low, high = LOW[:count, :1], HIGH[:count, :1]
    noise = planner.draw_noise(problem, state)
    actions = low.expand(count, STEPS, 1)
    warm = dp.Plan(actions, problem.rollout(state, actions), torch.zeros(count))
    plan = planner(within(problem, low, high), state, warm_start=warm, noise=noise)
    for index in range(count):
        one = dp.Plan(actions[index], warm.states[index], warm.cost[index])
        alone = within(problem, low[index, 0], high[index, 0])
        expected = planner(alone, state[index], warm_start=one, noise=noise[index])
        torch.testing.assert_close(plan.actions[index], expected.actions)


@each_planner
def test_bounds_that_do_not_move_are_a_box(case: PlannerCase) -> None:
    problem, state = point_mass_problem(torch.float64)
    planner, box = case.build(iterations=3), problem.action_space
    expected = planner(problem, state)
    for shape in ((1, 1), (STEPS, 1), (3, 1, 1), (3, STEPS, 1)):
        plan = planner(within(problem, box.low.expand(shape), box.high), state)
        torch.testing.assert_close(plan.actions, expected.actions)


@each_planner_that(lambda case: dp.Unroll in case.gradients and not case.estimator)
def test_plans_are_differentiable_by_the_bounds_of_each_step(case: PlannerCase) -> None:
    problem, state = pendulum(), states_of(2)
    planner = case.build(gradient=dp.Unroll(), iterations=3)
    bounds = torch.stack([LOW, HIGH])
    way = torch.linspace(1, 2, bounds.numel(), dtype=bounds.dtype).cos()
    way = way.reshape(bounds.shape)

    def loss(shift: Tensor) -> Tensor:
        moved = bounds + shift * way
        return planner(within(problem, *moved), state).actions.sin().sum()

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(shift), shift)
    with torch.no_grad():
        difference = (loss(shift + 1e-6) - loss(shift - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-6)


@each_planner_that(
    lambda case: dp.Implicit in case.gradients and case.optimum_gap <= 1e-8
)
def test_held_actions_follow_the_bounds_of_their_step(case: PlannerCase) -> None:
    for strategy in (dp.Unroll(), dp.Implicit()):
        planner = case.build(gradient=strategy)

        def actions(high: Tensor, planner: dp.Planner = planner) -> Tensor:
            return planner(within(pendulum(), LOW, high), -states_of(2)).actions

        found = torch.autograd.functional.jacobian(actions, HIGH)
        held = actions(HIGH) == HIGH
        follows = torch.eye(HIGH.numel(), dtype=HIGH.dtype).reshape(*HIGH.shape * 2)
        torch.testing.assert_close(found[held], follows[held])
        assert held.any()
        assert not held.all()
        if strategy == dp.Unroll():
            expected = found
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each_planner_that(lambda case: case.vmapped)
def test_bounds_map_over_problems(case: PlannerCase) -> None:
    problem, state = double_integrator(), states_of(2)
    planner = case.build(horizon=STEPS, iterations=2)

    def plan(state: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return planner(within(problem, low, high), state).actions

    mapped = torch.func.vmap(plan)(state, LOW, HIGH)
    for index in range(2):
        alone = plan(state[index], LOW[index], HIGH[index])
        torch.testing.assert_close(mapped[index], alone)


def test_bounds_line_up_with_candidates_and_steps() -> None:
    problem = within(double_integrator(), LOW, HIGH)
    for between in ((), (3,), (3, 4)):
        shape = (2, *between, STEPS, 1)
        wanted = 3 * torch.randn(shape, dtype=torch.float64)
        ones = (1,) * len(between)
        low, high = (side.reshape(2, *ones, STEPS, 1) for side in (LOW, HIGH))
        assert torch.equal(problem.project(wanted), wanted.clamp(low, high))
        inside = ((wanted >= low) & (wanted <= high)).all(-1)
        assert torch.equal(problem.contains(wanted), inside)
        assert problem.contains(problem.project(wanted)).all()


@pytest.mark.parametrize(
    "shape", [(1,), (2, 1), (STEPS, 2), (3, STEPS, 1), (2, STEPS + 1, 1)]
)
def test_actions_that_do_not_line_up_are_refused(shape: tuple[int, ...]) -> None:
    problem = within(double_integrator(), LOW, HIGH)
    with pytest.raises(ShapeError, match=r"actions: expected \[2, …, 5, 1\]"):
        problem.project(torch.zeros(shape, dtype=torch.float64))


def test_a_ball_meets_bounds_of_each_step() -> None:
    plain, state = double_integrator(), states_of(2)
    problem = dp.PlanningProblem(
        plain.dynamics, plain.objective, dp.Box(LOW, HIGH), [dp.constraints.Ball(0.25)]
    )
    plan = dp.CEM(STEPS, num_samples=50, num_elites=5, iterations=3)(problem, state)
    assert problem.contains(plan.actions).all()
    assert (plan.actions.abs() <= 0.25).all()


def test_agents_and_latent_spaces_have_one_box() -> None:
    box = dp.Box(LOW[0], HIGH[0])
    with pytest.raises(ShapeError, match=r"latent_space: expected bounds \[A\]"):
        dp.LatentActions(dp.CEM(1), torch.nn.Identity(), box, horizon=3)
    with pytest.raises(ShapeError, match=r"action_space: expected bounds \[A\]"):
        UniformAgent(box)
