"""LatCo by the method of multipliers ends at the constrained optimum, and knows it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradient_problems import (
    GradientProblem,
    box,
    cartpole,
    double,
    linear_quadratic,
    pendulum_near_upright,
    quadratic,
    small_rssm,
)
from problems import (
    bounded_actions,
    cost_of,
    double_integrator,
    pendulum,
    riccati_actions,
    states_of,
)
from scipy.optimize import minimize
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, ShapeError, UnsupportedProblemError
from diffplan.planners import MethodOfMultipliers


def planner(horizon: int, **changes: Any) -> dp.LatCo:
    settings = {
        "iterations": 50,
        "multiplier_rule": MethodOfMultipliers(),
        "initial_multipliers": (1e3, 1e3),
        "fall_back": False,
        "gradient": dp.Detach(),
    }
    return dp.LatCo(horizon, **{**settings, **changes})


def seeded() -> torch.Generator:
    """Random states may lead to another local minimum: the same ones each time."""
    return torch.Generator().manual_seed(0)


def tanh_model(half_width: float) -> GradientProblem:
    """A random network of three states, on which full steps do not converge."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    push = torch.randn(3, 2, dtype=torch.float64, generator=generator)

    def make(values: Any) -> dp.PlanningProblem:
        def step(state: Tensor, action: Tensor) -> Tensor:
            return (state @ values["dynamics"].mT + action @ push.mT).tanh()

        return dp.PlanningProblem(
            step, quadratic(values["objective"], 0.1), box(values["bounds"])
        )

    return GradientProblem(
        f"tanh-{half_width}",
        make,
        {
            "dynamics": weight,
            "objective": double([0.5, -0.4, 0.6]),
            "bounds": double([half_width] * 2),
        },
        torch.randn(4, 3, dtype=torch.float64, generator=generator),
    )


@pytest.mark.parametrize("penalty", [1.0, 100.0, 1e3])
@pytest.mark.parametrize("horizon", [5, 20])
def test_linear_quadratic_problems_are_solved_exactly(
    penalty: float, horizon: int
) -> None:
    problem, state = double_integrator(), states_of(4)
    plan = planner(horizon, initial_multipliers=(penalty, penalty))(problem, state)
    best = torch.stack([riccati_actions(problem, x, horizon) for x in state])
    least = cost_of(problem, state, best)
    assert ((plan.cost - least).abs() <= 1e-8 * least).all()
    torch.testing.assert_close(plan.actions, best, rtol=0, atol=1e-8)
    assert (plan.status == int(dp.Status.CONVERGED)).all()


@pytest.mark.parametrize("limit", [0.6, 0.2])
def test_active_limits_are_those_of_scipy(limit: float) -> None:
    problem, state = double_integrator(limit=limit), states_of(4)
    plan = planner(10)(problem, state)
    best = torch.stack([bounded_actions(problem, x, 10) for x in state])
    least = cost_of(problem, state, best)
    assert (best.abs() > limit - 1e-6).any()
    assert ((plan.cost - least).abs() <= 1e-8 * least).all()
    assert (plan.status == int(dp.Status.CONVERGED)).all()


