"""Stochastic problems: closed forms of mean and CVaR, common noise, gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from problems import central_difference, same_to_rounding
from scipy import stats
from scipy.optimize import lsq_linear, minimize_scalar
from torch import Tensor, nn
from torch.distributions import Normal

import diffplan as dp
from diffplan.constraints import Ball, StateConstraint
from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.models import RSSM
from diffplan.planners._evaluation import candidate_costs
from diffplan.planners._randomness import noise_keys
from diffplan.planners.request import PlanRequest

DOUBLE = torch.float64


class NoisyLinear(nn.Module):
    """x' = 0.9 x + B u + spread ε, with spread growing with the action if told to."""

    def __init__(self, spread: float = 0.2, by_action: float = 0.0) -> None:
        super().__init__()
        control = torch.tensor([[1.0, 0.0], [0.2, 0.5]], dtype=DOUBLE)
        self.control = nn.Parameter(control)
        self.spread = nn.Parameter(torch.tensor(spread, dtype=DOUBLE))
        self.by_action = by_action

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        mean = 0.9 * state + action @ self.control.mT.to(action)
        size = action.square().sum(-1, keepdim=True)
        return Normal(mean, (self.spread + self.by_action * size).expand_as(mean))


def last_coordinate(states: Tensor, actions: Tensor) -> Tensor:
    return states[..., -1, 0]


def half_square_of_last(states: Tensor, actions: Tensor) -> Tensor:
    return 0.5 * states[..., -1, 0].square()


def problem_of(
    objective: dp.Objective = last_coordinate,
    *,
    model: object | None = None,
    **changes: object,
) -> dp.StochasticProblem:
    return dp.StochasticProblem(
        NoisyLinear() if model is None else model,
        objective,
        dp.Box([-1.0, -1.0], [1.0, 1.0]),
        **changes,
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=DOUBLE)


# Risk measures


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.35, 0.77, 1.0])
@pytest.mark.parametrize("count", [1, 3, 10, 40])
def test_cvar_is_the_minimum_of_rockafellar_and_uryasev(
    alpha: float, count: int
) -> None:
    costs = draw(5, count)
    got = dp.CVaR(alpha)(costs)
    assert got.shape == (5,)
    for row, value in zip(costs.numpy(), got.tolist(), strict=True):
        # t + mean(max(0, c - t)) / α is smallest at one of the costs.
        least = min(t + np.maximum(row - t, 0).mean() / alpha for t in row)
        assert value == pytest.approx(least, rel=1e-12)
        bounded = minimize_scalar(
            lambda t, row=row: t + np.maximum(row - t, 0).mean() / alpha,
            bounds=(row.min() - 1, row.max() + 1),
            method="bounded",
        )
        assert value <= bounded.fun + 1e-12


def test_cvar_of_everything_is_the_mean_and_of_little_the_worst() -> None:
    costs = draw(4, 10)
    torch.testing.assert_close(dp.CVaR(1.0)(costs), dp.Mean()(costs))
    assert torch.equal(dp.CVaR(1e-9)(costs), costs.amax(-1))
    # 0.3 · 10 is 3.0000000000000004 in floating point: three particles, not four.
    three = costs.topk(3).values.mean(-1)
    torch.testing.assert_close(dp.CVaR(0.3)(costs), three, rtol=1e-14, atol=0)


@pytest.mark.parametrize("measure", [dp.Mean(), dp.CVaR(0.25), dp.CVaR(0.4)], ids=repr)
def test_derivatives_of_risk_measures(measure: Callable[[Tensor], Tensor]) -> None:
    costs = draw(3, 9).requires_grad_()
    assert torch.autograd.gradcheck(measure, (costs,))
    (weights,) = torch.autograd.grad(measure(costs).sum(), costs)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=DOUBLE))
    assert (weights >= 0).all()


