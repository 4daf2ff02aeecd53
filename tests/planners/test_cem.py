"""The cross-entropy method against closed forms."""

import pytest
import torch
from problems import double_integrator, one_step, riccati_actions, states_of

import diffplan as dp
from diffplan.errors import ArgumentError, ShapeError
from diffplan.planners import CEM
from diffplan.planners.request import PlanRequest
from diffplan.planners.sampling import loop


def test_one_step_quadratic_reaches_the_optimum() -> None:
    # u* = clip(target - x): one dimension inside the box, one at its bound.
    target = torch.tensor([0.3, 2.0])
    plan = CEM(1, num_samples=500, num_elites=25, iterations=15)(
        one_step(target), torch.tensor([0.1, 0.1])
    )
    torch.testing.assert_close(plan.action, torch.tensor([0.2, 1.0]), rtol=0, atol=2e-3)


def test_lqr_without_bounds_is_solved() -> None:
    # Open sides: the spread starts at one.
    problem, state = double_integrator(), states_of(1)
    plan = CEM(4, num_samples=2000, num_elites=100, iterations=30)(problem, state)
    best = riccati_actions(problem, state[0], horizon=4)
    torch.testing.assert_close(plan.actions[0], best, rtol=0, atol=5e-3)


def test_one_iteration_is_the_mean_and_biased_std_of_the_elites() -> None:
    problem = one_step(torch.tensor([0.5], dtype=torch.float64))
    state = torch.zeros(1, 1, dtype=torch.float64)
    planner = CEM(1, num_samples=20, num_elites=4, iterations=1, epsilon=1e-6)
    noise = planner.draw_noise(problem, state, keys=torch.tensor([3]))
    found = planner.solve(PlanRequest(problem, state, noise))
    candidates = noise.flatten().clamp(-1, 1)
    elites = candidates[(candidates - 0.5).abs().argsort()[:4]]
    torch.testing.assert_close(found.actions.flatten()[0], elites.mean())
    std = (elites.var(correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(found.memory["std"].flatten()[0], std)
    cost = 0.5 * (elites - 0.5).square()
    torch.testing.assert_close(found.diagnostics["cost"][0, 0], cost.mean())
    torch.testing.assert_close(found.diagnostics["best_cost"][0, 0], cost.min())


def test_initial_std_and_warm_start_place_the_first_candidates() -> None:
    problem = one_step(torch.tensor([0.0, 0.0]), low=-5.0, high=5.0)
    state = torch.zeros(1, 2)
    std = torch.tensor([0.1, 2.0])
    planner = CEM(1, num_samples=5000, num_elites=5000, iterations=1, initial_std=std)
    start = dp.Plan(torch.ones(1, 1, 2), torch.zeros(1, 2, 2), torch.zeros(1))
    plan = planner(problem, state, warm_start=start)
    torch.testing.assert_close(plan.action[0], torch.ones(2), rtol=0, atol=0.1)
    torch.testing.assert_close(plan.memory["std"][0, 0], std, rtol=0.05, atol=0)


def test_noise_beyond_the_limit_is_drawn_in_each_iteration_and_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = CEM(3, num_samples=200, num_elites=20, iterations=10)
    expected = planner(problem, state)
    monkeypatch.setattr(loop, "_NOISE_LIMIT", 1000)
    noise = planner.draw_noise(problem, state)
    assert noise.shape == (2,)
    assert not noise.is_floating_point()
    assert torch.equal(planner(problem, state).actions, expected.actions)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_chunks_do_not_change_the_answer(chunk_size: int) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    arguments = {"num_samples": 64, "num_elites": 8, "iterations": 3}
    whole = CEM(3, **arguments)(problem, state)
    parts = CEM(3, **arguments, chunk_size=chunk_size)(problem, state)
    torch.testing.assert_close(parts.actions, whole.actions)


def test_zero_iterations_give_the_box_centre() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    plan = CEM(3, iterations=0)(problem, state)
    assert torch.equal(plan.actions, torch.zeros(2, 3, 1, dtype=torch.float64))
    assert plan.diagnostics["cost"].shape == (2, 0)


def test_objective_without_one_cost_per_trajectory_is_refused() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        lambda states, actions: states.square().sum(-1),
        dp.Box([-1.0], [1.0]),
    )
    with pytest.raises(ShapeError, match="objective"):
        CEM(3, num_samples=5, num_elites=2)(problem, torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("horizon", 0),
        ("num_samples", 0),
        ("num_elites", 0),
        ("num_elites", 1001),
        ("iterations", -1),
        ("initial_std", 0.0),
        ("initial_std", float("nan")),
        ("initial_std", torch.tensor([0.1, -0.1])),
        ("noise_exponent", -0.5),
        ("epsilon", -1e-6),
        ("chunk_size", 0),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=name):
        CEM(**{"horizon": 3, name: value})
