"""LatCo: closed forms, local optima, its two engines, its gradient, its settings."""

import math
from collections.abc import Callable

import pytest
import torch
from problems import (
    bounded_actions,
    central_difference,
    double_integrator,
    pendulum,
    riccati_actions,
    states_of,
)
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.objectives import NegativeReturn, SoftplusReward
from diffplan.planners import DualAscent, FixedMultiplier, LogarithmicRule
from diffplan.planners.collocation._primal_dual import (
    Multipliers,
    PrimalDual,
    PrimalDualState,
)
from diffplan.planners.collocation._residuals import TrajectoryProblem
from diffplan.planners.request import PlanRequest
from diffplan.solvers import BlockCholeskySolver, ChainSolver, RiccatiSolver
from diffplan.solvers._least_squares import Trajectory


def small_rssm(dtype: torch.dtype = torch.float64) -> RSSM:
    """An RSSM small enough to differentiate often."""
    return RSSM(
        observation_shape=(3,),
        action_dim=2,
        belief_size=5,
        state_size=2,
        hidden_size=6,
        embedding_size=7,
    ).to(dtype)


def reward_problem(model: RSSM) -> dp.PlanningProblem:
    """Plan for a model's own reward, in the unit box."""
    size = model.action_dim
    box = dp.Box([-1.0] * size, [1.0] * size)
    return dp.PlanningProblem(model.step, SoftplusReward(model.reward), box)


@pytest.mark.parametrize("horizon", [1, 2, 5, 12])
def test_reaches_the_closed_form_optimum_of_a_linear_quadratic_problem(
    horizon: int,
) -> None:
    problem = double_integrator()
    states = states_of()
    # Tight feasibility, little damping: what is left is the distance to the optimum.
    planner = dp.LatCo(
        horizon,
        iterations=60,
        dynamics_tolerance=1e-12,
        damping=5e-8,
        initial_multipliers=(1e4, 1.0),
    )
    plan = planner(problem, states)
    optimal = torch.stack([riccati_actions(problem, x, horizon) for x in states])
    assert (plan.actions - optimal).abs().max() < 1e-5
    assert plan.succeeded.all()


def test_reaches_the_bounded_optimum_when_action_limits_are_hard() -> None:
    problem = double_integrator(limit=0.5)
    states = torch.tensor([[1.0, -1.0], [-0.1, 0.3]], dtype=torch.float64)
    # The multiplier of a limit settles where its violation is 0.9 tolerances; the
    # paper's measure is the squared excess, so 1e-12 allows an excess of 1e-6.
    planner = dp.LatCo.paper(
        5,
        iterations=100,
        dynamics_tolerance=1e-12,
        action_tolerance=1e-12,
        damping=1e-8,
        initial_multipliers=(1e4, 1e4),
        multiplier_rule=LogarithmicRule.released(),
    )
    plan = planner(problem, states)
    optimal = torch.stack([bounded_actions(problem, x, 5) for x in states])
    assert (optimal.abs() > 0.4999).any()
    assert (optimal.abs() < 0.49).any()
    assert (plan.actions - optimal).abs().max() < 1e-5
    assert problem.action_space.contains(plan.actions).all()


def test_finds_the_far_goal_where_shooting_gets_stuck(
    record_property: Callable[[str, object], None],
) -> None:
    from examples.two_goals import run

    returns = run(seeds=24)
    for name, value in returns.items():
        record_property(f"return of {name}", value)
    # At most 25 rewards of 6; whoever stays at the near goal earns at most 25. Shooting
    # starts from random actions, of which about one in four lead far enough.
    assert returns["LatCo"] > 60
    assert returns["LatCo"] > 1.5 * returns["shooting GD"]
    assert returns["CEM"] < 30


@pytest.mark.parametrize("start", ["normal", "rollout"])
def test_both_engines_give_the_same_iterates_on_an_rssm(start: str) -> None:
    pytest.importorskip("theseus")
    problem = reward_problem(small_rssm())
    state = torch.randn(3, 7, dtype=torch.float64)
    for iterations in (0, 1, 3, 25):
        plans = [
            dp.LatCo(6, iterations=iterations, engine=engine, init=start)(
                problem, state
            )
            for engine in ("native", "theseus")
        ]
        for name in ("planned_states", "raw_actions", "dynamics_violation"):
            native, theseus = (plan.diagnostics[name] for plan in plans)
            assert (native - theseus).norm() <= 1e-6 * native.norm()
        native, theseus = (plan.memory["multipliers"] for plan in plans)
        torch.testing.assert_close(native, theseus, rtol=1e-6, atol=0)
        assert torch.equal(plans[0].status, plans[1].status)


