"""Collocation by first-order steps, of states and of observations."""

import pytest
import torch
from planner_cases import Window
from problems import (
    central_difference,
    cost_of,
    double_integrator,
    riccati_actions,
    states_of,
)
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, UnsupportedProblemError
from diffplan.planners import DualAscent, FixedMultiplier

DOUBLE = torch.float64
FIXED = (FixedMultiplier(), FixedMultiplier())


def push(limit: float = 1.0) -> dp.PlanningProblem:
    """One number, moved by twice the action; the last one should be 3."""
    return dp.PlanningProblem(
        lambda state, action: 0.5 * state + 2 * action,
        lambda states, actions: (states[..., -1, 0] - 3).square(),
        dp.Box([-limit], [limit]),
    )


@pytest.mark.parametrize("slack", [True, False])
def test_one_step_is_that_of_pen_and_paper(slack: bool) -> None:
    # x_1 = 1.5, v = 1.2 (outside of [-1, 1], whose unit is 1), x_0 = 1, λ = 2, ν = 3
    noise = torch.tensor([[[1.5, 1.2]]], dtype=DOUBLE)
    planner = dp.FirstOrderLatCo(
        1,
        iterations=1,
        step_size=0.1,
        dual_every=1,
        initial_multipliers=(2.0, 3.0),
        multiplier_rules=(DualAscent(10.0, slack), DualAscent(5.0, slack)),
        fall_back=False,
    )
    plan = planner(push(), torch.ones(1, 1, dtype=DOUBLE), noise=noise)
    defect, beyond = 1.5 - (0.5 + 2.4), 1.2**2 - 1
    by_state = 2 * (1.5 - 3) + 2 * 2 * defect
    by_action = -2 * 2 * 2 * defect + 3 * 2 * 1.2
    # Adam's first direction is the sign of the slope, up to ε.
    expected = [1.5 - 0.1 * by_state / (abs(by_state) + 1e-8)]
    expected.append(1.2 - 0.1 * by_action / (abs(by_action) + 1e-8))
    assert plan.memory["states"].item() == pytest.approx(expected[0], rel=1e-12)
    raw = plan.diagnostics["raw_actions"].item()
    assert raw == pytest.approx(expected[1], rel=1e-12)
    allowed = 1e-4 if slack else 0.0
    multipliers = [2 + 10 * (defect**2 - allowed), 3 + 5 * (beyond - allowed)]
    assert plan.memory["multipliers"].flatten().tolist() == pytest.approx(multipliers)


def test_multipliers_follow_every_so_many_steps() -> None:
    planner = dp.FirstOrderLatCo(2, iterations=7, dual_every=3)
    plan = planner(push(), torch.ones(2, 1, dtype=DOUBLE))
    trace = plan.diagnostics["dynamics_multiplier"]
    changed = (trace[:, 1:] != trace[:, :-1]).all(dim=0)
    assert (trace[:, 0] == 10).all()
    assert changed.tolist() == [False, True, False, False, True, False]


def test_fixed_multipliers_end_in_the_minimum_of_the_penalised_problem() -> None:
    # The oracle is that minimum's linear system: Adam has nothing to do with it.
    problem, state = double_integrator(limit=50.0), states_of(2)
    weight = 3.0
    planner = dp.FirstOrderLatCo(
        3,
        iterations=700,
        step_size=0.05,
        initial_multipliers=(weight, 1.0),
        multiplier_rules=FIXED,
        fall_back=False,
        gradient=dp.Detach(),
    )
    plan = planner(problem, state)

    def penalised(vector: Tensor) -> Tensor:
        states, actions = vector[:6].reshape(3, 2), vector[6:].reshape(3, 1)
        visited = torch.cat([state[0:1], states])
        defect = states - problem.dynamics(visited[:-1], actions)
        cost = problem.objective(visited[None], actions[None])[0]
        return cost + weight * defect.square().sum()

    start = torch.zeros(9, dtype=DOUBLE)
    hessian = torch.func.hessian(penalised)(start)
    minimum = torch.linalg.solve(hessian, -torch.func.grad(penalised)(start))
    got = torch.cat(
        [plan.memory["states"][0].flatten(), plan.diagnostics["raw_actions"][0, :, 0]]
    )
    torch.testing.assert_close(got, minimum, rtol=0, atol=1e-4)


