"""Noise that is handed over: replayed, it gives the plan again; malformed, an error."""

from dataclasses import replace

import pytest
import torch
from planner_cases import CASES, PlannerCase, each_planner, each_planner_that
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.planners.sampling.loop import SamplingPlanner

BUDGET = {"horizon": 3, "iterations": 3}
PARTS = ("actions", "states", "cost", "status")


def assert_equal(plan: dp.Plan, expected: dp.Plan) -> None:
    for name in PARTS:
        assert torch.equal(getattr(plan, name), getattr(expected, name)), name


def noise_of(case: PlannerCase) -> tuple[dp.planners.Planner, Tensor]:
    planner = case.build(**BUDGET)
    noise = planner.draw_noise(double_integrator(limit=1.0), states_of(2))
    assert noise is not None
    return planner, noise


each_random = each_planner_that(lambda case: case.stochastic)


@each_planner
@pytest.mark.parametrize("lead", [(), (4,), (2, 2)])
def test_noise_that_is_drawn_and_replayed_gives_the_same_plan(
    case: PlannerCase, lead: tuple[int, ...]
) -> None:
    problem, planner = double_integrator(limit=1.0), case.build(**BUDGET)
    state = states_of(4).reshape(*lead, -1)[..., :2] if lead else states_of(4)[0]
    keys = torch.arange(9, 9 + state.shape[:-1].numel()).reshape(lead)
    first = planner(problem, state, keys=keys)
    for start in (None, first.shifted()):
        made = planner(problem, state, keys=keys, warm_start=start)
        noise = planner.draw_noise(problem, state, keys=keys, warm_start=start)
        assert (noise is not None) == case.stochastic
        assert_equal(planner(problem, state, noise=noise, warm_start=start), made)
    seeded = planner(problem, state, generator=torch.Generator().manual_seed(5))
    noise = planner.draw_noise(
        problem, state, generator=torch.Generator().manual_seed(5)
    )
    assert_equal(planner(problem, state, noise=noise), seeded)


@each_random
def test_other_noise_gives_another_plan(case: PlannerCase) -> None:
    planner, noise = noise_of(case)
    problem, state = double_integrator(limit=1.0), states_of(2)
    plan = planner(problem, state, noise=noise)
    assert not torch.equal(
        planner(problem, state, noise=0.5 * noise).actions, plan.actions
    )


@each_random
def test_malformed_noise_is_refused_by_name(case: PlannerCase) -> None:
    planner, noise = noise_of(case)
    problem, state = double_integrator(limit=1.0), states_of(2)
    expected = rf"noise: expected \[{noise.shape[0]}, .* got \[1, "
    for wrong in (noise[:1], noise[..., :-1], noise[0], noise[None]):
        with pytest.raises(ShapeError, match="noise: expected"):
            planner(problem, state, noise=wrong)
    with pytest.raises(ShapeError, match=expected):
        planner(problem, state, noise=noise[:1])
    with pytest.raises(TensorTypeError, match=r"noise: expected torch\.float64"):
        planner(problem, state, noise=noise.float())
    with pytest.raises(NonFiniteError, match="noise: expected finite"):
        planner(problem, state, noise=noise * torch.nan)
    with pytest.raises(TypeError, match="noise"):
        planner(problem, state, noise=noise.tolist())  # type: ignore[arg-type]


@each_planner
def test_noise_beside_what_it_is_drawn_from_is_refused(case: PlannerCase) -> None:
    planner = case.build(**BUDGET)
    problem, state = double_integrator(limit=1.0), states_of(2)
    noise = torch.zeros(2, 1)
    with pytest.raises(ArgumentError, match="keys: expected None"):
        planner(problem, state, noise=noise, keys=torch.arange(2))
    with pytest.raises(ArgumentError, match="generator: expected None"):
        planner(problem, state, noise=noise, generator=torch.Generator())