@pytest.mark.parametrize("engine", ["native", "theseus"])
def test_the_unrolled_gradient_is_that_of_finite_differences(engine: str) -> None:
    if engine == "theseus":
        pytest.importorskip("theseus")
    model = small_rssm()
    problem = reward_problem(model)
    planner = dp.LatCo(3, iterations=5, engine=engine, dynamics_tolerance=1e-2)
    state = torch.randn(1, 7, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return planner(problem, x).actions.square().sum()

    leaf = state.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(
        gradient, central_difference(loss, state), rtol=1e-6, atol=1e-8
    )


def test_the_unrolled_gradient_reaches_the_model_parameters() -> None:
    model = small_rssm()
    problem = reward_problem(model)
    planner = dp.LatCo(3, iterations=5, dynamics_tolerance=1e-2)
    state = torch.randn(2, 7, dtype=torch.float64)

    def loss() -> Tensor:
        return planner(problem, state).actions.square().sum()

    generator = torch.Generator().manual_seed(1)
    touched = [
        value
        for name, value in model.named_parameters()
        if name.split(".")[0] not in ("encoder", "decoder", "posterior")
    ]
    gradients = torch.autograd.grad(loss(), touched, allow_unused=True)
    directions = [
        torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for value in touched
    ]
    analytic = sum(
        (gradient * direction).sum()
        for gradient, direction in zip(gradients, directions, strict=True)
        if gradient is not None
    )
    values = []
    with torch.no_grad():
        for sign in (1, -2):  # to +h, then to -h
            for value, direction in zip(touched, directions, strict=True):
                value += sign * 1e-6 * direction
            values.append(loss())
    assert analytic != 0
    difference = (values[0] - values[1]) / 2e-6
    torch.testing.assert_close(analytic, difference, rtol=1e-5, atol=0)


def test_normalised_residuals_equal_the_released_step_solved_densely() -> None:
    # The release scales every residual by n = 1/(mean √λ + mean √ν + 1) and solves
    # (2 J'J + 1e-3 I) dx = 2 J'ρ; here the damping rides on the multipliers instead.
    problem = pendulum()
    state = states_of(1)
    start = Trajectory(
        torch.randn(1, 4, 2, dtype=torch.float64),
        2 * torch.randn(1, 4, 1, dtype=torch.float64),
    )
    planner = dp.LatCo(4, iterations=1, initial_multipliers=(7.0, 3.0))
    warm = dp.Plan(
        start.actions,
        torch.cat([state[:, None], start.states], 1),
        torch.zeros(1),
        memory={"states": start.states},
    )
    plan = planner(problem, state, warm_start=warm)

    def residuals(flat: Tensor) -> Tensor:
        states, actions = flat[:8].view(4, 2), flat[8:].view(4, 1)
        previous = torch.cat([state, states[:-1]])
        defect = states - problem.dynamics(previous, actions)
        cost = problem.objective
        stage = cost.running_residual(previous, actions)
        excess = (actions.abs() - 1).clamp_min(0)
        scale = 1 / (math.sqrt(7) + math.sqrt(3) + 1)
        parts = [
            math.sqrt(7) * defect,
            math.sqrt(3) * excess,
            stage,
            cost.terminal_residual(states[-1]),
        ]
        return scale * torch.cat([part.flatten() for part in parts])

    flat = torch.cat([start.states.flatten(), start.actions.flatten()])
    jacobian = torch.autograd.functional.jacobian(residuals, flat)
    matrix = 2 * jacobian.T @ jacobian + 1e-3 * torch.eye(12, dtype=flat.dtype)
    moved = flat - torch.linalg.solve(matrix, 2 * jacobian.T @ residuals(flat))
    found = torch.cat(
        [
            plan.diagnostics["planned_states"].flatten(),
            plan.diagnostics["raw_actions"].flatten(),
        ]
    )
    torch.testing.assert_close(found, moved.detach(), rtol=1e-9, atol=1e-9)


def test_block_cholesky_and_riccati_lead_to_the_same_plan() -> None:
    problem = reward_problem(small_rssm())
    state = torch.randn(2, 7, dtype=torch.float64)
    plans = [
        dp.LatCo(8, iterations=40, solver=solver)(problem, state)
        for solver in (RiccatiSolver(), BlockCholeskySolver())
    ]
    torch.testing.assert_close(plans[0].actions, plans[1].actions, rtol=1e-6, atol=1e-8)


def test_the_violation_settles_at_nine_tenths_of_the_tolerance() -> None:
    # The released rule rests where log10(violation / tolerance + 0.1) = 0.
    problem = double_integrator()
    plan = dp.LatCo(5, iterations=300, dynamics_tolerance=1e-6, damping=0.0)(
        problem, states_of()
    )
    final = plan.diagnostics["dynamics_violation"][:, -1]
    torch.testing.assert_close(final, torch.full_like(final, 0.9e-6), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (LogarithmicRule.released(), 2 + 0.1 * math.log10(0.5 / 0.1 + 0.1) * 2),
        (LogarithmicRule.paper(), 2 + 0.1 * math.log(0.5 / 0.1 + 0.01) * 2),
        (DualAscent(rate=3.0), 2 + 3 * (0.5 - 0.1)),
        (FixedMultiplier(), 2.0),
    ],
)
def test_multiplier_rules_follow_their_formula(rule: object, expected: float) -> None:
    found = rule(torch.tensor(2.0), torch.tensor(0.5), 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_plain_dual_ascent_ends_at_zero() -> None:
    found = DualAscent(rate=30.0)(torch.tensor(2.0), torch.tensor(0.0), 0.1)
    assert found.item() == 0.0


@pytest.mark.parametrize("solver", [RiccatiSolver(), BlockCholeskySolver()])
@pytest.mark.parametrize("rate", [10.0, 100.0])
def test_multipliers_of_zero_keep_no_plan_from_its_optimum(
    solver: ChainSolver, rate: float
) -> None:
    # One action of 1 reaches the goal: what is left is the cost of the first state.
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.ones(1, dtype=torch.float64)),
        dp.Box([-1.0], [1.0]),
    )
    planner = dp.LatCo(
        3,
        multiplier_rule=DualAscent(rate),
        dynamics_tolerance=1e-2,
        fall_back=False,
        solver=solver,
    )
    plan = planner(problem, torch.zeros(30, 1, dtype=torch.float64))
    assert (plan.memory["multipliers"][..., 0] == 0).any()
    assert (plan.status == int(dp.Status.CONVERGED)).all()
    assert (plan.cost >= 0.5 - 1e-12).all()
    assert (plan.cost < 0.5 + planner.dynamics_tolerance).all()


