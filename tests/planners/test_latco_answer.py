"""What collocation answers with costs no more than what it was given."""

import pytest
import torch
from problems import cost_of, double_integrator, pendulum, states_of

import diffplan as dp

HORIZON = 5


PROBLEMS = {
    "double integrator": lambda: double_integrator(limit=0.6),
    "pendulum": pendulum,
}
PLANNERS = {
    "native": lambda: dp.LatCo(HORIZON),
    "theseus": lambda: dp.LatCo(HORIZON, engine="theseus"),
    "wrapped": lambda: dp.AugmentedLagrangian(dp.LatCo(HORIZON)),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("double integrator", "native"),
        ("pendulum", "theseus"),
        ("pendulum", "wrapped"),
    ],
)
def test_the_answer_costs_at_most_a_hundredth_more_than_what_was_given(
    name: str, kind: str
) -> None:
    # At the default settings, whose tolerance lets a plan cheat by more than that.
    if kind == "theseus":
        pytest.importorskip("theseus")
    problem, state, planner = PROBLEMS[name](), states_of(2), PLANNERS[kind]()
    center = problem.action_space.to(state).center.expand(2, HORIZON, -1)
    best = dp.ShootingGN(HORIZON, iterations=30)(problem, state).detach()
    with torch.no_grad():
        cold, warm = planner(problem, state), planner(problem, state, warm_start=best)
        assert (cold.cost <= 1.01 * cost_of(problem, state, center)).all()
        assert (warm.cost <= 1.01 * best.cost).all()


def test_the_warm_start_is_the_answer_with_its_gradient() -> None:
    problem, state = pendulum(), states_of(2)
    best = dp.ShootingGN(HORIZON, iterations=30)(problem, state).detach()
    given = best.actions.requires_grad_()
    plan = dp.LatCo(HORIZON, iterations=20)(problem, state, warm_start=best)
    assert torch.equal(plan.actions, given)
    (slope,) = torch.autograd.grad(plan.actions.sum(), given)
    assert torch.equal(slope, torch.ones_like(given))


def test_without_a_warm_start_the_centre_of_the_box_is_the_answer() -> None:
    problem, state = pendulum(), torch.zeros(2, 2, dtype=torch.float64)
    settings = {"iterations": 0, "init": "rollout"}
    plan = dp.LatCo(HORIZON, **settings)(problem, state)  # else noise
    assert (plan.actions == 0).all()
    assert (plan.cost == 0).all()
    paper = dp.LatCo(HORIZON, **settings, fall_back=False)(problem, state)
    assert (paper.actions != 0).all()
