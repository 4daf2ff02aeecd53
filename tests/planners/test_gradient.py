"""Gradient planners against torch.optim and hand-written descent."""

import pytest
import torch
from problems import (
    bounded_actions,
    central_difference,
    cost_of,
    double_integrator,
    pendulum,
    riccati_actions,
    states_of,
)
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.planners import GradMPC, ShootingGD
from diffplan.planners.request import PlanRequest


def start_at(actions: Tensor, state: Tensor) -> dp.Plan:
    """A warm start with the given actions `[B, T, A]`."""
    states = state[:, None].expand(-1, actions.shape[1] + 1, -1)
    return dp.Plan(actions, states, torch.zeros(len(actions), dtype=actions.dtype))


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_descent_equals_torch_optim(
    optimizer: str, reference: type[torch.optim.Optimizer]
) -> None:
    problem, state = pendulum(), states_of(2)
    start = torch.linspace(-0.9, 0.8, 8, dtype=torch.float64).reshape(2, 4, 1)
    leaf = start.clone().requires_grad_()
    descent = reference([leaf], lr=0.05)
    trace = []
    for _ in range(30):
        descent.zero_grad()
        cost = cost_of(problem, state, leaf)
        cost.sum().backward()
        trace.append(cost.detach())
        descent.step()
        with torch.no_grad():
            leaf.clamp_(-1, 1)
    planner = GradMPC(
        4,
        iterations=30,
        num_starts=1,
        step_size=0.05,
        optimizer=optimizer,
        keep_best=False,
    )
    plan = planner(problem, state, warm_start=start_at(start, state))
    torch.testing.assert_close(plan.actions, leaf.detach(), rtol=0, atol=1e-10,
                               check_stride=False)  # fmt: skip
    torch.testing.assert_close(
        plan.diagnostics["cost"], torch.stack(trace, dim=-1), rtol=0, atol=1e-10
    )


def test_shooting_is_adam_from_normal_starts() -> None:
    problem, state = pendulum(), states_of(2)
    planner = ShootingGD(4, iterations=25, num_starts=1, keep_best=False)
    start = planner.draw_noise(problem, state)[:, 0]
    twin = GradMPC(
        4,
        iterations=25,
        num_starts=1,
        step_size=0.05,
        optimizer="adam",
        keep_best=False,
    )
    expected = twin(problem, state, warm_start=start_at(start, state))
    assert torch.equal(planner(problem, state).actions, expected.actions)


def test_meta_gradient_equals_hand_unrolled_descent() -> None:
    problem = double_integrator(limit=10.0)
    state = states_of(1)
    start = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64).reshape(1, 3, 1)
    goal = problem.objective.goal
    planner = GradMPC(3, iterations=5, num_starts=1, step_size=0.03)
    plan = planner(problem, state, warm_start=start_at(start, state))
    actions = start.clone().requires_grad_()
    for _ in range(5):
        cost = cost_of(problem, state, actions).sum()
        (gradient,) = torch.autograd.grad(cost, actions, create_graph=True)
        actions = actions - 0.03 * gradient
    torch.testing.assert_close(plan.actions, actions)
    expected = torch.autograd.grad(actions.square().sum(), goal)
    got = torch.autograd.grad(plan.actions.square().sum(), goal)
    torch.testing.assert_close(got, expected)


def test_meta_gradient_equals_finite_differences() -> None:
    state = states_of(1)
    planner = GradMPC(3, iterations=6, num_starts=3, step_size=0.03, clip=0.5)

    def answer(goal: Tensor) -> Tensor:
        problem = double_integrator(limit=10.0)
        problem.objective.goal = torch.nn.Parameter(goal)
        return planner(problem, state).actions.square().sum(), problem.objective.goal

    goal = torch.tensor([0.4, -0.1], dtype=torch.float64)
    value, leaf = answer(goal)
    (gradient,) = torch.autograd.grad(value, leaf)
    expected = central_difference(lambda g: answer(g)[0], goal)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_lqr_is_solved_with_and_without_bounds() -> None:
    state = states_of(1)
    for limit, oracle in ((float("inf"), riccati_actions), (0.6, bounded_actions)):
        problem = double_integrator(limit=limit)
        plan = ShootingGD(5, iterations=400, step_size=0.1)(problem, state)
        best = oracle(problem, state[0], 5)
        torch.testing.assert_close(plan.actions[0], best, rtol=0, atol=1e-4)