def test_violations_are_those_of_an_explicit_loop() -> None:
    problem = pendulum()
    state = states_of(2)
    trajectory = Trajectory(
        torch.randn(2, 3, 2, dtype=torch.float64),
        2 * torch.randn(2, 3, 1, dtype=torch.float64),
    )
    for kind in ("released", "paper"):
        residuals = TrajectoryProblem(problem, state, kind).residuals(trajectory)
        for batch in range(2):
            previous = state[batch]
            for step in range(3):
                action = trajectory.actions[batch, step]
                gap = trajectory.states[batch, step] - problem.dynamics(
                    previous, action
                )
                found = residuals.dynamics_violation[batch, step].item()
                assert found == pytest.approx((gap**2).sum().item(), rel=1e-12)
                size = abs(action.item())
                expected = {
                    "released": max(0.0, size**2 - 1),
                    "paper": max(0.0, size - 1) ** 2,
                }[kind]
                found = residuals.action_violation[batch, step].item()
                assert found == pytest.approx(expected, rel=1e-12)
                previous = trajectory.states[batch, step]


def test_a_box_with_open_sides_has_finite_violations() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.ones(2)),
        dp.Box([-math.inf, -math.inf], [math.inf, 0.5]),
    )
    plan = dp.LatCo(4, iterations=50)(problem, torch.zeros(2))
    assert plan.succeeded
    assert torch.isfinite(plan.diagnostics["action_violation"]).all()


def test_more_starts_never_cost_more_than_their_first() -> None:
    problem = reward_problem(small_rssm())
    state = torch.randn(2, 7, dtype=torch.float64)
    many = dp.LatCo(6, iterations=20, num_starts=5)(problem, state)
    noise = dp.LatCo(6, iterations=20, num_starts=5).draw_noise(problem, state)
    for index in range(5):
        single = dp.LatCo(6, iterations=20)
        one = single.solve(PlanRequest(problem, state, noise[:, index : index + 1]))
        rolled = dp.functional.rollout(
            problem.dynamics, state, problem.action_space.project(one.actions)
        )
        cost = problem.objective(rolled, problem.action_space.project(one.actions))
        assert (many.cost <= cost + 1e-12).all()


def test_a_warm_start_with_its_multipliers_goes_on_where_it_stopped() -> None:
    problem = reward_problem(small_rssm())
    state = torch.randn(2, 7, dtype=torch.float64)
    whole = dp.LatCo(6, iterations=12)(problem, state)
    half = dp.LatCo(6, iterations=6)(problem, state)
    resumed = dp.LatCo(6, iterations=6, keep_multipliers=True)(
        problem, state, warm_start=_with_raw_actions(half)
    )
    torch.testing.assert_close(
        resumed.diagnostics["planned_states"],
        whole.diagnostics["planned_states"],
        rtol=1e-9,
        atol=1e-9,
    )


