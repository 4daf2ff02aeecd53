"""Planning with choices, against enumeration and hand computation."""

import itertools

import numpy as np
import pytest
import torch
from problems import gear_problem, mixed_gear_problem
from scipy.optimize import lsq_linear
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import UnsupportedProblemError
from diffplan.planners._evaluation import candidate_costs
from diffplan.planners._randomness import noise_keys
from diffplan.planners.sampling._distributions import SMOOTHING, WARM_SHARE, as_gaussian

MANY = {"num_samples": 300, "iterations": 10}
PLANNERS = {
    "CEM": lambda horizon: dp.CEM(horizon, num_elites=30, **MANY),
    "DCEM": lambda horizon: dp.DCEM(
        horizon, num_elites=30, temperature=0.1, gradient=dp.Detach(), **MANY
    ),
    "MPPI": lambda horizon: dp.MPPI(
        horizon, num_samples=2000, iterations=15, temperature=0.03, gradient=dp.Detach()
    ),
}


def all_sequences(horizon: int, options: int) -> Tensor:
    """Every sequence of choices, one-hot, `[options^horizon, T, options]`."""
    index = torch.tensor(list(itertools.product(range(options), repeat=horizon)))
    return nn.functional.one_hot(index, options).double()


@pytest.mark.parametrize("name", PLANNERS)
def test_the_best_of_all_sequences_is_found(name: str) -> None:
    problem, state = gear_problem()
    every = all_sequences(6, 3).expand(3, -1, -1, -1)  # 729
    cost, best = candidate_costs(problem, state, every).min(dim=1)
    plan = PLANNERS[name](6)(problem, state)
    torch.testing.assert_close(plan.cost, cost)
    assert torch.equal(plan.actions, every[0][best])


@pytest.mark.parametrize("name", PLANNERS)
def test_mixed_actions_against_a_least_squares_for_each_sequence(name: str) -> None:
    # x' = x + u + shift of the gear; the cost is Σ (x_t - r_t)², u in [-0.1, 0.1].
    shifts = torch.tensor([-0.6, 0.1, 0.5], dtype=torch.float64)
    # The second best sequence costs six times as much as the best.
    reference = torch.tensor([0.19, -0.73, 0.06], dtype=torch.float64)
    problem = dp.PlanningProblem(
        lambda state, action: (
            state + action[..., :1] + (action[..., 1:] * shifts).sum(-1, keepdim=True)
        ),
        lambda states, actions: (states[..., 1:, 0] - reference).square().sum(-1),
        dp.Categorical(3, box=dp.Box([-0.1], [0.1])),
    )
    least = min(
        2
        * lsq_linear(np.tri(3), reference.numpy() - np.cumsum(moves), (-0.1, 0.1)).cost
        for moves in itertools.product(shifts.tolist(), repeat=3)
    )
    plan = PLANNERS[name](3)(problem, torch.zeros(1, dtype=torch.float64))
    assert least - 1e-12 <= float(plan.cost) <= 1.01 * least


def test_samples_have_their_probabilities() -> None:
    # Φ of noise on a fine grid is uniform, so that frequencies are almost exact.
    space, count = dp.Categorical(3), 400
    chances = torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    normal = torch.special.ndtri(u)
    others = torch.tensor([0.3, -0.8], dtype=torch.float64)
    # P(first chosen | g_2, g_3) = P(log p_1 + g_1 > m) = 1 - exp(-p_1 exp(-m)).
    noise = torch.cat([normal[:, None], others.expand(count, 2)], dim=-1)
    mean, std, gumbel = as_gaussian(
        space, chances[None, None], torch.ones(1, 1, 3).double(), noise[None, :, None]
    )
    assert torch.equal(std, torch.ones_like(std))
    drawn = space.project(mean.unsqueeze(1) + gumbel)[0, :, 0]
    rest = (chances[1:].log() - (-torch.special.ndtr(others).log()).log()).max()
    expected = 1 - torch.exp(-chances[0] * torch.exp(-rest))
    assert abs(float(drawn[:, 0].mean() - expected)) <= 1 / count