def test_the_linear_regulator_is_met_to_a_thousandth() -> None:
    # Multipliers of squared violations near the optimum as one over them. Adam ends
    # elsewhere with another processor's sums; the worst of 36 starts was 1.5e-4 above.
    problem, state = double_integrator(limit=50.0), states_of(3)
    planner = dp.FirstOrderLatCo.paper(
        2,
        iterations=5000,
        step_size=0.2,
        initial_multipliers=(10.0, 1.0),
        multiplier_rules=(DualAscent(300.0), DualAscent(1.0)),
        dynamics_tolerance=1e-8,
        gradient=dp.Detach(),
    )
    plan = planner(problem, state)
    best = torch.stack([riccati_actions(problem, x, horizon=2) for x in state])
    least = cost_of(problem, state, best)
    assert (plan.cost >= least - 1e-12).all()
    assert (plan.cost <= least * (1 + 1e-3)).all()
    torch.testing.assert_close(plan.actions, best, rtol=0, atol=3e-2)


def test_the_named_settings_are_those_of_paper_and_release() -> None:
    paper, released = dp.FirstOrderLatCo.paper(), dp.FirstOrderLatCo.released()
    for planner in (paper, released):
        assert (planner.iterations, planner.dual_every) == (5000, 5)
        assert (planner.step_size, planner.fall_back) == (0.05, False)
    assert paper.multiplier_rules == (DualAscent(1.5), DualAscent(1.5))
    assert released.multiplier_rules[0] == DualAscent(1.5e4, slack=False)
    assert paper.initial_multipliers == (1.0, 1.0)
    assert released.initial_multipliers == (1e4, 1.0)
    assert [p.action_violation for p in (paper, released)] == ["paper", "released"]
    paper, released = dp.ImageCollocation.paper(), dp.ImageCollocation.released()
    assert (paper.dual_every, released.dual_every) == (5, 1)
    assert paper.step_size == released.step_size == 0.02
    assert [rule.rate for rule in released.multiplier_rules] == [1.0, 100.0]
    assert dp.ImageCollocation.released(5, iterations=3).iterations == 3


# Observations


def test_a_window_on_the_state_is_collocation_of_states() -> None:
    problem, state = double_integrator(limit=0.6), states_of(3)
    options = {"iterations": 40, "gradient": dp.Detach()}
    plan = dp.ImageCollocation(5, Window(), **options)(problem, state)
    expected = dp.FirstOrderLatCo(5, **options)(problem, state)
    torch.testing.assert_close(plan.actions, expected.actions, rtol=0, atol=1e-12)
    for name, value in expected.diagnostics.items():
        torch.testing.assert_close(plan.diagnostics[name], value, rtol=0, atol=1e-9)
    kept = plan.memory["observations"]
    torch.testing.assert_close(kept, expected.memory["states"], rtol=0, atol=1e-12)


class Half:
    """Believes half of what it sees, which is three numbers made of two."""

    mixed = torch.tensor([[1.0, 0.5], [-0.3, 1.0], [0.7, 0.2]], dtype=DOUBLE)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + 0.3 * torch.cat([state[..., 1:].sin(), action], dim=-1)

    def observe(self, state: Tensor, action: Tensor, observation: Tensor) -> Tensor:
        told = (observation @ self.mixed).tanh()
        return 0.5 * self.step(state, action) + 0.5 * told

    def decode(self, state: Tensor) -> Tensor:
        return (state @ self.mixed.mT).tanh()


def half_problem() -> dp.PlanningProblem:
    goal = torch.tensor([0.5, 0.0], dtype=DOUBLE)
    return dp.PlanningProblem(
        Half().step, dp.objectives.GoalDistance(goal), dp.Box([-1.0], [1.0])
    )