SETS = {
    "ball": (
        dp.constraints.Ball(0.3),
        lambda actions: 0.3**2 - (actions**2).sum(-1),
    ),
    "sum of sizes": (
        dp.constraints.Ball(0.4, norm=1),
        lambda actions: 0.4 - abs(actions).sum(-1),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_constraints_of_users_are_kept_at_the_optimum_of_scipy(name: str) -> None:
    constraint, slack = SETS[name]
    matrix = torch.tensor([[1.0, 0.2], [-0.3, 0.9]], dtype=torch.float64)
    problem = dp.PlanningProblem(
        lambda state, action: state @ matrix.mT + action,
        quadratic(double([0.8, 0.5]), 0.1),
        dp.Box([-0.25, -1.0], [1.0, 1.0]),
        constraints=[constraint],
    )
    state, horizon = states_of(1), 4
    plan = planner(horizon, iterations=100)(problem, state, generator=seeded())
    assert (plan.status == int(dp.Status.CONVERGED)).all()

    def cost(flat: Any) -> float:
        actions = torch.from_numpy(flat).view(1, horizon, 2)
        return float(cost_of(problem, state, actions))

    found = minimize(
        cost,
        0.05 * torch.ones(2 * horizon).double().numpy(),
        method="SLSQP",
        bounds=[(-0.25, 1.0), (-1.0, 1.0)] * horizon,
        constraints={"type": "ineq", "fun": lambda a: slack(a.reshape(horizon, 2))},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert slack(found.x.reshape(horizon, 2)).min() < 1e-6  # active
    assert float(plan.cost) == pytest.approx(found.fun, rel=1e-7)
    assert problem.contains(plan.actions).all()


def test_multipliers_are_the_costates() -> None:
    problem, state = pendulum(), states_of(2)
    plan = planner(6)(problem, state)
    pushes = torch.zeros(2, 6, 2, dtype=torch.float64, requires_grad=True)
    visited = [state]
    for step in range(6):
        following = problem.dynamics(visited[-1], plan.actions[:, step])
        visited.append(following + pushes[:, step])
    cost = problem.trajectory_cost(torch.stack(visited, 1), plan.actions).sum()
    (costates,) = torch.autograd.grad(cost, pushes)
    penalty = plan.memory["multipliers"][..., :1]
    found = penalty * plan.memory["shifts"][..., :2]
    torch.testing.assert_close(found, -costates, rtol=1e-6, atol=1e-8)


NONLINEAR = {
    "pendulum": lambda: (pendulum(), states_of(3), 20),
    **{
        f"{problem.name}-{float(problem.values['bounds'][0])}": (
            lambda problem=problem: (problem.with_values(), problem.state, 8)
        )
        for problem in (
            cartpole(),
            cartpole(0.5),
            pendulum_near_upright(),
            small_rssm(),
            small_rssm(0.3),
            tanh_model(1.0),
            tanh_model(0.3),
        )
    },
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear_problems_end_at_the_cost_of_ilqr(name: str) -> None:
    problem, state, horizon = NONLINEAR[name]()
    with torch.no_grad():
        plan = planner(horizon, iterations=40)(problem, state, generator=seeded())
        other = dp.ILQR(horizon, iterations=200, tolerance=1e-8)(problem, state)
    solved = other.status == int(dp.Status.CONVERGED)
    assert solved.any()
    assert (plan.cost <= other.cost * (1 + 1e-6))[solved].all()
    assert (plan.status == int(dp.Status.CONVERGED))[solved].all()


@pytest.mark.parametrize(
    "problem",
    [
        linear_quadratic(2.0),
        linear_quadratic(0.3),
        tanh_model(3.0),
        tanh_model(0.3),
        pendulum_near_upright(),
        pytest.param(small_rssm(0.3), marks=pytest.mark.slow),
    ],
    ids=lambda problem: f"{problem.name}-{float(problem.values['bounds'].max())}",
)
def test_the_implicit_gradient_is_that_of_the_whole_planner(
    problem: GradientProblem,
) -> None:
    leaves = {k: v.clone().requires_grad_() for k, v in problem.values.items()}
    values = {**leaves, "state": problem.state.clone().requires_grad_()}

    def loss(strategy: dp.GradientStrategy, values: dict[str, Tensor]) -> Tensor:
        numbers = {k: v for k, v in values.items() if k != "state"}
        plan = planner(4, iterations=60, gradient=strategy)(
            problem.with_values(**numbers), values["state"], generator=seeded()
        )
        assert (plan.status == int(dp.Status.CONVERGED)).all()
        return plan.actions.sin().sum() + plan.states.square().sum()

    found = torch.autograd.grad(
        loss(dp.Implicit(), values), list(values.values()), materialize_grads=True
    )
    gradient = dict(zip(values, found, strict=True))
    for names in (("dynamics", "objective"), ("bounds",), ("state",)):
        way = {
            name: (torch.arange(values[name].numel()) + 1.0).sin().view_as(values[name])
            for name in names
        }

        def moved(by: float, way: dict[str, Tensor] = way) -> float:
            changed = {name: values[name] + by * way[name] for name in way}
            with torch.no_grad():
                return float(loss(dp.Detach(), {**values, **changed}))

        difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
        slope = float(sum((gradient[name] * way[name]).sum() for name in names))
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-8), names


def test_unrolling_until_it_converges_gives_the_same_gradient() -> None:
    problem, found = tanh_model(0.5), []
    for strategy in (dp.Unroll(), dp.Implicit()):
        state = problem.state.clone().requires_grad_()
        plan = planner(3, iterations=40, gradient=strategy)(
            problem.with_values(), state, generator=seeded()
        )
        found += torch.autograd.grad(plan.actions.sin().sum(), state)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


def test_few_iterations_claim_no_convergence() -> None:
    plan = planner(5, iterations=1)(pendulum(), states_of(2), generator=seeded())
    assert (plan.status == int(dp.Status.ITERATION_LIMIT)).all()
    assert (plan.diagnostics["stationarity"] > 1e-6).all()


def test_a_penalty_that_is_too_small_grows_and_the_optimum_stays() -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)
    plan = planner(5, initial_multipliers=(1e-2, 1e-2))(problem, state)
    best = torch.stack([bounded_actions(problem, x, 5) for x in state])
    torch.testing.assert_close(plan.actions, best, rtol=0, atol=1e-7)
    assert (plan.diagnostics["dynamics_multiplier"][:, -1] > 1).all()
    assert (plan.diagnostics["dynamics_multiplier"][:, -1] <= 1e4).all()


def test_a_warm_start_goes_on_with_its_multipliers() -> None:
    problem, state = pendulum(), states_of(2)
    first = planner(8)(problem, state)
    again = planner(8, iterations=1, keep_multipliers=True)
    plan = again(problem, state, warm_start=first)
    assert (plan.status == int(dp.Status.CONVERGED)).all()
    forgetful = planner(8, iterations=1)(problem, state, warm_start=first)
    assert (forgetful.status == int(dp.Status.ITERATION_LIMIT)).all()


def test_shifts_of_other_constraints_are_refused_by_name() -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)
    first = planner(3, iterations=1)(problem, state)
    ball = dp.PlanningProblem(
        problem.dynamics,
        problem.objective,
        problem.action_space,
        constraints=[dp.constraints.Ball(0.5)],
    )
    with pytest.raises(ShapeError, match="shifts"):
        planner(3, keep_multipliers=True)(ball, state, warm_start=first)
    with pytest.raises(UnsupportedProblemError, match="constraints"):
        planner(3, gradient=dp.Implicit())(ball, state)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: planner(3, engine="theseus"), "engine"),
        (lambda: planner(3, initial_multipliers=(1.0, 0.0)), "initial_multipliers"),
        (lambda: MethodOfMultipliers(share=0.0), "share"),
        (lambda: MethodOfMultipliers(enough=1.0), "enough"),
        (lambda: MethodOfMultipliers(growth=0.5), "growth"),
        (lambda: MethodOfMultipliers(max_penalty=0.0), "max_penalty"),
        (lambda: MethodOfMultipliers(tolerance=-1.0), "tolerance"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(
    build: Callable[[], Any], name: str
) -> None:
    with pytest.raises(ArgumentError, match=name):
        build()