def test_frequencies_of_many_samples() -> None:
    space = dp.Categorical(3, 2)
    planner = dp.CEM(1, num_samples=20000, num_elites=20000, iterations=1)
    problem = dp.PlanningProblem(
        lambda state, action: state, lambda states, actions: states[..., 0, 0], space
    )
    even = planner(problem, torch.zeros(1, dtype=torch.float64))
    warm = planner(problem, torch.zeros(1, dtype=torch.float64), warm_start=even)
    start = WARM_SHARE * even.actions[0] + (1 - WARM_SHARE) * space.center
    for plan, chances in ((even, space.center), (warm, start)):
        got = plan.diagnostics["probabilities"][0]
        deviation = (chances * (1 - chances) / 20000).sqrt()
        assert ((got - chances).abs() < 5 * deviation + 1e-4).all()


def test_one_refit_by_hand() -> None:
    problem, state = gear_problem()
    planner = dp.CEM(2, num_samples=40, num_elites=5, iterations=1)
    seen = []
    plan = planner(problem, state, callback=seen.append)
    tried, cost = seen[0].actions.numpy(), seen[0].cost.numpy()
    assert tried.shape == (3, 41, 2, 3)  # the likeliest sequence is tried too
    for row in range(3):
        elites = tried[row][np.argsort(cost[row], kind="stable")]
        # ties between equal sequences change nothing, others would
        worst = np.sort(cost[row])[4]
        assert (np.sort(cost[row])[5] > worst) or len(
            np.unique(tried[row][cost[row] == worst], axis=0)
        ) == 1
        expected = (1 - SMOOTHING) * elites[:5].mean(axis=0) + SMOOTHING / 3
        got = plan.diagnostics["probabilities"][row]
        torch.testing.assert_close(got, torch.as_tensor(expected))
        assert plan.cost[row] == cost[row].min()


def test_temperature_zero_is_the_cross_entropy_method() -> None:
    problem, state = mixed_gear_problem()
    shared = {"num_samples": 50, "num_elites": 6, "iterations": 5}
    hard = dp.CEM(4, epsilon=0.0, **shared)(problem, state)
    soft = dp.DCEM(4, temperature=1e-9, **shared)(problem, state)
    torch.testing.assert_close(soft.actions, hard.actions, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        soft.diagnostics["probabilities"], hard.diagnostics["probabilities"]
    )


@pytest.mark.parametrize("name", ["DCEM", "MPPI"])
@pytest.mark.parametrize("make", [gear_problem, mixed_gear_problem])
def test_probabilities_have_their_exact_derivative(name: str, make: object) -> None:
    problem, state = make()
    state, options = state[:1], {"num_samples": 20, "iterations": 2}
    if name == "DCEM":
        options["num_elites"] = 4
    goal = problem.objective.goal.clone()

    def probabilities(temperature: Tensor, goal: Tensor, state: Tensor) -> Tensor:
        planner = getattr(dp, name)(3, temperature=temperature, **options)
        objective = dp.objectives.GoalDistance(goal)
        given = dp.PlanningProblem(problem.dynamics, objective, problem.action_space)
        plan = planner(given, state)
        return plan.diagnostics["probabilities"]

    inputs = [
        torch.tensor(0.5, dtype=torch.float64, requires_grad=True),
        goal.requires_grad_(),
        state.clone().requires_grad_(),
    ]
    assert torch.autograd.gradcheck(probabilities, inputs)
    slopes = torch.autograd.grad(probabilities(*inputs).square().sum(), inputs)
    assert all(slope.abs().max() > 1e-4 for slope in slopes)


def test_second_derivatives_of_probabilities() -> None:
    problem, state = gear_problem()

    def probabilities(temperature: Tensor) -> Tensor:
        planner = dp.DCEM(
            2, num_samples=12, num_elites=3, iterations=2, temperature=temperature
        )
        return planner(problem, state[:1]).diagnostics["probabilities"]

    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(probabilities, (temperature,))


def test_actions_have_the_derivative_of_the_probabilities() -> None:
    problem, state = gear_problem()
    leaf = state.clone().requires_grad_()
    plan = dp.DCEM(3, num_samples=30, num_elites=5, temperature=0.5)(problem, leaf)
    weights = torch.linspace(-1, 1, plan.actions.numel()).double()
    weights = weights.reshape(plan.actions.shape)
    slopes = [
        torch.autograd.grad((value * weights).sum(), leaf, retain_graph=True)[0]
        for value in (plan.actions, plan.diagnostics["probabilities"])
    ]
    assert torch.equal(*slopes)
    assert (slopes[0] != 0).any()