def test_riccati_and_bounded_least_squares_agree() -> None:
    problem, state = double_integrator(), states_of(2)
    for start in state:
        torch.testing.assert_close(
            riccati_actions(problem, start, 6), bounded_actions(problem, start, 6)
        )


def test_the_cheapest_candidate_is_the_answer() -> None:
    # Two basins: u = -1 (cost 0) and u = 1 (cost 0.5), divided at 0.
    def objective(states: Tensor, actions: Tensor) -> Tensor:
        u = actions[..., 0, 0]
        return torch.minimum((u + 1).square(), (u - 1).square() + 0.5)

    problem = dp.PlanningProblem(
        lambda state, action: state + action, objective, dp.Box([-2.0], [2.0])
    )
    planner = GradMPC(1, iterations=60, num_starts=32, step_size=0.1)
    plan = planner(problem, torch.zeros(4, 1))
    torch.testing.assert_close(plan.action, -torch.ones(4, 1), rtol=0, atol=1e-3)
    costs = plan.diagnostics["candidate_cost"]
    assert costs.shape == (4, 32)
    torch.testing.assert_close(costs.amin(-1), plan.cost)
    assert (costs.amax(-1) > 0.4).all()
    single = GradMPC(1, iterations=60, num_starts=1, step_size=0.1)
    start = start_at(torch.full((4, 1, 1), 0.7), torch.zeros(4, 1))
    stuck = single(problem, torch.zeros(4, 1), warm_start=start)
    torch.testing.assert_close(stuck.action, torch.ones(4, 1), rtol=0, atol=1e-3)


def test_uniform_starts_fill_the_box() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        lambda states, actions: states.square().sum((-1, -2)),
        dp.Box([-1.0, 2.0], [3.0, 4.0]),
    )
    planner = ShootingGD(1, iterations=0, num_starts=4000, init="uniform")
    noise = planner.draw_noise(problem, torch.zeros(1, 2))
    request = PlanRequest(problem, torch.zeros(1, 2), noise)
    points = planner.starting_points(request).reshape(4000, 2)
    assert problem.action_space.contains(points).all()
    torch.testing.assert_close(
        points.mean(0), torch.tensor([1.0, 3.0]), rtol=0, atol=0.05
    )
    # A uniform variable on [low, high] has standard deviation (high - low) / √12.
    torch.testing.assert_close(
        points.std(0), torch.tensor([4.0, 2.0]) / 12**0.5, rtol=0.03, atol=0
    )


def test_clipping_bounds_each_step() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + 100 * action,
        lambda states, actions: states[..., -1, 0].square(),
        dp.Box([-50.0], [50.0]),
    )
    start = start_at(torch.full((1, 2, 1), 3.0), torch.zeros(1, 1))
    planner = GradMPC(2, iterations=1, num_starts=1, step_size=0.1, clip=1.0)
    plan = planner(problem, torch.zeros(1, 1), warm_start=start)
    torch.testing.assert_close(plan.actions, torch.full((1, 2, 1), 2.9))


@pytest.mark.parametrize(
    ("planner", "name", "value"),
    [
        (ShootingGD, "horizon", 0),
        (ShootingGD, "iterations", -1),
        (ShootingGD, "step_size", 0.0),
        (ShootingGD, "num_starts", 0),
        (GradMPC, "horizon", -1),
        (GradMPC, "num_starts", 0),
        (GradMPC, "step_size", float("nan")),
        (GradMPC, "clip", 0.0),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(
    planner: type[dp.Planner], name: str, value: object
) -> None:
    with pytest.raises(ArgumentError, match=name):
        planner(**{"horizon": 3, name: value})


def test_the_papers_sizes_have_names() -> None:
    grad_mpc, cem = dp.GradMPC.paper(), dp.CEM.planet()
    assert (grad_mpc.horizon, grad_mpc.num_starts) == (12, 1000)
    assert grad_mpc.iterations == 40
    assert (cem.horizon, cem.num_samples, cem.num_elites) == (12, 1000, 100)
    assert dp.GradMPC.paper(7, num_starts=3).num_starts == 3


def test_the_former_name_of_the_starts_is_taken_and_told() -> None:
    with pytest.warns(FutureWarning, match="num_starts"):
        planner = dp.GradMPC(2, num_candidates=3)  # type: ignore[call-arg]
    assert planner.num_starts == 3
    with (
        pytest.warns(FutureWarning, match="num_starts"),
        pytest.raises(ArgumentError, match="num_starts"),
    ):
        dp.GradMPC(2, num_candidates=3, num_starts=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="num_starts"):
        dp.GradMPC(2, num_starts=0)
