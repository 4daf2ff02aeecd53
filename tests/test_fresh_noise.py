"""Problems that draw anew for each candidate and iteration: by hand, and on average."""

import math
from collections.abc import Callable

import pytest
import torch
from planner_cases import PlannerCase, each_planner_that
from problems import same_to_rounding
from torch import Tensor, nn
from torch.distributions import Normal

import diffplan as dp
from diffplan.functional._random import fold, standard_normal
from diffplan.planners import candidate_costs
from diffplan.planners._randomness import noise_keys
from diffplan.stochastic import _PARTICLES
from diffplan.testing import _planners as checks
from diffplan.testing import point_mass_problem

DOUBLE = torch.float64
GOAL = torch.tensor([1.0, 0.5], dtype=DOUBLE)


class Gusty(nn.Module):
    """x' = 0.9 x + B u + spread (1 + |u|²) ε."""

    def __init__(self, spread: float = 0.3, control: Tensor | None = None) -> None:
        super().__init__()
        if control is None:
            control = torch.tensor([[1.0], [0.4]], dtype=DOUBLE)
        self.control = nn.Parameter(control)
        self.spread = nn.Parameter(torch.tensor(spread, dtype=DOUBLE))
        self.by_action = True

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        mean = 0.9 * state + action @ self.control.mT
        size = action.square().sum(-1, keepdim=True) if self.by_action else 0.0
        return Normal(mean, (self.spread * (1 + size * torch.ones_like(mean))))


def gusty(model: Gusty | None = None, **changes: object) -> dp.StochasticProblem:
    options = {"num_particles": 1, "common_noise": False, **changes}
    return dp.StochasticProblem(
        model or Gusty(),
        dp.objectives.GoalDistance(GOAL),
        dp.Box([-1.0], [1.0]),
        **options,
    )


def starts() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(3, 2, generator=generator, dtype=DOUBLE)


def drawn(state: Tensor, shape: tuple[int, ...], iteration: int) -> Tensor:
    """The noise `[B, N, P, T, S]`, from the keys of a call without a generator."""
    keys = fold(fold(noise_keys(state), _PARTICLES), iteration)
    return standard_normal(
        fold(keys[:, None], torch.arange(shape[0])), shape[1:], state
    )


def test_algorithm_1_by_hand() -> None:
    """Sampled rollouts, a gradient step of each candidate, the best of the last."""
    model, state = Gusty(), starts()
    planner = dp.GradMPC(4, num_starts=5, iterations=3, step_size=0.05, keep_best=False)
    problem = gusty(model)
    seen: list[Tensor] = []
    plan = planner(problem, state, callback=lambda shown: seen.append(shown.actions))
    actions = seen[0].clone()  # N(0, 1), brought into the box
    for iteration in range(4):
        noise = drawn(state, (5, 1, 4, 2), iteration)[:, :, 0]
        actions = actions.detach().requires_grad_()
        now, cost = state[:, None].expand(-1, 5, -1), torch.zeros(3, 5, dtype=DOUBLE)
        for step in range(4):
            ahead = model.predict(now, actions[:, :, step])
            now = ahead.mean + ahead.stddev * noise[:, :, step]
            cost = cost + 0.5 * (now - GOAL).square().sum(-1)
        cost = cost + 0.5 * (state - GOAL).square().sum(-1, keepdim=True)
        if iteration < 3:
            torch.testing.assert_close(seen[iteration], actions.detach())
            (slope,) = torch.autograd.grad(cost.sum(), actions)
            actions = (actions - 0.05 * slope).clamp(-1, 1)
    best = cost.argmin(dim=1)
    expected = actions.detach()[torch.arange(3), best]
    torch.testing.assert_close(plan.actions, expected)
    torch.testing.assert_close(plan.diagnostics["candidate_cost"], cost.detach())


def last_square(states: Tensor, actions: Tensor) -> Tensor:
    return 0.5 * states[..., -1, 0].square()


