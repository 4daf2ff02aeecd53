"""The differentiable cross-entropy method against hand computation and its limits."""

import numpy as np
import pytest
import torch
from problems import (
    central_difference,
    double_integrator,
    pendulum,
    states_of,
)
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.planners import CEM, DCEM
from diffplan.planners._evaluation import candidate_costs
from diffplan.planners.request import PlanRequest
from diffplan.planners.sampling.dcem import _standardized

SMALL = {"num_samples": 12, "num_elites": 3, "iterations": 3}


def weights_by_hand(cost: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Elite weights of one row of costs, by standard deviation and root finding."""
    x = -(cost - cost.mean()) / (cost.std(ddof=1) + 1e-6) / temperature
    shift = brentq(lambda s: expit(x + s).sum() - k, -1e3, 1e3, xtol=1e-14)
    return expit(x + shift) / k


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_one_iteration_by_hand(temperature: float) -> None:
    problem, state = double_integrator(limit=0.75), states_of(2)
    planner = DCEM(
        3, num_samples=30, num_elites=4, iterations=1, temperature=temperature
    )
    noise = planner.draw_noise(problem, state)
    found = planner.solve(PlanRequest(problem, state, noise))
    candidates = (0.75 * noise[:, 0]).clamp(-0.75, 0.75)
    assert (candidates.abs() == 0.75).any()  # what is evaluated is averaged
    cost = candidate_costs(problem, state, candidates).detach().numpy()
    for row in range(2):
        weights = weights_by_hand(cost[row], 4, temperature)
        x = candidates[row].numpy()
        mean = np.einsum("n,nta->ta", weights, x)
        std = np.sqrt(np.einsum("n,nta->ta", weights, (x - mean) ** 2))
        for got, expected in (
            (found.actions[row], mean),
            (found.memory["std"][row], std),
            (found.diagnostics["cost"][row, 0], (weights * cost[row]).sum()),
            (found.diagnostics["best_cost"][row, 0], cost[row].min()),
        ):
            expected = torch.as_tensor(expected)
            torch.testing.assert_close(got.detach(), expected, rtol=1e-9, atol=1e-12)


def test_the_unbounded_quadratic_of_the_authors() -> None:
    # Their unit test: 2 dimensions, 100 samples, 50 elites, 40 iterations, τ = 1. The
    # factor keeps the costs above the floor of the standardisation, where search ends.
    target = torch.tensor([0.4, -0.7], dtype=torch.float64)
    problem = dp.PlanningProblem(
        lambda state, action: action,
        lambda states, actions: 1e3 * (states[..., -1, :] - target).square().sum(-1),
        dp.Box([-torch.inf] * 2, [torch.inf] * 2),
    )
    planner = DCEM(1, num_samples=100, num_elites=50, iterations=40)
    plan = planner(problem, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(plan.action.detach(), target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("standardize", [True, False])
def test_temperature_zero_is_the_cross_entropy_method(standardize: bool) -> None:
    problem, state = pendulum(), states_of(3)
    shared = {"num_samples": 50, "num_elites": 6, "iterations": 5}
    hard = CEM(4, epsilon=0.0, **shared)(problem, state)
    soft = DCEM(4, temperature=1e-9, standardize=standardize, **shared)(problem, state)
    torch.testing.assert_close(soft.actions, hard.actions, rtol=1e-12, atol=1e-12)
    for name, value in hard.diagnostics.items():
        torch.testing.assert_close(soft.diagnostics[name], value)


def test_temperature_infinity_averages_all_candidates() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = DCEM(3, num_samples=20, num_elites=2, iterations=1, temperature=1e9)
    noise = planner.draw_noise(problem, state)
    found = planner.solve(PlanRequest(problem, state, noise))
    candidates = noise[:, 0].clamp(-1, 1)
    torch.testing.assert_close(found.actions, candidates.mean(dim=1))


def test_as_many_elites_as_samples_average_all() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = DCEM(3, num_samples=9, num_elites=9, iterations=1)
    noise = planner.draw_noise(problem, state)
    found = planner.solve(PlanRequest(problem, state, noise))
    torch.testing.assert_close(found.actions, noise[:, 0].clamp(-1, 1).mean(dim=1))
    single = DCEM(2, num_samples=1, num_elites=1, iterations=2)(problem, state)
    assert torch.isfinite(single.actions).all()


# --- weights --------------------------------------------------------------------------


def test_standardised_costs_do_not_depend_on_scale_and_offset() -> None:
    cost = torch.tensor([[1.0, 2.0, 4.0, 7.0]], dtype=torch.float64)
    planner = DCEM(1, num_samples=4, num_elites=2)
    torch.testing.assert_close(
        planner.weigh(cost), planner.weigh(1e3 * cost - 50), rtol=1e-5, atol=0
    )
    huge = planner.weigh(1e30 * cost.float())  # its square is infinite
    torch.testing.assert_close(huge, planner.weigh(cost).float())
    raw = DCEM(1, num_samples=4, num_elites=2, standardize=False)
    torch.testing.assert_close(raw.weigh(cost), raw.weigh(cost - 50))
    expected = dp.functional.lml(-cost, 2) / 2
    torch.testing.assert_close(raw.weigh(cost), expected)


@pytest.mark.parametrize("count", [2, 3, 100])
def test_costs_whose_sum_overflows_are_standardised(count: int) -> None:
    most, share = 3.4e38, torch.linspace(0, 7, 3 * count).sin().reshape(3, count)
    share[:, -1] = 1.0
    cost = (most * share).requires_grad_()
    standard = _standardized(cost)
    exact = cost.detach().double().numpy()
    mean, std = exact.mean(-1, keepdims=True), exact.std(-1, ddof=1, keepdims=True)
    torch.testing.assert_close(standard, torch.tensor((exact - mean) / std).float())
    # Oracle of the derivative: the same costs in units in which they are small.
    small, pull = share.double().requires_grad_(), share.flip(-1).cos()
    (gradient,) = torch.autograd.grad((standard * pull).sum(), cost)
    (wanted,) = torch.autograd.grad((_standardized(small) * pull).sum(), small)
    torch.testing.assert_close(most * gradient, wanted.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("walled", [True, False])
def test_costs_whose_sum_overflows_are_planned_with(walled: bool) -> None:
    def plan(size: float) -> dp.Plan:
        def objective(states: Tensor, actions: Tensor) -> Tensor:
            x, square = states[..., -1, 0], (states[..., -1, 0] - 1).square()
            return torch.where(x < 0, size, square) if walled else size / 9 * square

        problem = dp.PlanningProblem(lambda x, u: x + u, objective, dp.Box([-1], [1]))
        return DCEM(2)(problem, torch.zeros(1))

    assert plan(3e38).status == int(dp.Status.COMPLETED)
    torch.testing.assert_close(plan(3e38).actions, plan(1e30).actions)


def test_standardised_costs_have_mean_zero_and_unbiased_deviation_one() -> None:
    cost = torch.tensor([[1.0, 2.0, 4.0, 7.0], [3.0, 3.0, 3.0, 3.0]])
    standard = _standardized(cost.double())
    torch.testing.assert_close(standard.mean(-1), torch.zeros(2).double())
    # the floor of 1e-6 takes off less than one part in a million
    expected = torch.tensor(1.0).double()
    torch.testing.assert_close(standard[0].std(), expected, rtol=1e-6, atol=0)
    assert (standard[1] == 0).all()


@pytest.mark.parametrize("straight_through", [False, True])
def test_infinite_costs_are_as_if_they_were_not_there(straight_through: bool) -> None:
    planner = DCEM(1, num_samples=6, num_elites=2, straight_through=straight_through)
    cost = torch.tensor([[1.0, torch.inf, 2.0, 4.0, torch.inf, 3.5]])
    finite = [0, 2, 3, 5]
    cost.requires_grad_()
    weights = planner.weigh(cost)
    alone = cost.detach()[:, finite].requires_grad_()
    expected = planner.weigh(alone)
    torch.testing.assert_close(weights[:, finite], expected)
    assert (weights[:, [1, 4]] == 0).all()
    pull = torch.arange(6.0)
    (gradient,) = torch.autograd.grad((weights * pull).sum(), cost)
    (wanted,) = torch.autograd.grad((expected * pull[finite]).sum(), alone)
    torch.testing.assert_close(gradient[:, finite], wanted)
    assert (gradient[:, [1, 4]] == 0).all()


@pytest.mark.parametrize("straight_through", [False, True])
def test_too_few_finite_costs_share_the_weight(straight_through: bool) -> None:
    planner = DCEM(1, num_samples=4, num_elites=3, straight_through=straight_through)
    inf = torch.inf
    cost = torch.tensor(
        [[5.0, inf, 1.0, inf], [inf, 2.0, inf, inf], [inf, inf, inf, inf]]
    ).requires_grad_()
    weights = planner.weigh(cost)
    assert weights.tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.25] * 4]
    (gradient,) = torch.autograd.grad((weights * torch.arange(4.0)).sum(), cost)
    assert (gradient == 0).all()


def test_a_failed_rollout_leaves_the_other_elements_alone() -> None:
    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        following = state + action
        return torch.where(following > 0.8, torch.nan, following)

    objective = dp.objectives.GoalDistance(torch.full((1,), 0.7).double())
    problem = dp.PlanningProblem(dynamics, objective, dp.Box([-1.0], [1.0]))
    state = torch.tensor([[0.5], [-0.9]], dtype=torch.float64).requires_grad_()
    planner = DCEM(1, **SMALL)
    plan = planner(problem, state)
    healthy = planner(problem, state.detach()[[1, 1]])  # the same noise for element 1
    torch.testing.assert_close(plan.actions[1].detach(), healthy.actions[1].detach())
    assert torch.isfinite(plan.cost).all()
    (gradient,) = torch.autograd.grad(plan.actions.sum(), state)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


# --- bounds, warm start, settings -----------------------------------------------------


def test_each_dimension_has_its_own_bounds() -> None:
    seen = []

    def objective(states: Tensor, actions: Tensor) -> Tensor:
        seen.append(actions.detach())
        return (actions - 5.0).square().sum((-1, -2))

    low, high = [-0.5, 0.0, -torch.inf], [0.25, 3.0, 1.0]
    box = dp.Box(torch.tensor(low).double(), torch.tensor(high).double())
    problem = dp.PlanningProblem(lambda x, u: x, objective, box)
    plan = DCEM(2, num_samples=300, num_elites=15, temperature=0.1)(
        problem, torch.zeros(2, 1, dtype=torch.float64)
    )
    assert all(box.contains(actions).all() for actions in seen)
    assert box.contains(plan.actions).all()
    expected = torch.tensor(high, dtype=torch.float64).expand(2, 2, 3)
    torch.testing.assert_close(plan.actions.detach(), expected, rtol=0, atol=0.02)


def test_a_warm_start_is_the_first_mean() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = DCEM(3, initial_std=1e-9, iterations=1)
    warm = planner(problem, state).detach()
    start = torch.linspace(-0.9, 0.9, 6, dtype=torch.float64).reshape(2, 3, 1)
    moved = dp.Plan(start, warm.states, warm.cost, memory=warm.memory)
    plan = planner(problem, state, warm_start=moved)
    torch.testing.assert_close(plan.actions.detach(), start, rtol=0, atol=1e-7)


def test_every_iteration_is_run_for_every_element() -> None:
    # No early stop: an element that has converged does not hold the others.
    problem, state = double_integrator(limit=1.0), states_of(3)
    planner = DCEM(2, iterations=25, temperature=0.05)
    plan = planner(problem, state)
    assert (plan.iterations == 25).all()
    for index in range(3):
        alone = planner(problem, state[index])
        torch.testing.assert_close(plan.cost[index], alone.cost, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_elites", 0),
        ("num_elites", 101),
        ("num_samples", 0),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", torch.tensor(0.0)),
        ("temperature", float("nan")),
        ("iterations", -1),
        ("initial_std", 0.0),
        ("chunk_size", 0),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=name):
        DCEM(**{"horizon": 3, name: value})


# --- derivatives ----------------------------------------------------------------------


def plan_of(
    planner: DCEM, state: Tensor, push: Tensor, goal: Tensor, temperature: Tensor
) -> Tensor:
    """Actions for a point that drifts, with every number as an argument."""
    problem = dp.PlanningProblem(
        lambda x, u: x + push * u + 0.1 * x.sin(),
        lambda states, actions: (
            (states - goal).square().sum((-1, -2))
            + 0.1 * actions.square().sum((-1, -2))
        ),
        dp.Box([-2.0], [2.0]),
    )
    number = {"temperature": temperature}
    return torch.func.functional_call(planner, number, (problem, state)).actions


@pytest.mark.parametrize("standardize", [True, False])
def test_first_and_second_derivatives(standardize: bool) -> None:
    planner = DCEM(
        2,
        temperature=nn.Parameter(torch.tensor(0.5, dtype=torch.float64)),
        standardize=standardize,
        initial_std=0.4,
        **SMALL,
    )
    leaves = tuple(
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in ([[0.3], [-0.4]], 0.7, [0.6], 0.5)
    )

    def actions(*values: Tensor) -> Tensor:
        return plan_of(planner, *values)

    assert torch.autograd.gradcheck(actions, leaves)
    assert torch.autograd.gradgradcheck(actions, leaves, atol=1e-4, fast_mode=True)


def test_truncated_keeps_the_gradient_of_the_last_iterations() -> None:
    # Its plan is that of a planner which starts, without a graph, where the cut is.
    problem, state = pendulum(), states_of(2).requires_grad_()
    settings = {"num_samples": 12, "num_elites": 3, "temperature": 0.5}
    planner = DCEM(2, iterations=3, gradient=dp.Truncated(1), **settings)
    noise = planner.draw_noise(problem, state)
    found = planner.solve(PlanRequest(problem, state, noise))
    first = DCEM(2, iterations=2, **settings)
    with torch.no_grad():
        cut = first.solve(PlanRequest(problem, state, noise[:, :2]))
    candidates = cut.actions[:, None] + cut.memory["std"][:, None] * noise[:, 2]
    candidates = problem.action_space.project(candidates)
    weights = planner.weigh(candidate_costs(problem, state, candidates))
    mean = (weights[..., None, None] * candidates).sum(1)
    torch.testing.assert_close(found.actions, mean)
    torch.testing.assert_close(
        torch.autograd.grad(found.actions.sum(), state),
        torch.autograd.grad(mean.sum(), state),
    )


def test_a_collapsed_spread_has_a_finite_gradient() -> None:
    problem, state = double_integrator(limit=1.0), states_of(1).requires_grad_()
    planner = DCEM(3, num_samples=10, num_elites=1, iterations=4, temperature=1e-9)
    plan = planner(problem, state)
    assert (plan.memory["std"] < 1e-15).any()
    (gradient,) = torch.autograd.grad(plan.cost.sum(), state)
    assert torch.isfinite(gradient).all()


def test_the_temperature_can_be_learned() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    temperature = nn.Parameter(torch.tensor(1.0))
    planner = DCEM(3, num_samples=50, num_elites=5, iterations=3)
    planner.temperature = temperature
    before = planner(problem, state).cost.sum()
    before.backward()
    assert temperature.grad > 0
    with torch.no_grad():
        temperature -= 0.1
    assert planner(problem, state).cost.sum() < before


def test_straight_through_plans_like_the_cross_entropy_method() -> None:
    problem, state = pendulum(), states_of(3)
    shared = {"num_samples": 50, "num_elites": 6, "iterations": 5}
    hard = CEM(4, epsilon=0.0, **shared)(problem, state)
    plan = DCEM(4, straight_through=True, **shared)(problem, state)
    torch.testing.assert_close(plan.actions, hard.actions, rtol=1e-12, atol=1e-12)


def test_straight_through_takes_the_derivative_of_the_projection() -> None:
    # Oracle: finite differences of a planner whose weights are the hard ones of the
    # base point plus the change of the soft ones since then.
    problem, state = pendulum(), states_of(1)
    # Far from the bounds: where all elites are clipped, their spread has a kink.
    settings = {**SMALL, "temperature": 0.7, "initial_std": 0.2}
    planner = DCEM(2, straight_through=True, **settings)
    noise = planner.draw_noise(problem, state)
    base: list[tuple[Tensor, Tensor]] = []

    class Surrogate(DCEM):
        """Weights that move with the soft choice."""

        def weigh(self, cost: Tensor) -> Tensor:
            soft = super().weigh(cost)
            if recording:
                hard = dp.functional.hard_top_k(-cost, 3) / 3
                base.append((hard, soft))
                return hard
            hard, soft_then = base[len(used)]
            used.append(cost)
            return hard + (soft - soft_then)

    surrogate = Surrogate(2, **settings)
    recording, used = True, []
    surrogate.solve(PlanRequest(problem, state, noise))
    recording = False

    def total(x: Tensor) -> Tensor:
        used.clear()
        return surrogate.solve(PlanRequest(problem, x, noise)).actions.sum()

    leaf = state.clone().requires_grad_()
    actions = planner.solve(PlanRequest(problem, leaf, noise)).actions
    (gradient,) = torch.autograd.grad(actions.sum(), leaf)
    expected = central_difference(total, state)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    assert (gradient != 0).any()