@each_planner_that(lambda case: not case.stochastic)
def test_a_planner_without_randomness_takes_no_noise(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    with pytest.raises(ArgumentError, match="ILQR draws no random numbers"):
        case.build(**BUDGET)(problem, state, noise=torch.zeros(2, 3, 1).double())


def test_particles_of_a_random_problem_are_not_all_handed_over() -> None:
    class Slippery:
        def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(state + action, 0.1)

    problem = dp.StochasticProblem(
        Slippery(), dp.objectives.GoalDistance(torch.ones(1)), dp.Box([-1.0], [1.0])
    )
    planner, state = dp.CEM(2, num_samples=4, num_elites=2), torch.zeros(3, 1)
    with pytest.raises(UnsupportedProblemError, match=r"noise: .*StochasticProblem"):
        planner.draw_noise(problem, state)
    with pytest.raises(UnsupportedProblemError, match=r"noise: .*StochasticProblem"):
        planner(problem, state, noise=torch.zeros(3, 10, 4, 2, 1))


@pytest.mark.parametrize("lead", [(), (4,), (2, 2)])
@pytest.mark.parametrize("limit", [0, 2**28])
def test_shared_noise_and_keys_in_its_place_are_replayed(
    lead: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{SamplingPlanner.__module__}._NOISE_LIMIT", limit)
    problem = double_integrator(limit=1.0)
    state = states_of(4).reshape(*lead, 2) if lead else states_of(4)[0]
    planner = dp.MPPI(3, num_samples=5, iterations=2, shared_noise=True)
    noise = planner.draw_noise(problem, state)
    shape = () if limit == 0 else (2, 5, 3, 1)
    assert noise.shape == (*(1 for _ in lead), *shape)
    assert_equal(planner(problem, state, noise=noise), planner(problem, state))
    if lead == (4,):  # a planner that does not share takes no shared noise
        planner.shared_noise = False
        with pytest.raises(ShapeError, match="noise: expected"):
            planner(problem, state, noise=noise)


@pytest.mark.compiled
def test_a_compiled_planner_takes_noise() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    for name in ("MPPI", "ShootingGD"):
        case = next(case for case in CASES if case.name == name)
        plain, compiled = (case.build(horizon=3, iterations=2) for _ in range(2))
        compiled.compile(backend="aot_eager", fullgraph=True)
        noise = 0.5 * plain.draw_noise(problem, state)
        got, expected = (p(problem, state, noise=noise) for p in (compiled, plain))
        torch.testing.assert_close(got.actions, expected.actions)


@each_planner_that(lambda case: case.vmapped and case.stochastic)
def test_vmap_maps_over_noise(case: PlannerCase) -> None:
    planner, noise = noise_of(case)
    problem, state = double_integrator(limit=1.0), states_of(2)
    expected = planner(problem, state, noise=noise).actions

    def alone(state: Tensor, noise: Tensor) -> Tensor:
        return planner(problem, state, noise=noise).actions

    mapped = torch.func.vmap(alone)(state, noise)
    torch.testing.assert_close(mapped, expected)


# Without the roll-out of the answer


@each_planner
def test_without_evaluation_the_actions_are_the_same(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    # what collocation falls back to is found by a roll-out
    fixed = {"fall_back": False} if hasattr(case.build(), "fall_back") else {}
    planner = case.build(**BUDGET, **fixed)
    plan = planner(problem, state)
    blind = planner(problem, state, evaluate=False)
    assert torch.equal(blind.actions, plan.actions)
    assert blind.cost.isnan().all()
    assert blind.states.isnan().all()
    assert blind.states.shape == plan.states.shape


@each_planner_that(lambda case: case.name.startswith(("Latent", "Augmented")))
def test_without_evaluation_no_answer_is_rolled_out(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    dynamics, seen = problem.dynamics, [0]

    def counted(state: Tensor, action: Tensor) -> Tensor:
        seen[0] += state.shape[:-1].numel()
        return dynamics(state, action)

    problem.dynamics = counted
    planner = case.build(**BUDGET, gradient=dp.Detach())
    counts = []
    planner(problem, state)  # the first call tries dynamics and objective
    for evaluate in (True, False):
        seen[0] = 0
        planner(problem, state, evaluate=evaluate)
        counts.append(seen[0])
    # that of the inner planner, and that of the wrapper: T steps of two problems each
    assert counts[0] - counts[1] == 2 * (2 * 3)


def test_multipliers_still_follow_from_the_plans_that_are_not_evaluated() -> None:
    wall = dp.constraints.StateConstraint(lambda state, action: state[..., :1] - 0.3)
    base = double_integrator(limit=1.0)
    problem = dp.PlanningProblem(
        base.dynamics, base.objective, base.action_space, [wall]
    )
    planner = dp.AugmentedLagrangian(dp.ILQR(4), outer_iterations=3)
    plan, blind = (planner(problem, states_of(2), evaluate=e) for e in (True, False))
    assert blind.cost.isnan().all()
    assert_equal(replace(blind, states=plan.states, cost=plan.cost), plan)
    for name, value in plan.memory.items():
        assert torch.equal(blind.memory[name], value), name
