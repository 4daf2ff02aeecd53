"""Gaussian LatCo: moments by hand, LatCo without spread, risk, gradients, settings."""

import math
from dataclasses import replace

import pytest
import torch
from problems import states_of
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import Normal

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    UnsupportedGradientError,
    UnsupportedProblemError,
)
from diffplan.objectives._base import ResidualObjective, no_residual
from diffplan.planners import FixedMultiplier
from diffplan.planners.collocation._moments import MomentProblem, balanced
from diffplan.solvers._least_squares import Trajectory

LINEARIZATIONS = ("mean", "samples", "full")
each_linearization = pytest.mark.parametrize("linearization", LINEARIZATIONS)


class Noisy:
    """Dynamics, to whose next state noise of a given spread is added."""

    def __init__(self, dynamics: object, spread: object) -> None:
        self.dynamics, self.spread = dynamics, spread

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return self.dynamics(state, action)

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        mean = self.step(state, action)
        spread = self.spread(mean) if callable(self.spread) else self.spread
        return Normal(mean, spread * torch.ones_like(mean), validate_args=False)


def bent(state: Tensor, action: Tensor) -> Tensor:
    """A pendulum of a kind, with two numbers and one action."""
    angle, speed = state.split(1, dim=-1)
    speed = speed + 0.3 * (angle.sin() + 2 * action.tanh())
    return torch.cat([angle + 0.3 * speed, speed], dim=-1)


def bent_problem(spread: object = 0.2) -> dp.PlanningProblem:
    """Bring it to rest, upright."""
    goal = dp.objectives.GoalDistance(torch.zeros(2, dtype=torch.float64))
    objective = dp.objectives.SumOfResiduals([goal, dp.objectives.ActionPenalty(0.1)])
    model = Noisy(bent, spread)
    return dp.PlanningProblem(model.step, objective, dp.Box([-1.0], [1.0]))


class Stake(ResidualObjective):
    """A lottery: a stake x earns tanh(x) (cos(2 y) - ½) by luck y, on arrival.

    For y ~ N(0, 1) the factor is ½ under the mean and e^-2 - ½ < 0 on average. The cost
    is 4 minus what is earned, so that it is a square.
    """

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return self.terminal_residual(state)

    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return no_residual(state)

    def terminal_residual(self, state: Tensor) -> Tensor:
        stake, luck = state.split(1, dim=-1)
        return (2 * (4 - stake.tanh() * ((2 * luck).cos() - 0.5))).sqrt()


def place(state: Tensor, action: Tensor) -> Tensor:
    """The stake moves by the action; luck is drawn anew."""
    return torch.cat([state[..., :1] + action, torch.zeros_like(action)], dim=-1)


def lottery() -> tuple[dp.PlanningProblem, Tensor]:
    """Four starts of a lottery whose luck has variance 1."""
    spread = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    problem = dp.PlanningProblem(
        Noisy(place, spread).step, Stake(), dp.Box([-0.4], [0.4])
    )
    start = torch.tensor([[0.0, 0.0], [0.3, 0.0], [-0.2, 0.0], [0.5, 0.0]])
    return problem, start.double()


def expected_return(plan: dp.Plan) -> Tensor:
    """Closed form: E cos(2 y) = e^-2 for y ~ N(0, 1)."""
    return plan.states[:, 1:, 0].tanh().sum(dim=1) * (math.exp(-2) - 0.5)


@each_linearization
def test_prefers_what_pays_more_on_average_where_latco_does_not(
    linearization: str,
) -> None:
    problem, state = lottery()
    planner = dp.GaussianLatCo(3, linearization=linearization)
    careful = planner(problem, state)
    blind = dp.LatCo(3)(problem, state)
    # Each stake is the worse the higher it is, on average, and the better by the mean.
    low = torch.full_like(careful.actions, -0.4)
    torch.testing.assert_close(careful.actions, low, rtol=0, atol=1e-3)
    torch.testing.assert_close(blind.actions, -low, rtol=0, atol=1e-3)
    assert (expected_return(careful) > expected_return(blind) + 0.5).all()
    assert careful.succeeded.all()
    assert blind.succeeded.all()
    luck = careful.diagnostics["planned_spreads"][..., 1]
    # What a status of CONVERGED allows.
    assert ((luck - 1).square().mean(dim=1) <= 2e-2).all()


