"""The trust region of planners that take Newton's steps: `max_step`."""

from collections.abc import Callable

import pytest
import torch
from planner_cases import LATCO
from problems import double_integrator, pendulum, same_to_rounding, states_of
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError

REACH = 0.05
BUILD: dict[str, Callable[..., dp.Planner]] = {
    "ILQR": dp.ILQR,
    "ShootingGN": dp.ShootingGN,
    "LatCo": lambda *a, **k: dp.LatCo.paper(*a, **{**LATCO, "fall_back": False, **k}),
}
each = pytest.mark.parametrize("name", BUILD)
each_shooting = pytest.mark.parametrize("name", ["ILQR", "ShootingGN"])


def start(problem: dp.PlanningProblem) -> dp.Plan:
    actions = torch.zeros(3, 5, 1, dtype=torch.float64)
    states, cost = problem.evaluate(states_of(3), actions)
    return dp.Plan(actions, states, cost).detach()


@each
def test_no_action_moves_further_in_one_iteration(name: str) -> None:
    for problem in (double_integrator(limit=0.6), pendulum()):
        plan, furthest = start(problem), 0.0
        for _ in range(4):
            planner = BUILD[name](5, iterations=1, max_step=REACH)
            later = planner(problem, states_of(3), warm_start=plan).detach()
            moved = (later.actions - plan.actions).abs().amax()
            furthest = max(furthest, float(moved))
            assert moved <= REACH + 1e-12
            plan = later
        assert furthest > 0.9 * REACH  # it is what limits the steps here


@each
def test_the_optimum_is_reached_in_more_iterations(name: str) -> None:
    problem, state = double_integrator(limit=0.6), states_of(3)
    iterations = 60 if name == "LatCo" else 15
    free = BUILD[name](5, iterations=iterations)(problem, state)
    limited = BUILD[name](5, iterations=iterations, max_step=0.2)(problem, state)
    torch.testing.assert_close(limited.actions, free.actions, rtol=1e-4, atol=1e-5)


@each
def test_a_wide_trust_region_changes_nothing(name: str) -> None:
    problem, state = pendulum(), states_of(3)
    free = BUILD[name](5, iterations=4)(problem, state)
    wide = BUILD[name](5, iterations=4, max_step=1e3)(problem, state)
    same_to_rounding(wide.actions, free.actions)


@each_shooting
def test_it_is_met_with_the_bounds_as_a_narrower_box(name: str) -> None:
    # The oracle: one iteration in the box that both leave.
    problem, state = pendulum(), states_of(3)
    reach = 0.7
    given = start(problem)
    narrow = dp.PlanningProblem(
        problem.dynamics, problem.objective, dp.Box([-reach], [reach])
    )
    one = BUILD[name](5, iterations=1)(narrow, state, warm_start=given)
    limited = BUILD[name](5, iterations=1, max_step=reach)(
        problem, state, warm_start=given
    )
    same_to_rounding(limited.actions, one.actions)


@each
@pytest.mark.parametrize("engine", ["native", "theseus"])
def test_limited_steps_are_differentiable(name: str, engine: str) -> None:
    options = {"iterations": 3, "max_step": REACH, "gradient": dp.Unroll()}
    if engine == "theseus":
        if name != "LatCo":
            pytest.skip("has one engine")
        pytest.importorskip("theseus")
        options["engine"] = engine
    problem, planner = pendulum(), BUILD[name](5, **options)

    def loss(state: Tensor) -> Tensor:
        return planner(problem, state).actions.sin().sum()

    state = states_of(2).requires_grad_()
    (slope,) = torch.autograd.grad(loss(state), state)
    assert (slope != 0).any() or name != "LatCo"
    way = torch.tensor([[0.3, -0.7], [0.5, 0.2]], dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = loss(state + 1e-6 * way), loss(state - 1e-6 * way)
    difference = (ahead - behind) / 2e-6
    torch.testing.assert_close((slope * way).sum(), difference, rtol=1e-4, atol=1e-6)


@each_shooting
def test_the_implicit_gradient_does_not_know_it(name: str) -> None:
    slopes = []
    for reach in (None, REACH):
        state = states_of(2).requires_grad_()
        planner = BUILD[name](5, iterations=60, max_step=reach, gradient=dp.Implicit())
        plan = planner(pendulum(), state)
        slopes += torch.autograd.grad(plan.actions.sin().sum(), state)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-6, atol=1e-8)


@each
@pytest.mark.parametrize("reach", [0.0, -1.0, float("nan")])
def test_what_is_no_length_is_refused(name: str, reach: float) -> None:
    with pytest.raises(ArgumentError, match="max_step"):
        BUILD[name](5, max_step=reach)


@pytest.mark.compiled
@each
def test_limited_steps_compile(name: str) -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)
    planner = BUILD[name](2, iterations=1, max_step=REACH)
    noise = planner.draw_noise(problem, state)
    request = dp.planners.PlanRequest(problem, state, noise)
    solve = torch.compile(planner.solve, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(solve(request).actions, planner.solve(request).actions)
