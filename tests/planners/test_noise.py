"""A plan is a function of its problem, a seed, a key and a count, in any batch."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from problems import cost_of, double_integrator, pendulum, states_of
from torch import Tensor

import diffplan as dp
from diffplan.planners._randomness import noise_keys
from diffplan.planners.request import PlanRequest
from diffplan.planners.sampling import loop

DOUBLE = torch.float64

each_random = each_planner_that(lambda case: case.stochastic)


def many_states(count: int = 64) -> tuple[Tensor, Tensor]:
    """States `[count, 2]` and a key for each, in no order."""
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(count, 2, generator=generator, dtype=DOUBLE)
    return states, torch.randint(2**62, (count,), generator=generator)


def assert_same(part: dp.Plan, whole: dp.Plan, index: Tensor) -> None:
    for name in ("actions", "states", "cost"):
        found, expected = getattr(part, name), getattr(whole, name)[index]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# One plan per problem and key


@each_planner
@pytest.mark.parametrize("problem", [double_integrator(limit=0.8), pendulum()])
def test_plans_are_the_same_in_batches_of_any_size_and_order(
    case: PlannerCase, problem: dp.PlanningProblem
) -> None:
    states, keys = many_states(16)
    planner = case.build(horizon=3, iterations=4)
    with torch.no_grad():
        whole = planner(problem, states, keys=keys)
        shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        for index in (shuffled[:1], shuffled[1:3], shuffled[3:6], shuffled):
            part = planner(problem, states[index], keys=keys[index])
            assert_same(part, whole, index)


@each_planner_that(lambda case: hasattr(case.build(), "chunk_size"))
def test_chunks_do_not_change_a_plan(case: PlannerCase) -> None:
    problem, (states, keys) = pendulum(), many_states(3)
    with torch.no_grad():
        whole = case.build(horizon=3, iterations=2)(problem, states, keys=keys)
        for chunk_size in (1, 7, 100):
            planner = case.build(horizon=3, iterations=2, chunk_size=chunk_size)
            assert_same(planner(problem, states, keys=keys), whole, torch.arange(3))


def noise_of(planner: dp.planners.Planner, states: Tensor, keys: Tensor) -> Tensor:
    request = PlanRequest(double_integrator(limit=1.0), states, keys=keys)
    noise = planner.noise_from_keys(request)
    assert noise is not None
    return noise


@each_random
@pytest.mark.usefixtures("two_threads")
def test_noise_is_the_same_bit_for_bit(case: PlannerCase) -> None:
    states, keys = many_states()
    planner = case.build(horizon=5, iterations=3)
    whole = noise_of(planner, states, keys)
    torch.set_num_threads(1)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    for part in (*shuffled.split([1, 2, 3, 16, 42]), shuffled):
        assert torch.equal(noise_of(planner, states[part], keys[part]), whole[part])
    single = noise_of(planner, states.float(), keys)
    torch.testing.assert_close(single, whole.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [dp.CEM, dp.DCEM, dp.MPPI])
@pytest.mark.parametrize("exponent", [0.0, 2.0])
@pytest.mark.parametrize("shared", [False, True])
def test_noise_that_is_too_much_to_keep_is_the_same(
    kind: Any, exponent: float, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, (states, keys) = pendulum(), many_states(4)
    settings = {"num_samples": 20, "iterations": 3, "noise_exponent": exponent}
    if kind is not dp.MPPI:
        settings["num_elites"] = 5
    planner = kind(3, shared_noise=shared, **settings)
    expected = planner(problem, states, keys=keys)
    # Alone a problem's noise may be kept where that of its batch is not.
    monkeypatch.setattr(loop, "_NOISE_LIMIT", 20 * 3 * 3 * 8)
    drawn = planner.draw_noise(problem, states, keys=keys)
    assert drawn.is_floating_point() == shared
    monkeypatch.setattr(loop, "_NOISE_LIMIT", 0)
    assert_same(planner(problem, states, keys=keys), expected, torch.arange(4))


def test_equal_keys_share_noise_and_shared_noise_is_that_of_the_first() -> None:
    problem, (states, keys) = pendulum(), many_states(4)
    planner = dp.MPPI(3, num_samples=10, iterations=2)
    same = keys[:1].expand(4)
    expected = planner(problem, states, keys=same)
    planner.shared_noise = True
    assert_same(planner(problem, states, keys=keys), expected, torch.arange(4))


def test_particles_are_the_same_in_any_batch_and_not_those_of_the_planner() -> None:
    class Slippery:
        def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(state + action, 0.1 + action.abs())

    goal = dp.objectives.GoalDistance(torch.ones(2, dtype=DOUBLE))
    box = dp.Box([-1.0, -1.0], [1.0, 1.0])
    problem = dp.StochasticProblem(Slippery(), goal, box, num_particles=5)
    states, keys = many_states(6)
    planner = dp.CEM(3, num_samples=20, num_elites=4, iterations=3)
    whole = planner(problem, states, keys=keys)
    index = torch.tensor([4, 1, 2])
    assert_same(planner(problem, states[index], keys=keys[index]), whole, index)
    drawn = noise_keys(states, keys=keys)
    particles = problem.realize(states, 3, drawn).noise
    alone = problem.realize(states[index], 3, drawn[index]).noise
    assert torch.equal(alone, particles[index])
    own = planner.noise_from_keys(PlanRequest(problem, states, keys=drawn))
    assert not torch.isin(own, particles).any()


@each_planner_that(lambda case: case.vmapped)
def test_vmap_maps_over_keys_and_leaves_randomness_to_them(case: PlannerCase) -> None:
    problem, (states, keys) = double_integrator(limit=1.0), many_states(3)
    planner = case.build(horizon=3, iterations=2)
    generator = torch.Generator().manual_seed(3)

    def alone(state: Tensor, key: Tensor) -> Tensor:
        return planner(problem, state, keys=key).actions

    # randomness="error" is the default: nothing random happens inside.
    expected = torch.stack([alone(*pair) for pair in zip(states, keys, strict=True)])
    torch.testing.assert_close(torch.func.vmap(alone)(states, keys), expected)

    def seeded(state: Tensor) -> Tensor:
        return planner(problem, state, generator=generator).actions

    # One seed for the call: each element gets the noise of an unbatched one.
    mapped = torch.func.vmap(seeded)(states)
    for index, state in enumerate(states):
        generator.manual_seed(3)
        torch.testing.assert_close(mapped[index], seeded(state))


# Plan after plan


@each_random
def test_each_plan_of_a_loop_draws_fresh_noise_and_repeats(case: PlannerCase) -> None:
    problem, (states, keys) = double_integrator(limit=1.0), many_states(3)
    planner = case.build(horizon=5, iterations=1)

    def loop(generator: torch.Generator | None) -> list[Tensor]:
        plan, drawn = None, []
        for _ in range(3):
            start = None if plan is None else plan.shifted()
            drawn.append(noise_keys(states, start, generator, keys))
            plan = planner(problem, states, warm_start=start, keys=keys)
        return [*drawn, plan.actions]

    *drawn, actions = loop(None)
    assert len(torch.stack(drawn).unique()) == 9
    assert torch.equal(loop(None)[-1], actions)
    seeded = loop(torch.Generator().manual_seed(1))
    assert len(torch.stack([*drawn, *seeded[:-1]]).unique()) == 18


def test_a_loop_with_few_samples_is_as_good_as_with_a_generator() -> None:
    # With the same noise in every step some directions would never be tried.
    problem = double_integrator(limit=1.0)
    planner = dp.MPPI(5, num_samples=8, iterations=1, temperature=0.02)
    costs = {}
    for name in ("counted", "repeated", "generator"):
        generator = torch.Generator().manual_seed(1) if name == "generator" else None
        state, total = states_of(32), torch.zeros(32, dtype=DOUBLE)
        plan = planner(problem, state, generator=generator)
        for _ in range(25):
            total = total + problem.objective(
                torch.stack([state, problem.dynamics(state, plan.action)], 1),
                plan.actions[:, :1],
            )
            state = problem.dynamics(state, plan.action)
            start = plan.shifted()
            if name == "repeated":
                start = replace(start, memory={})
            plan = planner(problem, state, warm_start=start, generator=generator)
        costs[name] = float(total.detach().mean())
    assert costs["counted"] < 1.1 * costs["generator"]
    assert costs["counted"] < 0.95 * costs["repeated"]


@each_random
def test_an_element_that_is_reset_draws_as_in_its_first_plan(case: PlannerCase) -> None:
    problem, (states, keys) = double_integrator(limit=1.0), many_states(3)
    planner = case.build(horizon=5, iterations=2)
    first = planner(problem, states, keys=keys).detach()
    second = planner(problem, states, keys=keys, warm_start=first).detach()
    mask = torch.tensor([True, False, True])
    mixed = second.where(mask, first)
    assert mixed.memory["plan_index"].flatten().tolist() == [2, 1, 2]
    plan = planner(problem, states, keys=keys, warm_start=mixed)
    later = planner(problem, states, keys=keys, warm_start=second)
    assert_same(plan[mask], later, mask.nonzero()[:, 0])
    assert_same(plan[~mask], second, torch.tensor([1]))


@each_planner
def test_a_plan_of_another_planner_goes_on_counting(case: PlannerCase) -> None:
    problem, states = double_integrator(limit=1.0), states_of(2)
    plan = dp.ILQR(5, iterations=2)(problem, states)
    for _ in range(2):
        plan = dp.ILQR(5, iterations=2)(problem, states, warm_start=plan.shifted())
    if case.name.startswith("LatentActions"):  # starts from its own plans only
        latent = case.build(iterations=1)(problem, states).memory
        plan = replace(plan, memory={**latent, "plan_index": plan.memory["plan_index"]})
    plan = case.build(iterations=1)(problem, states, warm_start=plan.shifted())
    assert plan.memory["plan_index"].flatten().tolist() == [4, 4]
    assert plan.memory["plan_index"].dtype == torch.int64


@each_planner_that(lambda case: dp.Unroll in case.gradients)
@pytest.mark.parametrize("detach", [True, False])
def test_shifted_plans_let_go_of_their_graph(case: PlannerCase, detach: bool) -> None:
    # What a graph keeps would grow for ever: 200 steps keep what one does.
    problem, first = double_integrator(limit=1.0), states_of(2).requires_grad_()
    planner = case.build(horizon=3, iterations=2, gradient=dp.Unroll())
    plan, leaf = planner(problem, first), weakref.ref(first)
    del first
    state = states_of(2).requires_grad_()
    plan = planner(problem, state, warm_start=plan.shifted(detach=detach))
    gc.collect()
    assert (leaf() is None) == detach
    torch.autograd.grad(plan.cost.sum(), state, retain_graph=True)
    if detach:  # a training loop: backward at every step
        torch.autograd.grad(plan.cost.sum(), state)
        plan = planner(problem, state, warm_start=plan.shifted())
        torch.autograd.grad(plan.cost.sum(), state)


def test_a_shift_by_nothing_detaches_too() -> None:
    state = states_of(2).requires_grad_()
    plan = dp.MPPI(3, num_samples=5, iterations=1)(double_integrator(), state)
    assert plan.shifted(0, detach=False) is plan
    assert not plan.shifted(0).actions.requires_grad
    assert torch.equal(plan.shifted(0).actions, plan.actions)


# Starting afresh


@each_planner
def test_starting_afresh_is_warm_starting_from_the_cold_start(
    case: PlannerCase,
) -> None:
    problem, (states, keys) = double_integrator(limit=1.0), many_states(3)
    planner = case.build(horizon=5, iterations=3)
    start = planner.cold_start(
        PlanRequest(problem, states, keys=noise_keys(states, keys=keys))
    )
    expected = planner(problem, states, keys=keys)
    assert_same(
        planner(problem, states, keys=keys, warm_start=start),
        expected,
        torch.arange(3),
    )
    memory = {**start.memory, "plan_index": torch.zeros(3, 1, 1, dtype=torch.int64)}
    for name, value in expected.memory.items():
        assert memory.pop(name).shape == value.shape, name
    assert not memory
    assert start.states.shape == expected.states.shape


def test_cost_of_a_cold_start_is_no_promise() -> None:
    problem, states = double_integrator(limit=1.0), states_of(2)
    start = dp.MPPI(5).cold_start(PlanRequest(problem, states, keys=noise_keys(states)))
    assert torch.equal(start.actions, torch.zeros(2, 5, 1, dtype=DOUBLE))
    assert (cost_of(problem, states, start.actions) > start.cost).all()