def test_costs_and_steps_are_right_on_average_over_the_candidates() -> None:
    """Half the square of the last state: E = ½ (m² + s²), ∂E/∂u = m ∂m/∂u."""
    model, count = Gusty(spread=0.5), 4000
    model.by_action = False
    state, seen = starts(), []
    planner = dp.GradMPC(
        3,
        num_starts=count,
        iterations=2,
        step_size=0.1,
        keep_best=False,
        gradient=dp.Detach(),
    )
    effect = torch.tensor([0.81, 0.9, 1.0], dtype=DOUBLE)[:, None]
    variance = 0.25 * (1 + 0.81 + 0.81**2)
    wrong = []
    for common in (False, True):
        seen.clear()
        problem = dp.StochasticProblem(
            model,
            last_square,
            dp.Box([-50.0], [50.0]),
            num_particles=1,
            common_noise=common,
        )
        planner(problem, state, callback=seen.append)
        before, after = seen
        mean = 0.9**3 * state[:, :1] + (effect * before.actions).sum((-2, -1))
        parts = {
            "cost": before.cost - 0.5 * (mean.square() + variance),
            "step": (after.actions - before.actions)[:, :, 2, 0] + 0.1 * mean,
        }
        for residual in parts.values():
            error = residual.std(dim=1) / math.sqrt(count)
            wrong.append(bool((residual.mean(dim=1).abs() > 4 * error).any()))
    assert wrong[:2] == [False, False]
    assert wrong[3]  # one draw for all: every step is wrong by the same


def test_descents_hover_about_the_minimum_of_the_expected_cost() -> None:
    """With one common particle they end at that particle's own."""
    model = Gusty(spread=0.3)
    model.by_action = False
    planner = dp.GradMPC(
        1,
        num_starts=2000,
        iterations=60,
        step_size=0.1,
        keep_best=False,
        gradient=dp.Detach(),
    )
    state, control = torch.zeros(2, 2, dtype=DOUBLE), model.control.detach()
    minimum = (control.mT @ GOAL / control.square().sum()).item()
    distance = []
    for common in (False, True):
        seen = []
        problem = dp.StochasticProblem(
            model,
            dp.objectives.GoalDistance(GOAL),
            dp.Box([-9.0], [9.0]),
            num_particles=1,
            common_noise=common,
        )
        planner(problem, state, callback=seen.append)
        last = seen[-1].actions[..., 0, 0]
        error = last.std(dim=1) / math.sqrt(2000) + 1e-4
        distance.append((last.mean(dim=1) - minimum).abs() / error)
    assert (distance[0] < 4).all()
    assert (distance[1] > 4).all()


def test_a_candidate_draws_by_problem_number_and_iteration() -> None:
    state, problem = starts(), gusty(num_particles=3)
    realized = problem.realize(state, 4)
    noise = realized.redrawn(2, 0, 6).noise
    assert torch.equal(noise, drawn(state, (6, 3, 4, 2), 2))
    assert len(noise.unique()) == noise.numel()
    assert torch.equal(realized.redrawn(2, 4, 2).noise, noise[:, 4:])
    assert not torch.equal(realized.redrawn(3, 0, 6).noise, noise)
    common = gusty(common_noise=True).realize(state, 4)
    assert common.redrawn(2, 0, 6) is common
    actions = torch.zeros(3, 6, 4, 1, dtype=DOUBLE)
    whole = candidate_costs(realized, state, actions, iteration=1)
    parts = candidate_costs(realized, state, actions, chunk_size=4, iteration=1)
    same_to_rounding(parts, whole)
    assert (whole.std(dim=1) > 0.01).all()  # equal candidates, unequal luck
    plain = candidate_costs(realized, state, actions)
    same_to_rounding(plain, plain[:, :1].expand(-1, 6))