def test_failed_particles_make_the_risk_infinite_and_nothing_else() -> None:
    costs = draw(3, 8)
    costs[0, 2], costs[1] = math.inf, math.inf
    assert dp.CVaR(0.25)(costs)[:2].tolist() == [math.inf, math.inf]
    assert torch.isfinite(dp.CVaR(0.25)(costs)[2])
    costs[0, 2] = math.nan
    assert dp.CVaR(0.25)(costs)[0].isnan()


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.5, math.nan])
def test_shares_out_of_range_are_refused(alpha: float) -> None:
    with pytest.raises(ArgumentError, match="alpha"):
        dp.CVaR(alpha)


# Closed forms

PARTICLES = 40_000


def linear_gaussian(state: Tensor, actions: Tensor) -> tuple[float, float]:
    """Mean and deviation of the last first coordinate, by hand."""
    model, mean, variance = NoisyLinear(), state, 0.0
    for action in actions:
        mean = 0.9 * mean + model.control.detach() @ action
        variance = 0.81 * variance + 0.2**2
    return mean[0].item(), math.sqrt(variance)


@pytest.mark.parametrize("alpha", [None, 0.1, 0.5])
def test_risk_of_a_linear_cost(alpha: float | None) -> None:
    state, actions = draw(2), 0.5 * draw(5, 2, seed=1)
    mean, deviation = linear_gaussian(state, actions)
    risk = dp.Mean() if alpha is None else dp.CVaR(alpha)
    problem = problem_of(num_particles=PARTICLES, risk=risk).realize(state, 5)
    expected, error = mean, deviation
    if alpha is not None:
        # E[Z | Z > z] = φ(z) / α for a standard normal tail of mass α.
        z = stats.norm.ppf(1 - alpha)
        tail = stats.norm.pdf(z) / alpha
        expected = mean + deviation * tail
        # Asymptotic variance of the sample CVaR: that of max(0, Z - z) over α².
        first = stats.norm.pdf(z) - z * alpha
        second = (1 + z**2) * alpha - z * stats.norm.pdf(z)
        error = deviation * math.sqrt(second - first**2) / alpha
    got = problem.cost(state, actions).item()
    assert abs(got - expected) < 4 * error / math.sqrt(PARTICLES)


@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_risk_of_a_quadratic_cost(alpha: float) -> None:
    # ½ x² with x ~ N(0, s²) is ½ s² χ²; E[χ²₁; χ²₁ > q] is the tail of χ²₃ beyond q.
    state = torch.zeros(2, dtype=DOUBLE)
    _, deviation = linear_gaussian(state, torch.zeros(4, 2, dtype=DOUBLE))
    problem = problem_of(
        half_square_of_last, num_particles=PARTICLES, risk=dp.CVaR(alpha)
    ).realize(state, 4)
    quantile = stats.chi2.ppf(1 - alpha, df=1)
    half = 0.5 * deviation**2
    expected = half * stats.chi2.sf(quantile, df=3) / alpha
    # E[χ⁴; tail] = 3 P(χ²₅ > q): the variance of max(0, X - q), as above.
    mass, one = alpha, stats.chi2.sf(quantile, df=3)
    two = 3 * stats.chi2.sf(quantile, df=5)
    first = one - quantile * mass
    second = two - 2 * quantile * one + quantile**2 * mass
    error = half * math.sqrt(second - first**2) / alpha
    got = problem.cost(state, torch.zeros(4, 2, dtype=DOUBLE)).item()
    assert abs(got - expected) < 4 * error / math.sqrt(PARTICLES)