@each_linearization
def test_is_latco_where_the_spread_of_the_model_goes_to_zero(
    linearization: str,
) -> None:
    state, apart = states_of(3), []
    settings = {"iterations": 30, "damping": 1e-3, "fall_back": False}
    for spread in (1e-1, 1e-2, 1e-3, 1e-6):
        problem = bent_problem(spread)
        planner = dp.GaussianLatCo(4, linearization=linearization, **settings)
        noise = planner.draw_noise(problem, state)
        latco = dp.LatCo(4, dynamics_tolerance=1e-2, action_tolerance=1e-2, **settings)
        expected = latco(problem, state, noise=noise[:, :1])
        found = planner(problem, state, noise=noise)
        apart.append((found.actions - expected.actions).abs().max().item())
        if spread == 1e-6:
            for name, value in expected.diagnostics.items():
                torch.testing.assert_close(
                    found.diagnostics[name], value, rtol=1e-7, atol=1e-7
                )
    assert apart[0] > 1e-5  # it does see the larger ones
    # What a spread changes is of its second order.
    assert apart[1] < 0.05 * apart[0]
    assert apart[2] < 0.05 * apart[1]
    assert apart[3] < 1e-8


def test_draws_come_in_pairs_and_have_variance_one() -> None:
    drawn = balanced(torch.randn(3, 25, 4, 2, dtype=torch.float64))
    assert drawn.shape == (3, 50, 4, 2)
    assert torch.equal(drawn[:, :25], -drawn[:, 25:])
    one = torch.ones(3, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(drawn.square().mean(dim=1), one)
    assert torch.equal(balanced(torch.zeros(1, 2, 1)), torch.zeros(1, 4, 1))


@pytest.mark.parametrize("kind", ["moments", "released"])
def test_residuals_are_those_of_a_loop(kind: str) -> None:
    spread = torch.tensor([0.1, 0.3], dtype=torch.float64)
    problem, state = bent_problem(spread), states_of(2)
    noise = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    moments = MomentProblem(problem, state, noise, dynamics_violation=kind)
    drawn, added = balanced(noise[:, :3]), balanced(noise[:, 3:])
    states = torch.randn(2, 3, 4, dtype=torch.float64)
    actions = torch.randn(2, 3, 1, dtype=torch.float64)
    found = moments.residuals(Trajectory(states, actions))
    linear = moments.linearize(Trajectory(states, actions)).residuals
    for one, other in zip(found, linear, strict=True):
        torch.testing.assert_close(one, other)
    for batch in range(2):
        visited = [state[batch].expand(6, 2)]
        for step in range(3):
            mean, sigma = states[batch, step].chunk(2)
            following = bent(visited[-1], actions[batch, step].expand(6, 1))
            following = following + spread * added[batch, :, step]
            gap = mean - following.mean(dim=0)
            misfit = sigma - following.std(dim=0, unbiased=False)
            defect = torch.cat([gap, misfit])
            torch.testing.assert_close(found.defect[batch, step], defect)
            violation = defect.square().sum()
            if kind == "released":
                before = visited[-1].mean(dim=0)
                gap = mean - bent(before, actions[batch, step])
                violation = gap.square().sum()
            torch.testing.assert_close(found.dynamics_violation[batch, step], violation)
            visited.append(mean + sigma * drawn[batch, :, step])
        planned = torch.stack(visited, dim=1)
        cost = problem.trajectory_cost(planned, actions[batch].expand(6, 3, 1)).mean()
        torch.testing.assert_close(found.cost[batch], cost)


@each_linearization
def test_one_iteration_is_a_damped_gauss_newton_step(linearization: str) -> None:
    problem, state = bent_problem(), states_of(1)[0]
    planner = dp.GaussianLatCo(
        3,
        iterations=1,
        num_samples=6,
        linearization=linearization,
        damping=0.1,
        initial_multipliers=(7.0, 3.0),
        multiplier_rule=FixedMultiplier(),
        fall_back=False,
    )
    noise = planner.draw_noise(problem, state)
    drawn, added = balanced(noise[None, 1:4])[0], balanced(noise[None, 4:])[0]
    start = planner(problem, state, noise=noise)
    means = torch.randn(3, 2, dtype=torch.float64)
    spreads = torch.rand(3, 2, dtype=torch.float64)
    memory = {"states": means, "spreads": spreads}
    warm = replace(start, actions=0.7 * start.actions, memory=memory)
    plan = planner(problem, state, warm_start=warm, noise=noise)
    drawn, added = drawn[..., :2], added[..., :2]
    full = linearization == "full"

    def residuals(flat: Tensor) -> Tensor:
        mean, spread = flat[:6].view(3, 2), flat[6:12].view(3, 2)
        actions = flat[12:].view(3, 1)
        given = spread if full else spread.detach()
        mine = torch.cat([state.expand(6, 1, 2), mean + given * drawn], dim=1)
        before, moves = mine[:, :-1], actions.expand(6, 3, 1)
        reached = bent(before, moves) + 0.2 * added
        matched = reached.mean(dim=0)
        if linearization == "mean":
            at = bent(torch.cat([state[None], mean[:-1]]), actions)
            matched = matched.detach() + at - at.detach()
        std = reached.std(dim=0, unbiased=False)
        std = std if full else std.detach()
        cost = problem.objective
        excess = (actions.abs() - 1).clamp_min(0)
        parts = [
            math.sqrt(7) * (mean - matched),
            math.sqrt(7) * (spread - std),
            math.sqrt(3) * excess,
            cost.running_residual(before, moves) / math.sqrt(6),
            cost.terminal_residual(mine[:, -1]) / math.sqrt(6),
        ]
        scale = 1 / (math.sqrt(7) + math.sqrt(3) + 1)
        return scale * torch.cat([part.flatten() for part in parts])

    flat = torch.cat([means.flatten(), spreads.flatten(), warm.actions.flatten()])
    found = jacobian(residuals, flat)
    matrix = found.T @ found + 0.1 * torch.eye(len(flat), dtype=flat.dtype)
    moved = flat - torch.linalg.solve(matrix, found.T @ residuals(flat))
    names = ("planned_states", "planned_spreads", "raw_actions")
    stepped = torch.cat([plan.diagnostics[name].flatten() for name in names])
    torch.testing.assert_close(stepped, moved, rtol=1e-9, atol=1e-9)


class Rising:
    """A linear model whose spread depends on the number of the step."""

    def step(self, state: Tensor, action: Tensor, time: Tensor) -> Tensor:
        return 0.8 * state + action

    def predict(self, state: Tensor, action: Tensor, time: Tensor) -> Normal:
        spread = (0.5 + 0.1 * time).to(state).unsqueeze(-1)
        return Normal(self.step(state, action, time), spread.expand_as(state))


@pytest.mark.parametrize("timed", [False, True])
def test_spreads_follow_the_variance_of_a_linear_model(timed: bool) -> None:
    def linear(state: Tensor, action: Tensor) -> Tensor:
        return 0.8 * state + action

    goal = dp.objectives.GoalDistance(torch.ones(1, dtype=torch.float64))
    model = Rising() if timed else Noisy(linear, 0.5)
    problem = dp.PlanningProblem(model.step, goal, dp.Box([-1.0], [1.0]))
    planner = dp.GaussianLatCo(4, num_samples=4, dynamics_tolerance=1e-12)
    # Draws (1, 1), (1, -1), (-1, -1), (-1, 1): uncorrelated, so that all is exact.
    noise = torch.ones(5, 4, 2, dtype=torch.float64)
    noise[4] = -1
    state = torch.zeros(1, dtype=torch.float64)
    plan = planner(problem, state, noise=noise)
    variance = 0.0
    for step in range(4):
        variance = 0.8**2 * variance + (0.5 + 0.1 * step * timed) ** 2
        found = plan.diagnostics["planned_spreads"][step].item()
        assert found == pytest.approx(math.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize(
    ("linearization", "share"), [("mean", 0.0), ("samples", 0.0), ("full", 1.0)]
)
def test_only_the_whole_gradient_shuns_where_spreads_are_made(
    linearization: str, share: float
) -> None:
    # The spread is as large as the mean: E ½ (x - g)² is least at g / (1 + 1).
    problem = dp.PlanningProblem(
        Noisy(lambda state, action: state + action, torch.abs).step,
        dp.objectives.GoalDistance(torch.full((1,), 0.8, dtype=torch.float64)),
        dp.Box([-1.0], [1.0]),
    )
    planner = dp.GaussianLatCo(
        1,
        iterations=100,
        linearization=linearization,
        dynamics_tolerance=1e-9,
        fall_back=False,
        init="rollout",
    )
    plan = planner(problem, torch.full((1,), 0.1, dtype=torch.float64))
    best = 0.8 / (1 + share)
    assert plan.states[1].item() == pytest.approx(best, abs=1e-3)


@each_linearization
@pytest.mark.parametrize("wrt", ["state", "spread", "gain"])
def test_the_gradient_is_that_of_finite_differences(
    linearization: str, wrt: str
) -> None:
    planner = dp.GaussianLatCo(
        3, iterations=4, num_samples=6, linearization=linearization, fall_back=False
    )
    values = {
        "state": torch.tensor([[0.4, -0.2]], dtype=torch.float64),
        "spread": torch.tensor([0.2, 0.4], dtype=torch.float64),
        "gain": torch.tensor(1.3, dtype=torch.float64),
    }

    def planned(value: Tensor) -> Tensor:
        given = {**values, wrt: value}
        model = Noisy(lambda x, u: bent(given["gain"] * x, u), given["spread"])
        problem = bent_problem()
        problem = dp.PlanningProblem(
            model.step, problem.objective, problem.action_space
        )
        plan = planner(problem, given["state"])
        return torch.cat([plan.actions.flatten(), plan.memory["spreads"].flatten()])

    at = values[wrt].clone().requires_grad_()
    assert torch.autograd.gradcheck(planned, (at,), atol=1e-6)
    assert torch.autograd.gradgradcheck(planned, (at,), atol=1e-4, fast_mode=True)


def test_the_best_start_is_that_of_the_lowest_expected_cost() -> None:
    problem, state = lottery()
    planner = dp.GaussianLatCo(2, iterations=0, num_starts=8, fall_back=False)
    noise = planner.draw_noise(problem, state)
    plan = planner(problem, state, noise=noise)
    # Units of actions are variables times 2 · 0.4 / 1.4.
    starts = (0.8 / 1.4 * noise[:, :8, :, 2:]).clamp(-0.4, 0.4)
    stakes = (state[:, None, :1] + starts.squeeze(-1).cumsum(dim=-1)).tanh()
    best = stakes.sum(dim=-1).argmin(dim=1)  # the mean would take the highest
    expected = starts[torch.arange(4), best]
    torch.testing.assert_close(plan.actions, expected)


def test_falls_back_by_the_expected_cost() -> None:
    problem, state = lottery()
    noise = torch.zeros(4, 51, 2, 3, dtype=torch.float64)
    noise[:, 0, :, 2] = 0.7  # a random start at the upper limit
    noise[:, 1:] = torch.randn(50, 2, 3, dtype=torch.float64)
    for fall_back, expected in ((False, 0.4), (True, 0.0)):
        planner = dp.GaussianLatCo(2, iterations=0, fall_back=fall_back)
        plan = planner(problem, state, noise=noise)
        # The middle of the box costs more by the mean, and less on average.
        torch.testing.assert_close(
            plan.actions, torch.full_like(plan.actions, expected)
        )


def test_multipliers_of_the_release_grow_where_dynamics_bend() -> None:
    problem, state = bent_problem(0.5), states_of(2)
    settings = {
        "iterations": 150,
        "linearization": "mean",
        "dynamics_tolerance": 1e-4,
    }
    released = dp.GaussianLatCo.released(4, **settings)(problem, state)
    paper = dp.GaussianLatCo.paper(4, **settings)(problem, state)
    weight = released.diagnostics["dynamics_multiplier"]
    assert (weight[:, -1] > 2 * weight[:, -50]).all()
    # The paper's rule rests at (1 - 0.01) tolerances.
    violation = paper.diagnostics["dynamics_violation"][:, -1]
    torch.testing.assert_close(
        violation, torch.full_like(violation, 0.99e-4), rtol=1e-2, atol=0
    )
    assert paper.succeeded.all()


def test_a_warm_start_brings_its_spreads_and_one_of_latco_starts_without() -> None:
    problem, state = bent_problem(), states_of(2)
    planner = dp.GaussianLatCo(4)
    plan = planner(problem, state)
    again = dp.GaussianLatCo(4, iterations=0)(problem, state, warm_start=plan)
    assert torch.equal(again.memory["spreads"], plan.memory["spreads"])
    assert plan.shifted().memory["spreads"].shape == (2, 4, 2)
    other = dp.LatCo(4)(problem, state)
    assert planner(problem, state, warm_start=other).succeeded.all()
    assert dp.LatCo(4)(problem, state, warm_start=plan).succeeded.all()


def test_what_it_cannot_do_is_refused_by_name() -> None:
    problem, state = bent_problem(), states_of(2)
    blind = dp.PlanningProblem(bent, problem.objective, problem.action_space)
    with pytest.raises(UnsupportedProblemError, match=r"GaussianLatCo.*Predictable"):
        dp.GaussianLatCo(3)(blind, state)
    with pytest.raises(ArgumentError, match=r"num_samples: expected an even .* got 5"):
        dp.GaussianLatCo(3, num_samples=5)
    with pytest.raises(ArgumentError, match="engine: expected 'native'"):
        dp.GaussianLatCo(3, engine="theseus")
    with pytest.raises(ArgumentError, match=r"multiplier_rule: .*MethodOfMultipliers"):
        dp.GaussianLatCo(3, multiplier_rule=dp.planners.MethodOfMultipliers())
    with pytest.raises(UnsupportedGradientError, match="Implicit"):
        dp.GaussianLatCo(3, gradient=dp.Implicit())