class Breeze(nn.Module):
    """The point mass of the contract suite, pushed about."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(0.1))
        self.calm = point_mass_problem(DOUBLE)[0].dynamics

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        mean = self.calm(state, action)
        return Normal(mean, self.spread.to(mean).expand_as(mean))


def breeze() -> tuple[dp.StochasticProblem, Tensor]:
    calm, state = point_mass_problem(DOUBLE)
    options = {"num_particles": 2, "common_noise": False}
    return dp.StochasticProblem(
        Breeze(), calm.objective, calm.action_space, **options
    ), state


PROMISES = (
    checks.check_shapes,
    checks.check_purity,
    checks.check_batch_independence,
    checks.check_bounds,
    checks.check_randomness,
    checks.check_warm_start,
    checks.check_errors,
    checks.check_gradient,
    checks.check_copies,
    checks.check_batches,
    checks.check_loop,
    checks.check_seeds,
)

each_shooting = each_planner_that(
    lambda case: (
        case.build(horizon=3).plans_under_noise and case.problem is point_mass_problem
    )
)


@each_shooting
def test_promises(case: PlannerCase) -> None:
    problem, state = breeze()
    for check in PROMISES:
        check(case.build(horizon=3, iterations=3), problem, state)
    planner = case.build(horizon=3, iterations=3)
    plan = planner(problem, state)
    realized = problem.realize(state, 3)
    torch.testing.assert_close(plan.cost, realized.cost(state, plan.actions))
    assert (plan.status == dp.Status.COMPLETED).all()
    # Each planner draws anew: with common noise its plan is another.
    problem.common_noise = True
    assert not torch.equal(planner(problem, state).cost, plan.cost)


@pytest.mark.parametrize(
    "planner",
    [
        dp.GradMPC(3, iterations=3, num_starts=2, step_size=0.05),
        dp.MPPI(3, num_samples=6, iterations=2, temperature=1.0),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_gradients_pass_through_what_is_drawn(planner: dp.Planner) -> None:
    model = Gusty()
    problem = gusty(model, num_particles=2)

    def actions(spread: Tensor, state: Tensor) -> Tensor:
        del model.spread  # a parameter; a given tensor takes its place
        model.spread = spread
        return planner(problem, state).actions

    values = (
        torch.tensor(0.2, dtype=DOUBLE, requires_grad=True),
        starts()[:2].requires_grad_(),
    )
    assert torch.autograd.gradcheck(actions, values, atol=1e-5, fast_mode=True)


def test_vmap_over_states_equals_a_loop() -> None:
    problem, planner = gusty(), dp.GradMPC(2, num_starts=3, iterations=2)

    def plan_from(state: Tensor) -> Tensor:
        return planner(problem, state).actions

    mapped = torch.func.vmap(plan_from, randomness="same")(starts())
    for got, state in zip(mapped, starts(), strict=True):
        torch.testing.assert_close(got, plan_from(state))


def test_a_warm_start_draws_anew() -> None:
    problem, state = gusty(), starts()
    planner = dp.CEM(3, num_samples=8, num_elites=2, iterations=1)
    seen: list[dp.planners.Iterate] = []
    plan = planner(problem, state, callback=seen.append).detach()
    planner(problem, state, warm_start=plan, callback=seen.append)
    actions = seen[0].actions
    first = candidate_costs(problem.realize(state, 3), state, actions, iteration=0)
    torch.testing.assert_close(seen[0].cost, first)
    keys = noise_keys(state, plan)
    other = problem.realize(state, 3, keys)
    second = candidate_costs(other, state, seen[1].actions, iteration=0)
    torch.testing.assert_close(seen[1].cost, second)
    assert not torch.equal(other.noise, problem.realize(state, 3).noise)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "build",
    [
        lambda: dp.GradMPC(3, num_starts=3, iterations=2, keep_best=False),
        lambda: dp.CEM(3, num_samples=6, num_elites=2, iterations=2, chunk_size=4),
    ],
    ids=["GradMPC", "CEM"],
)
def test_compiled_plans_are_the_same(build: Callable[[], dp.Planner]) -> None:
    torch.compiler.reset()
    problem, state = gusty(), starts()
    compiled = build()
    compiled.compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        got, expected = compiled(problem, state), build()(problem, state)
    torch.testing.assert_close(got.actions, expected.actions)
    torch.testing.assert_close(got.cost, expected.cost)


def test_a_candidate_that_fails_leaves_the_others_as_they_are() -> None:
    class Edge(Gusty):
        def predict(self, state: Tensor, action: Tensor) -> Normal:
            ahead = super().predict(state, action)
            beyond = (action > 0.6).any(-1, keepdim=True)
            return Normal(
                torch.where(beyond, torch.nan, ahead.mean),
                ahead.stddev,
                validate_args=False,
            )

    options = {"num_starts": 6, "iterations": 3, "keep_best": False}
    planner = dp.GradMPC(1, step_size=0.01, **options)
    shown: list[list[Tensor]] = []
    for model in (Gusty(), Edge()):
        seen: list[Tensor] = []
        plan = planner(gusty(model), starts(), callback=lambda s, a=seen: a.append(s))
        shown.append([each.actions for each in seen])
    beyond = (shown[0][0] > 0.6).any(-1).any(-1)
    assert 0 < beyond.sum() < beyond.numel()
    assert torch.equal(plan.diagnostics["discarded"], beyond.sum(-1))
    torch.testing.assert_close(shown[1][-1][~beyond], shown[0][-1][~beyond])