def test_slopes_take_the_state_before_for_a_constant() -> None:
    # The loop over time that the paper describes, with `detach`: no two steps at once.
    problem, model, state = half_problem(), Half(), states_of(2)
    planner = dp.ImageCollocation(4, iterations=1, fall_back=False)
    noise = planner.draw_noise(problem, state)
    point = noise.clone().requires_grad_()
    observations, actions = point[..., :3], point[..., 3:]
    visited, violation = [state], 0.0
    for step in range(4):
        action = actions[:, step]
        shown = model.decode(model.step(visited[-1], action))
        violation = violation + (observations[:, step] - shown).square().sum()
        beyond = torch.where(action.abs() > 1, action.square() - 1, 0.0)
        violation = violation + beyond.sum()
        before = visited[-1].detach()
        visited.append(model.observe(before, action, observations[:, step]))
    cost = problem.objective(torch.stack(visited, 1), actions).sum()
    (slope,) = torch.autograd.grad(cost + 10 * violation, point)
    moved = noise - 0.1 * slope / (slope.abs() + 1e-8)
    plan = planner(problem, state, noise=noise)
    got = torch.cat([plan.memory["observations"], plan.diagnostics["raw_actions"]], -1)
    torch.testing.assert_close(got, moved, rtol=0, atol=1e-9)


def test_the_derivative_of_a_plan_knows_what_slopes_do_not() -> None:
    problem, state = half_problem(), states_of(1)
    planner = dp.ImageCollocation(3, iterations=4, dual_every=2, fall_back=False)

    def plan(start: Tensor) -> Tensor:
        return planner(problem, start).actions.cos().sum()

    leaf = state.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plan(leaf), leaf)
    expected = central_difference(plan, state)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_an_rssm_plans_in_its_own_units() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = dp.models.RSSM((5,), 2, belief_size=8, state_size=4, hidden_size=16)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    model.fit_normalizer(100 + 30 * torch.randn(50, 5, generator=generator))
    problem = dp.PlanningProblem(
        model.step,
        dp.objectives.NegativeReturn(model.reward),
        dp.Box([-1.0, -1.0], [1.0, 1.0]),
    )
    state = model.initial_state((3,))
    planner = dp.ImageCollocation(4, iterations=100, gradient=dp.Detach())
    plan = planner(problem, state)
    violation = plan.diagnostics["dynamics_violation"]
    assert (violation[:, -1] < 0.01 * violation[:, 0]).all()
    # What is planned is seen, and seen again gives the planned states.
    planned, before = model.unscale(plan.memory["observations"]), state
    for step in range(4):
        action = plan.diagnostics["raw_actions"][:, step]
        before = model.observe(before, action, planned[:, step])
        got = plan.diagnostics["planned_states"][:, step]
        torch.testing.assert_close(got, before, rtol=1e-5, atol=1e-5)
    warm = planner(problem, state, warm_start=plan.shifted())
    assert warm.memory["observations"].shape == (3, 4, 5)


def test_what_a_model_lacks_is_named() -> None:
    problem, state = push(), torch.zeros(2, 1)
    with pytest.raises(
        UnsupportedProblemError, match="without decode and observe or encode"
    ):
        dp.ImageCollocation(3)(problem, state)
    blind = torch.nn.Module()
    blind.decode = torch.nn.Identity()
    with pytest.raises(ArgumentError, match=r"model: .* Module without observe or enc"):
        dp.ImageCollocation(3, blind)
    blind.encode = torch.nn.Identity()
    plan = dp.ImageCollocation(3, blind, iterations=20)(problem, state)
    expected = dp.FirstOrderLatCo(3, iterations=20)(problem, state)
    torch.testing.assert_close(plan.actions, expected.actions)


@pytest.mark.parametrize("kind", [dp.FirstOrderLatCo, dp.ImageCollocation])
def test_first_multipliers_are_at_least_zero(kind: type[dp.Planner]) -> None:
    for wrong in ((-1.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ArgumentError, match=r"initial_multipliers.* at least 0"):
            kind(3, initial_multipliers=wrong)
    assert kind(3, initial_multipliers=(0.0, 0.0)).initial_multipliers == (0.0, 0.0)