def test_choices_that_are_impossible_are_not_made() -> None:
    problem, state = gear_problem()

    def cost(states: Tensor, actions: Tensor) -> Tensor:
        # the strong drive never follows the brake
        illegal = (actions[..., :-1, 0] * actions[..., 1:, 2]).sum(-1) > 0
        return torch.where(illegal, torch.inf, problem.objective(states, actions))

    legal = dp.PlanningProblem(problem.dynamics, cost, problem.action_space)
    every = all_sequences(4, 3).expand(3, -1, -1, -1)
    least = candidate_costs(legal, state, every).amin(dim=1)
    for planner in PLANNERS.values():
        torch.testing.assert_close(planner(4)(legal, state).cost, least)


def test_limits_of_states_beside_choices() -> None:
    problem, state = gear_problem()

    def speed(states: Tensor, actions: Tensor) -> Tensor:
        return states[..., 1:].abs() - 0.45

    limit = dp.constraints.StateConstraint(speed)
    limited = dp.PlanningProblem(
        problem.dynamics, problem.objective, problem.action_space, [limit]
    )
    planner = dp.AugmentedLagrangian(PLANNERS["CEM"](4), outer_iterations=4)
    plan = planner(limited, state)
    every = all_sequences(4, 3).expand(3, -1, -1, -1)
    start = state[:, None].expand(-1, every.shape[1], -1)
    states, cost = problem.evaluate(start, every)
    kept = (states[..., :-1, 1].abs() <= 0.45 + 1e-4).all(-1)
    least = torch.where(kept, cost, torch.inf).amin(1)
    torch.testing.assert_close(plan.cost, least)


def test_no_option_is_lost() -> None:
    problem, state = gear_problem()
    plan = dp.CEM(3, num_samples=8, num_elites=1, iterations=20)(problem, state)
    assert (plan.diagnostics["probabilities"] > 0).all()
    assert torch.isfinite(plan.cost).all()


def test_constraints_beside_choices_are_refused() -> None:
    plain, state = gear_problem()
    ball = dp.constraints.Ball(1.0)
    problem = dp.PlanningProblem(
        plain.dynamics, plain.objective, plain.action_space, [ball]
    )
    with pytest.raises(UnsupportedProblemError, match="constraints: expected none"):
        dp.CEM(3)(problem, state)


def test_random_dynamics_beside_choices() -> None:
    problem, state = gear_problem()

    class Shaky:
        def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(problem.dynamics(state, action), 0.2)

    shaky = dp.StochasticProblem(
        Shaky(), problem.objective, problem.action_space, num_particles=5
    )
    plan = PLANNERS["CEM"](3)(shaky, state)
    every = all_sequences(3, 3).expand(3, -1, -1, -1)
    realized = shaky.realize(state, 3, noise_keys(state))
    least = candidate_costs(realized, state, every).amin(dim=1)
    torch.testing.assert_close(plan.cost, least)


@pytest.mark.parametrize("make", [gear_problem, mixed_gear_problem])
def test_vmap_maps_over_choices(make: object) -> None:
    problem, state = make()
    planner = dp.DCEM(3, num_samples=20, num_elites=4, iterations=3)
    expected = [planner(problem, one).actions for one in state]
    got = torch.func.vmap(lambda one: planner(problem, one).actions)(state)
    torch.testing.assert_close(got, torch.stack(expected))


@pytest.mark.compiled
@pytest.mark.parametrize("make", [gear_problem, mixed_gear_problem])
def test_choices_compile_into_one_graph(make: object) -> None:
    problem, state = make()
    planner = dp.DCEM(3, num_samples=20, num_elites=4, iterations=3)
    cold = planner(problem, state).detach()
    warm = planner(problem, state, warm_start=cold.shifted())
    planner.compile(fullgraph=True, backend="aot_eager")
    for got, expected in (
        (planner(problem, state), cold),
        (planner(problem, state, warm_start=cold.shifted()), warm),
    ):
        torch.testing.assert_close(got.actions, expected.actions)
        torch.testing.assert_close(got.cost, expected.cost)
