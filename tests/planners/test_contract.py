"""What every planner promises; one test per promise and planner."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import (
    CASES,
    CHOOSING,
    PlannerCase,
    each_planner,
    each_planner_and_space,
    each_planner_that,
)
from problems import (
    bounded_actions,
    cost_of,
    double_integrator,
    pendulum,
    states_of,
    timed_cost_by_hand,
    timed_problem,
)
from torch import Tensor

import diffplan as dp
from diffplan.errors import ShapeError, UnsupportedProblemError
from diffplan.testing import (
    PLANNER_CHECKS,
    check_planner,
    check_states_follow_actions,
    point_mass_problem,
)


@each_planner_and_space
@pytest.mark.parametrize("check", PLANNER_CHECKS, ids=lambda check: check.__name__)
def test_promise(check: object, case: PlannerCase) -> None:
    problem, state = case.problem(torch.float32)
    check(case.build(horizon=3, iterations=6), problem, state)


# The same promises in float64; where actions are numbers, on a nonlinear problem


@pytest.mark.parametrize("case", CHOOSING, ids=lambda case: case.name)
@pytest.mark.parametrize("check", PLANNER_CHECKS, ids=lambda check: check.__name__)
def test_promise_of_choices_in_float64(check: object, case: PlannerCase) -> None:
    problem, state = case.problem(torch.float64)
    check(case.build(horizon=3, iterations=6), problem, state)


@each_planner
def test_promises_hold_for_nonlinear_dynamics(case: PlannerCase) -> None:
    check_planner(
        case.build(horizon=3, iterations=6),
        pendulum(),
        states_of(3),
        dynamics_tolerance=case.dynamics_tolerance,
    )


@each_planner_and_space
def test_states_are_the_rollout_of_the_actions(case: PlannerCase) -> None:
    problem, state = case.problem(torch.float32)
    check_states_follow_actions(case.build(), problem, state, case.dynamics_tolerance)


@each_planner_and_space
def test_horizon_of_one(case: PlannerCase) -> None:
    problem, state = case.problem(torch.float32)
    plan = case.build(horizon=1)(problem, state)
    assert plan.actions.shape == (3, 1, problem.action_space.dim)
    assert plan.states.shape == (3, 2, 2)


@each_planner
def test_two_leading_dimensions_are_one_longer_batch(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(6)
    flat = case.build()(problem, state)
    plan = case.build()(problem, state.reshape(2, 3, 2))
    assert plan.actions.shape == (2, 3, 5, 1)
    torch.testing.assert_close(plan.actions.reshape(6, 5, 1), flat.actions)
    torch.testing.assert_close(plan.cost.reshape(6), flat.cost)
    for name, value in plan.diagnostics.items():
        torch.testing.assert_close(value.flatten(0, 1), flat.diagnostics[name])


@each_planner
def test_bounded_lqr_is_solved(case: PlannerCase) -> None:
    # The bounds are active in the optimum: the oracle is scipy's bounded least squares.
    problem, state = double_integrator(limit=0.6), states_of(2)
    plan = case.build()(problem, state)
    for index in range(2):
        best = bounded_actions(problem, state[index], horizon=5)
        assert (best.abs() > 0.6 - 1e-6).any()
        least = cost_of(problem, state[index], best)
        assert plan.cost[index] >= least - 1e-9
        assert plan.cost[index] <= least * (1 + case.optimum_gap)


@each_planner
@pytest.mark.parametrize("count", [1, 8])
def test_costs_that_depend_on_the_step_are_those_of_a_loop(
    case: PlannerCase, count: int
) -> None:
    problem, state = timed_problem(), states_of(count)
    plan = case.build()(problem, state)
    for index in range(count):
        expected = timed_cost_by_hand(problem, plan.states[index], plan.actions[index])
        assert plan.cost[index].item() == pytest.approx(expected, rel=1e-9)
    for step in range(5):  # the dynamics depend on it as well
        following = problem.dynamics(
            plan.states[:, step], plan.actions[:, step], torch.tensor(step)
        )
        tolerance = case.dynamics_tolerance
        torch.testing.assert_close(
            plan.states[:, step + 1], following, rtol=tolerance, atol=tolerance
        )


@each_planner_that(lambda case: case.finds_clock)
def test_a_step_that_is_told_is_a_clock_in_the_state(case: PlannerCase) -> None:
    state = states_of(3)
    plan = case.build()(timed_problem(), state)
    clock = torch.cat([state, torch.zeros_like(state[:, :1])], dim=-1)
    expected = case.build()(timed_problem(clock=True), clock)
    # Collocation guesses states, the clock too, and has to find it first.
    tolerance = 1e-9 if case.feasible_throughout else 1e-3
    torch.testing.assert_close(plan.cost, expected.cost, rtol=tolerance, atol=1e-9)


@each_planner_that(lambda case: dp.Implicit in case.gradients)
def test_implicit_derivatives_know_the_step(case: PlannerCase) -> None:
    gradients = []
    for clock in (False, True):
        state = states_of(2).requires_grad_()
        start = torch.cat([state, torch.zeros(2, 1)], dim=-1) if clock else state
        plan = case.build(gradient=dp.Implicit())(timed_problem(clock), start)
        (gradient,) = torch.autograd.grad(plan.actions.cos().sum(), state)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@each_planner
def test_weights_by_position_are_refused(case: PlannerCase) -> None:
    class Discounted(dp.objectives.GoalDistance):
        def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
            steps = state.shape[-2] if state.ndim > 1 else 1
            weight = 0.9 ** torch.arange(steps, dtype=state.dtype)
            return weight[:, None] * super().running_residual(state, action)

    plain = double_integrator(limit=1.0)
    goal = Discounted(torch.zeros(2, dtype=torch.float64))
    problem = dp.PlanningProblem(plain.dynamics, goal, plain.action_space)
    with pytest.raises(UnsupportedProblemError, match="argument `time`"):
        case.build()(problem, states_of(2))


@each_planner
def test_pendulum_is_balanced(case: PlannerCase) -> None:
    problem = pendulum()
    state = torch.tensor([[0.3, 0.0], [-0.2, -0.5]], dtype=torch.float64)
    plan = case.build(horizon=6)(problem, state)
    passive = cost_of(problem, state, torch.zeros(2, 6, 1, dtype=torch.float64))
    assert (plan.cost < 0.2 * passive).all()
    assert (plan.states[:, -1, 0].abs() < 0.3).all()


@each_planner
def test_warm_start_at_the_optimum_does_not_get_worse(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=0.6), states_of(3)
    best = torch.stack([bounded_actions(problem, x, horizon=5) for x in state])
    planner = case.build()
    cold = planner(problem, state)
    optimum = dp.Plan(
        actions=best,
        states=cold.states,
        cost=cost_of(problem, state, best).detach(),
        memory=cold.memory,
    )
    warm = planner(problem, state, warm_start=optimum)
    assert (warm.cost <= optimum.cost * (1 + case.warm_gap)).all()


@each_planner
def test_warm_start_helps(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=0.6), states_of(3)
    good = case.build()(problem, state).detach()
    few = case.build(iterations=2)
    cold, warm = few(problem, state), few(problem, state, warm_start=good)
    assert warm.cost.mean() < cold.cost.mean()


@each_planner
def test_generator_decides_where_noise_is_used(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    plans = [
        case.build(iterations=3)(
            problem, state, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 1)
    ]
    assert torch.equal(plans[0].actions, plans[1].actions) != case.stochastic


@each_planner
def test_cost_trace_falls_and_has_one_entry_per_iteration(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    plan = case.build()(problem, state)
    trace = plan.diagnostics["cost"]
    assert trace.shape == (2, int(plan.iterations[0]))
    assert (trace[:, -1] < trace[:, 0]).all() or not case.feasible_throughout
    assert not trace.requires_grad


@each_planner
def test_failed_rollouts_do_not_spoil_the_others(case: PlannerCase) -> None:
    # Batch element 0 has a cliff behind which the state is NaN: that side is left.
    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        following = state + 0.3 * action
        return torch.where(following > 0.65, torch.nan, following)

    problem = dp.PlanningProblem(
        dynamics,
        dp.objectives.GoalDistance(torch.zeros(1)),
        dp.Box([-1.0], [1.0]),
    )
    plan = case.build(horizon=2)(problem, torch.tensor([[0.5], [-0.5]]))
    assert torch.isfinite(plan.cost[1])
    assert torch.isfinite(plan.actions).all()
    if case.stochastic:
        assert torch.isfinite(plan.cost[0])


@each_planner
def test_dynamics_that_are_always_nan_are_reported(case: PlannerCase) -> None:
    problem = dp.PlanningProblem(
        lambda state, action: (state + action) * torch.nan,
        dp.objectives.GoalDistance(torch.zeros(1)),
        dp.Box([-1.0], [1.0]),
    )
    plan = case.build(horizon=2)(problem, torch.zeros(2, 1))
    assert plan.status.tolist() == [int(dp.Status.NON_FINITE)] * 2
    assert torch.isfinite(plan.actions).all()
    assert "NaN" in plan.explain()


@each_planner
def test_dynamics_of_another_state_size_are_refused(case: PlannerCase) -> None:
    problem, _ = point_mass_problem()
    with pytest.raises(ShapeError, match="state"):
        case.build()(problem, torch.zeros(2, 5))


bounds = st.tuples(
    st.floats(-3, 3, width=32) | st.just(-float("inf")),
    st.floats(0, 2, width=32) | st.just(0.0) | st.just(float("inf")),
)


@each_planner
@settings(max_examples=12, deadline=None, derandomize=True)
@given(sides=st.lists(bounds, min_size=1, max_size=3))
def test_actions_lie_in_any_box(
    case: PlannerCase, sides: list[tuple[float, float]]
) -> None:
    # Sides may be open, and low may equal high.
    sides = sides[: case.action_dim]
    low = torch.tensor([side[0] for side in sides])
    width = torch.tensor([side[1] for side in sides])
    start = torch.where(torch.isfinite(low), low, torch.zeros(()))
    high = start + width
    box = dp.Box(low, high)
    size = len(sides)
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.full((size,), 5.0)),
        box,
    )
    plan = case.build(horizon=2, iterations=2)(problem, torch.zeros(2, size))
    assert box.contains(plan.actions).all()
    assert torch.isfinite(plan.cost).all()


def test_names_are_unique() -> None:
    cases = (*CASES, *CHOOSING)
    assert len({case.name for case in cases}) == len(cases)