@pytest.mark.parametrize(
    "planner",
    [
        dp.GradMPC(
            3, iterations=100, num_starts=1, step_size=0.3, gradient=dp.Detach()
        ),
        dp.ShootingGD(3, iterations=250, step_size=0.03),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_planners_find_the_optimum_of_the_sample_average(planner: dp.Planner) -> None:
    # With its noise drawn the mean of a quadratic cost is a least-squares problem.
    goal = torch.tensor([1.0, -0.5], dtype=DOUBLE)
    objective = dp.objectives.SumOfResiduals(
        [dp.objectives.GoalDistance(goal), dp.objectives.ActionPenalty(0.2)]
    )
    model, state = NoisyLinear(spread=1.0), 0.3 * draw(1, 2)
    problem = problem_of(objective, model=model, num_particles=4)
    plan = planner(problem, state)
    # Without a generator the same noise is drawn again.
    noise = problem.realize(state, 3).noise[0]
    control, rows, right = model.control.detach().numpy(), [], []
    for particle in noise.numpy():
        effect, drift = np.zeros((2, 6)), state[0].numpy()
        for step in range(4):
            rows.append(effect / 2)  # ½ · mean over 4 of squares
            right.append((goal.numpy() - drift) / 2)
            if step < 3:
                effect = 0.9 * effect
                effect[:, 2 * step : 2 * step + 2] += control
                drift = 0.9 * drift + particle[step]
    rows.append(math.sqrt(0.2) * np.eye(6))
    right.append(np.zeros(6))
    bounds = (-np.ones(6), np.ones(6))
    best = lsq_linear(np.vstack(rows), np.concatenate(right), bounds=bounds, tol=1e-14)
    assert plan.cost.item() == pytest.approx(best.cost, rel=1e-6)
    torch.testing.assert_close(
        plan.actions.flatten(), torch.as_tensor(best.x), rtol=0, atol=1e-3
    )


def test_risk_aversion_avoids_noise() -> None:
    # Acting pays on average and spreads the outcome: the tail prefers to act less.
    model = NoisyLinear(spread=0.01, by_action=0.5)
    plans = {
        risk: dp.CEM(2, num_samples=200, num_elites=20)(
            problem_of(model=model, num_particles=400, risk=risk),
            torch.zeros(1, 2, dtype=DOUBLE),
        )
        for risk in (dp.Mean(), dp.CVaR(0.05))
    }
    bold, careful = plans.values()
    assert careful.actions.norm() < 0.8 * bold.actions.norm()
    judge = problem_of(model=model, num_particles=20_000, risk=dp.CVaR(0.05))
    judge = judge.realize(torch.zeros(1, 2, dtype=DOUBLE), 2)
    state = torch.zeros(1, 2, dtype=DOUBLE)
    assert judge.cost(state, careful.actions) < judge.cost(state, bold.actions)


# Common random numbers


class Drift:
    """Noise that grows with the action."""

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        return Normal(state + action, 0.1 + action.abs())


def test_equal_candidates_cost_the_same() -> None:
    state = draw(3, 2)
    problem = problem_of(model=Drift(), num_particles=7).realize(state, 4)
    one = 0.5 * draw(3, 1, 4, 2, seed=1)
    cost = candidate_costs(problem, state, one.expand(-1, 5, -1, -1).clone())
    same_to_rounding(cost, cost[:, :1].expand(-1, 5))
    in_chunks = candidate_costs(problem, state, one.expand(-1, 5, -1, -1), chunk_size=2)
    same_to_rounding(in_chunks, cost)
    torch.testing.assert_close(problem.cost(state, one[:, 0]), cost[:, 0])


def test_each_problem_and_each_particle_has_its_own_noise() -> None:
    state = torch.zeros(3, 2, dtype=DOUBLE)
    problem = problem_of(num_particles=5).realize(state, 4)
    assert problem.noise.shape == (3, 5, 4, 2)
    assert len(problem.noise.unique()) == problem.noise.numel()


def test_particles_by_hand() -> None:
    state, actions = draw(2, 2), 0.5 * draw(2, 3, 4, 2, seed=1)
    model = NoisyLinear(by_action=0.3)
    problem = problem_of(model=model, num_particles=6).realize(state, 4)
    start = state[:, None].expand(-1, 3, -1)
    got = problem.particles(start, actions)
    assert got.shape == (2, 6, 3, 5, 2)
    for b, p, n in np.ndindex(2, 6, 3):
        current = state[b]
        for step in range(4):
            torch.testing.assert_close(got[b, p, n, step], current)
            ahead = model.predict(current, actions[b, n, step])
            current = ahead.mean + ahead.stddev * problem.noise[b, p, step]
        torch.testing.assert_close(got[b, p, n, 4], current)
    costs = problem.particle_costs(start, actions)
    torch.testing.assert_close(costs, got[..., -1, 0].movedim(1, -1))


class Rising:
    """Mean and spread depend on the number of the step, which it needs."""

    def predict(self, state: Tensor, action: Tensor, time: Tensor) -> Normal:
        assert state.shape[-2] == len(time) == action.shape[-2]
        number = time.to(state).unsqueeze(-1)
        return Normal(state + number * action, 0.1 + number.expand_as(state))


@pytest.mark.parametrize("guarded", [False, True])
def test_a_prediction_that_takes_the_time_is_told_it(guarded: bool) -> None:
    """Each number of the state moves by t u_t + (0.1 + t) ε_t in step t."""
    state, actions = draw(3, 2), 0.5 * draw(3, 4, 2, seed=1)
    problem = problem_of(model=Rising(), num_particles=6).realize(state, 4)
    problem.guarded = guarded
    number = torch.arange(4, dtype=DOUBLE)[:, None]
    moves = (number * actions)[:, None] + (0.1 + number) * problem.noise
    expected = state[:, None] + moves.sum(-2)
    got = problem.particles(state, actions)
    torch.testing.assert_close(got[..., -1, :], expected)
    costs = problem.particle_costs(state, actions)
    torch.testing.assert_close(costs, expected[..., 0])
    states, cost = problem.evaluate(state, actions)
    torch.testing.assert_close(states[:, -1], state + (number * actions).sum(-2))
    torch.testing.assert_close(cost, expected[..., 0].mean(1))


def test_plans_for_a_prediction_that_takes_the_time() -> None:
    """Only from step one on can an action move the state."""
    problem, state = problem_of(model=Rising(), num_particles=4), draw(2, 2)
    for planner in (dp.CEM(3, num_samples=64, num_elites=8), dp.GradMPC(3)):
        plan = planner(problem, state)
        assert (plan.actions[:, 1:, 0] < -0.5).all()  # the first number is the cost
        realized = problem.realize(state, 3)
        torch.testing.assert_close(plan.cost, realized.cost(state, plan.actions))


def test_a_prediction_with_data_of_other_steps_is_refused() -> None:
    model = Rising()
    model.only_horizon = 4
    with pytest.raises(ShapeError, match="data for 4 steps"):
        dp.CEM(3)(problem_of(model=model), draw(2, 2))


def test_noise_of_planner_and_dynamics_differ() -> None:
    state = torch.zeros(1, 2, dtype=DOUBLE)
    planner = dp.CEM(4, num_samples=5, num_elites=2, iterations=1)
    problem = problem_of(num_particles=5)
    for keys in (noise_keys(state), torch.tensor([7])):
        realized = problem.realize(state, 4, keys)
        own = planner.noise_from_keys(PlanRequest(realized, state, keys=keys))
        assert own.numel() == realized.noise.numel()
        assert not torch.equal(own.flatten(), realized.noise.flatten())
        shared = np.intersect1d(own.numpy(), realized.noise.numpy())
        assert shared.size == 0


def test_the_generator_decides_the_noise_and_nothing_else_does() -> None:
    planner, problem = dp.GradMPC(3, iterations=3, num_starts=2), problem_of()
    state, before = 0.3 * draw(2, 2), torch.get_rng_state()

    def plan(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return planner(problem, state, generator=generator).cost

    assert torch.equal(plan(None), plan(None))
    assert torch.equal(plan(3), plan(3))
    assert not torch.equal(plan(3), plan(4))
    assert torch.equal(before, torch.get_rng_state())
    assert problem.noise is None  # the given problem is not changed


# Plans


@each_planner_that(
    lambda case: case.build().plans_under_noise and case.action_dim is None
)
def test_plans_for_noisy_dynamics(case: PlannerCase) -> None:
    goal = torch.tensor([0.4, 0.1], dtype=DOUBLE)
    problem = problem_of(
        dp.objectives.GoalDistance(goal),
        num_particles=6,
        risk=dp.CVaR(0.5),
        constraints=[Ball(0.8)],
    )
    planner = case.build(horizon=3, iterations=4)
    state = 0.3 * draw(2, 2)
    plan = planner(problem, state)
    assert problem.contains(plan.actions).all()
    realized = problem.realize(state, 3)
    torch.testing.assert_close(plan.cost, realized.cost(state, plan.actions))
    mean = state
    for step in range(3):
        torch.testing.assert_close(plan.states[:, step], mean)
        mean = NoisyLinear().predict(mean, plan.actions[:, step]).mean
    torch.testing.assert_close(plan.states[:, 3], mean)
    # Alone or in a batch, with or without a leading dimension: the same problem.
    deep = planner(problem, state[None])
    torch.testing.assert_close(deep.cost[0], plan.cost)


@each_planner
def test_planners_of_one_trajectory_refuse_noise(case: PlannerCase) -> None:
    planner = case.build(horizon=3, iterations=2)
    if planner.plans_under_noise:
        return
    with pytest.raises(UnsupportedProblemError, match=r"particles.*shooting"):
        planner(problem_of(dp.objectives.GoalDistance(draw(2))), draw(2, 2))


@pytest.mark.parametrize(
    "planner",
    [
        dp.GradMPC(3, iterations=3, num_starts=2, step_size=0.05),
        dp.MPPI(3, num_samples=6, iterations=2, temperature=1.0),
    ],
    ids=lambda planner: type(planner).__name__,
)
@pytest.mark.parametrize("risk", [dp.Mean(), dp.CVaR(0.5)], ids=repr)
def test_gradients_pass_through_particles(
    planner: dp.Planner, risk: Callable[[Tensor], Tensor]
) -> None:
    model = NoisyLinear(by_action=0.2)
    objective = dp.objectives.GoalDistance(torch.tensor([0.5, 0.2], dtype=DOUBLE))
    problem = problem_of(objective, model=model, num_particles=5, risk=risk)

    def actions(spread: Tensor, state: Tensor) -> Tensor:
        del model.spread  # a parameter; a given tensor takes its place
        model.spread = spread
        return planner(problem, state).actions

    values = (
        torch.tensor(0.2, dtype=DOUBLE, requires_grad=True),
        (0.3 * draw(2, 2)).requires_grad_(),
    )
    assert torch.autograd.gradcheck(actions, values, atol=1e-5, fast_mode=True)


def test_vmap_over_states_equals_a_loop() -> None:
    problem = problem_of(half_square_of_last, num_particles=4, risk=dp.CVaR(0.4))
    planner, states = dp.MPPI(2, num_samples=6, iterations=2), draw(3, 2)

    def plan_from(state: Tensor) -> tuple[Tensor, Tensor]:
        plan = planner(problem, state)
        return plan.actions, plan.cost

    mapped = torch.func.vmap(plan_from, randomness="same")(states)
    for index, state in enumerate(states):
        for got, expected in zip(mapped, plan_from(state), strict=True):
            torch.testing.assert_close(got[index], expected)


def test_the_cost_of_a_detached_plan_has_its_gradient() -> None:
    model, state = NoisyLinear(by_action=0.2), 0.3 * draw(1, 2)
    problem = problem_of(half_square_of_last, model=model, risk=dp.CVaR(0.3))
    plan = dp.CEM(3, num_samples=16, num_elites=4)(problem, state)
    (gradient,) = torch.autograd.grad(plan.cost.sum(), model.spread)
    realized = problem.realize(state, 3)

    def cost(spread: Tensor) -> Tensor:
        with torch.no_grad():
            model.spread.copy_(spread)
        return realized.cost(state, plan.actions).sum()

    expected = central_difference(cost, torch.tensor(0.2, dtype=DOUBLE))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


def test_an_rssm_is_planned_with_its_own_uncertainty() -> None:
    model = RSSM(
        (3,), 2, belief_size=5, state_size=2, hidden_size=6, embedding_size=7
    ).double()
    objective = dp.objectives.NegativeReturn(model.reward)
    box = dp.Box([-1.0, -1.0], [1.0, 1.0])
    state = 0.5 * draw(2, model.state_dim)
    plans = []
    for dynamics in (model, model.step):
        problem = dp.StochasticProblem(dynamics, objective, box, num_particles=4)
        assert problem.find(dp.Predictable) is not None
        planner = dp.GradMPC(3, iterations=2, num_starts=2)
        plans.append(planner(problem, state))
    torch.testing.assert_close(plans[0].actions, plans[1].actions)
    certain = dp.PlanningProblem(model, objective, box)
    states, _ = certain.evaluate(state, plans[0].actions)
    torch.testing.assert_close(plans[0].states, states)
    plans[0].actions.sum().backward()
    assert model.transition is not None
    gradients = [p.grad for p in model.transition.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    # Its belief is certain, so that all particles share its first step's.
    ahead = problem.realize(state, 3).particles(state, plans[0].actions)[:, :, 1]
    assert ahead[..., :2].std(dim=1).min() > 0.01
    assert ahead[..., 2:].std(dim=1).max() < 1e-5


# Refusals


def test_dynamics_without_predict_are_refused() -> None:
    with pytest.raises(UnsupportedProblemError, match=r"dynamics: .*`predict`"):
        dp.StochasticProblem(
            lambda state, action: state + action, last_coordinate, dp.Box([-1.0], [1.0])
        )


def test_predictions_that_are_no_normal_are_refused() -> None:
    class Odd:
        def predict(self, state: Tensor, action: Tensor) -> Tensor:
            return state

    problem = problem_of(model=Odd())
    with pytest.raises(TensorTypeError, match=r"torch\.distributions\.Normal"):
        dp.CEM(2)(problem, draw(2, 2))


@pytest.mark.parametrize(
    "risk",
    [
        lambda costs: costs.mean(0),  # the problems
        lambda costs: costs.mean(1),  # the candidates, if there are any
        lambda costs: costs.mean(),
        lambda costs: costs.mean(-1, keepdim=True),
        lambda costs: costs.float().mean(-1),
        lambda costs: None,
    ],
    ids=["problems", "candidates", "all", "kept", "dtype", "nothing"],
)
@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("build", [dp.CEM, dp.GradMPC])
def test_a_risk_of_other_than_the_particles_is_refused(
    build: type[dp.Planner], size: int, risk: Callable[[Tensor], Tensor]
) -> None:
    """Also where as many candidates, or problems, as particles hide it."""
    options = (
        {"num_samples": size, "num_elites": 2}
        if build is dp.CEM
        else {"num_starts": size}
    )
    problem = problem_of(num_particles=size, risk=risk)
    for batch in (3, size):
        with pytest.raises(DiffplanError, match=r"^risk: expected <lambda> to return"):
            build(2, iterations=1, **options)(problem, draw(batch, 2))


def test_state_constraints_are_refused() -> None:
    wall = StateConstraint(lambda state, action: state)
    with pytest.raises(UnsupportedProblemError, match="constraints on actions only"):
        problem_of(constraints=[wall])


def test_a_problem_without_its_noise_has_no_cost() -> None:
    with pytest.raises(UnsupportedProblemError, match=r"realize\(state, horizon"):
        problem_of().cost(draw(2, 2), draw(2, 3, 2))


def test_noise_of_another_batch_or_horizon_is_refused() -> None:
    problem = problem_of().realize(draw(3, 2), 4)
    with pytest.raises(ShapeError, match=r"lead with \[3\] and a horizon of 4"):
        problem.cost(draw(2, 2), draw(2, 4, 2))
    with pytest.raises(ShapeError, match="horizon of 4"):
        problem.cost(draw(3, 2), draw(3, 5, 2))


def test_a_count_of_no_particles_is_refused() -> None:
    with pytest.raises(ArgumentError, match="num_particles"):
        problem_of(num_particles=0)


def test_deterministic_problems_are_their_own_realization() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action, last_coordinate, dp.Box([-1.0], [1.0])
    )
    assert problem.realize(draw(2, 1), 3) is problem