def _with_raw_actions(plan: dp.Plan) -> dp.Plan:
    return dp.Plan(
        plan.diagnostics["raw_actions"], plan.states, plan.cost, memory=plan.memory
    )


def test_an_element_that_diverges_is_reported_and_infects_nobody() -> None:
    # Dynamics that are infinite beyond 2, where the second start lies.
    def step(state: Tensor, action: Tensor) -> Tensor:
        return torch.where(state > 2, math.inf, state) + action

    problem = dp.PlanningProblem(
        step, dp.objectives.GoalDistance(torch.ones(1)), dp.Box([-1.0], [1.0])
    )
    both = dp.LatCo(4, iterations=30)(problem, torch.tensor([[0.0], [3.0]]))
    alone = dp.LatCo(4, iterations=30)(problem, torch.zeros(1, 1))
    assert both.succeeded.tolist() == [True, False]
    assert both.status[1] in (dp.Status.NON_FINITE, dp.Status.FACTORIZATION_FAILED)
    assert torch.isfinite(both.actions).all()
    torch.testing.assert_close(both.diagnostics["raw_actions"][0], alone.actions[0])


def test_a_reward_without_residuals_is_refused_by_name() -> None:
    model = small_rssm()
    problem = dp.PlanningProblem(
        model.step, NegativeReturn(model.reward), dp.Box([-1.0] * 2, [1.0] * 2)
    )
    with pytest.raises(dp.errors.UnsupportedProblemError, match="ResidualObjective"):
        dp.LatCo(3)(problem, torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize(
    "setting",
    [
        {"horizon": 0},
        {"iterations": -1},
        {"dynamics_tolerance": 0.0},
        {"damping": -1.0},
        {"num_starts": 0},
        {"initial_multipliers": (-1.0, 1.0)},
        {"initial_multipliers": (0.0, 1.0)},
        {"initial_multipliers": (1.0, -1.0)},
    ],
)
@pytest.mark.parametrize("kind", [dp.LatCo, dp.GaussianLatCo])
def test_settings_out_of_range_are_refused_by_name(
    kind: type[dp.LatCo], setting: dict[str, object]
) -> None:
    with pytest.raises(dp.errors.ArgumentError, match=next(iter(setting))):
        kind(**{"horizon": 3, **setting})


def test_the_first_iterate_takes_no_dual_step() -> None:
    problem = TrajectoryProblem(pendulum(), states_of(1))
    primal_dual = PrimalDual(problem, LogarithmicRule.released(), 1e-4, 1e-4)
    multipliers = Multipliers(
        torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    )
    start = Trajectory(
        torch.zeros(1, 2, 2, dtype=torch.float64),
        torch.zeros(1, 2, 1, dtype=torch.float64),
    )
    damping = torch.ones(1, dtype=torch.float64)
    _, first = primal_dual.linearize(
        start, PrimalDualState(multipliers, problem.all_sound), damping
    )
    assert torch.equal(first.multipliers.dynamics, multipliers.dynamics)
    _, second = primal_dual.linearize(start, first, damping)
    assert not torch.equal(second.multipliers.dynamics, multipliers.dynamics)


def test_paper_and_release_differ_in_the_rule_and_the_measure() -> None:
    """Eq. 10 has the natural logarithm; the code has log10 and Σ max(0, a² - 1)."""
    problem = double_integrator(limit=0.3)
    state, settings = (
        torch.tensor([[2.0, -1.0]], dtype=torch.float64),
        {"iterations": 1},
    )
    noise = dp.LatCo(4).draw_noise(problem, state)
    grown = {}
    for name, planner in {
        "released": dp.LatCo.released(4, **settings),
        "paper": dp.LatCo.paper(4, **settings),
        "default": dp.LatCo(4, **settings),
    }.items():
        memory = planner(problem, state, noise=noise).memory["multipliers"]
        grown[name] = memory[0, :, 0]
        assert planner.fall_back is (name == "default")
    assert torch.equal(grown["released"], grown["default"])
    # λ₁ = 1 + 0.1 log(v / ε + η) with the same violation v: solve one for v.
    scaled = 10 ** ((grown["released"] - 1) / 0.1) - 0.1
    torch.testing.assert_close(grown["paper"], 1 + 0.1 * (scaled + 0.01).log())
    assert dp.LatCo.released(30).iterations == dp.LatCo.paper(30).iterations == 200
