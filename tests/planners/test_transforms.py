"""Planners under torch.func.vmap and torch.compile."""

import pickle

import pytest
import torch
from planner_cases import CASES, PlannerCase, each_planner_that
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp

each_vmapped = each_planner_that(lambda case: case.vmapped)


@each_vmapped
def test_vmap_over_states_equals_a_loop(case: PlannerCase) -> None:
    problem, states = double_integrator(limit=1.0), states_of(3)
    planner = case.build(horizon=3, iterations=4)

    def plan_from(state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        plan = planner(problem, state)
        return plan.actions, plan.cost, plan.status

    # "same": each element gets the noise of an unbatched call.
    mapped = torch.func.vmap(plan_from, randomness="same")(states)
    for index, state in enumerate(states):
        for got, expected in zip(mapped, plan_from(state), strict=True):
            torch.testing.assert_close(got[index], expected)


@pytest.mark.compiled
def test_vmap_returns_a_plan() -> None:
    problem, states = double_integrator(limit=1.0), states_of(3)
    planner = CASES[0].build(horizon=3, iterations=2)
    mapped = torch.func.vmap(lambda x: planner(problem, x), randomness="same")(states)
    assert isinstance(mapped, dp.Plan)
    assert mapped.batch_shape == (3,)
    assert mapped.diagnostics["cost"].shape == (3, 2)


@each_planner_that(lambda case: case.vmapped and case.action_dim in (None, 2))
def test_vmap_over_dynamics_equals_a_loop(case: PlannerCase) -> None:
    # An ensemble of models: the parameters of the dynamics carry the mapped dimension.
    planner = case.build(horizon=3, iterations=4)
    gains = torch.tensor([0.2, 0.4], dtype=torch.float64)
    state = states_of(1)[0]
    objective = double_integrator().objective

    def plan_with(gain: Tensor) -> Tensor:
        problem = dp.PlanningProblem(
            lambda x, u: x + gain * u, objective, dp.Box([-1.0, -1.0], [1.0, 1.0])
        )
        return planner(problem, state).actions

    mapped = torch.func.vmap(plan_with, randomness="same")(gains)
    for index, gain in enumerate(gains):
        torch.testing.assert_close(mapped[index], plan_with(gain))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@each_planner_that(lambda case: case.compiled)
def test_solve_compiles_into_one_graph(case: PlannerCase, backend: str) -> None:
    # The noise is drawn outside: a generator cannot be part of a graph.
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = case.build(horizon=2, iterations=2)
    noise = planner.draw_noise(problem, state, None)
    compiled = torch.compile(planner.solve, fullgraph=True, backend=backend)
    expected = planner.solve(problem, state, noise, None)
    got = compiled(problem, state, noise, None)
    torch.testing.assert_close(got.actions, expected.actions)
    torch.testing.assert_close(got.diagnostics["cost"], expected.diagnostics["cost"])


@pytest.mark.compiled
def test_a_compiled_planner_plans_alike() -> None:
    # `nn.Module.compile`: the graph breaks where the noise is drawn, and nowhere else
    # than around `solve`.
    problem, state = double_integrator(limit=1.0), states_of(2)
    case = next(case for case in CASES if case.name == "MPPI")
    plain, compiled = (case.build(horizon=3, iterations=2) for _ in range(2))
    compiled.compile(backend="aot_eager")
    for seed in (0, 1):
        plans = [
            planner(problem, state, generator=torch.Generator().manual_seed(seed))
            for planner in (plain, compiled)
        ]
        assert isinstance(plans[1], dp.Plan)
        for name in ("actions", "states", "cost", "status"):
            torch.testing.assert_close(getattr(plans[1], name), getattr(plans[0], name))


@pytest.mark.compiled
@each_planner_that(lambda case: case.name in ("ILQR", "ShootingGN"))
def test_a_compiled_stage_plans_alike(case: PlannerCase) -> None:
    problem = double_integrator(limit=0.3)
    found = []
    for compiled in (False, True):
        planner = case.build(horizon=4, iterations=3)
        state = states_of(3).requires_grad_()
        if compiled:
            planner.compile(backend="aot_eager")
            assert pickle.loads(pickle.dumps(planner)).stage is None
        actions = planner(problem, state, generator=torch.Generator()).actions
        (slope,) = torch.autograd.grad(actions.sin().sum(), state)
        found.append((actions.detach(), slope))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.compiled
def test_gradients_pass_a_compiled_and_checkpointed_planner() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2).requires_grad_()
    gradients = []
    for checkpoint in (False, True):
        planner = dp.MPPI(4, num_samples=8, iterations=2, checkpoint=checkpoint)
        noise = planner.draw_noise(problem, state, None)
        solve = planner.solve
        if checkpoint:
            solve = torch.compile(solve, fullgraph=True, backend="aot_eager")
        actions = solve(problem, state, noise, None).actions
        gradients += torch.autograd.grad(actions.sin().sum(), state)
    torch.testing.assert_close(gradients[1], gradients[0])
