"""Planners under torch.func.vmap and torch.compile."""

import pickle

import pytest
import torch
from planner_cases import CASES, PlannerCase, each_planner_that
from problems import double_integrator, states_of
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import diffplan as dp
from diffplan.errors import ShapeError, TensorTypeError
from diffplan.planners.request import PlanRequest
from diffplan.planners.second_order._parts import PLAIN

each_vmapped = each_planner_that(lambda case: case.vmapped)


@each_vmapped
def test_vmap_over_states_equals_a_loop(case: PlannerCase) -> None:
    problem, states = double_integrator(limit=1.0), states_of(3)
    planner = case.build(horizon=3, iterations=4)

    def plan_from(state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        plan = planner(problem, state)
        return plan.actions, plan.cost, plan.status

    # Each element gets the noise of an unbatched call.
    mapped = torch.func.vmap(plan_from)(states)
    for index, state in enumerate(states):
        for got, expected in zip(mapped, plan_from(state), strict=True):
            torch.testing.assert_close(got[index], expected)


@pytest.mark.compiled
def test_vmap_returns_a_plan() -> None:
    problem, states = double_integrator(limit=1.0), states_of(3)
    planner = CASES[0].build(horizon=3, iterations=2)
    mapped = torch.func.vmap(lambda x: planner(problem, x))(states)
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

    mapped = torch.func.vmap(plan_with)(gains)
    for index, gain in enumerate(gains):
        torch.testing.assert_close(mapped[index], plan_with(gain))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@each_planner_that(lambda case: case.compiled)
def test_solve_compiles_into_one_graph(case: PlannerCase, backend: str) -> None:
    # Bounds of each problem and step; of one box the test of the loop below is.
    problem, state = double_integrator(), states_of(2)
    high = torch.tensor([[0.1, 0.7], [0.5, 0.2]], dtype=torch.float64).unsqueeze(-1)
    problem.action_space = dp.Box(-high.flip(1), high)
    # Variants of a planner share its loop.
    planner = case.build(horizon=2, iterations=1 if "-" in case.name else 2)
    noise = planner.draw_noise(problem, state)
    compiled = torch.compile(planner.solve, fullgraph=True, backend=backend)
    expected = planner.solve(PlanRequest(problem, state, noise))
    got = compiled(PlanRequest(problem, state, noise))
    torch.testing.assert_close(got.actions, expected.actions)
    torch.testing.assert_close(got.diagnostics["cost"], expected.diagnostics["cost"])


@pytest.mark.compiled
def test_a_compiled_planner_plans_alike() -> None:
    # A generator gives the seed outside of the graph, which begins with the noise.
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


@each_planner_that(lambda case: True)
def test_a_captured_planner_plans_as_before_on_a_cpu(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    plain, captured = (case.build(horizon=3, iterations=2) for _ in range(2))
    captured.capture()
    with torch.no_grad():
        first, second = (planner(problem, state) for planner in (plain, captured))
        torch.testing.assert_close(second.actions, first.actions)
        expected = plain(problem, state, warm_start=first.shifted()).actions
        got = captured(problem, state, warm_start=second.shifted()).actions
    torch.testing.assert_close(got, expected)
    assert pickle.loads(pickle.dumps(captured))._compiled is None


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
            assert pickle.loads(pickle.dumps(planner)).parts is PLAIN
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
        noise = planner.draw_noise(problem, state)
        solve = planner.solve
        if checkpoint:
            solve = torch.compile(solve, fullgraph=True, backend="aot_eager")
        actions = solve(PlanRequest(problem, state, noise)).actions
        gradients += torch.autograd.grad(actions.sin().sum(), state)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.compiled
@each_planner_that(lambda case: case.compiled)
def test_a_compiled_loop_compiles_at_its_first_step_only(case: PlannerCase) -> None:
    # A robot cannot wait at its second step, when there is a warm start.
    problem, state = double_integrator(limit=1.0), states_of(2)
    count = 3 if case.name.startswith(("ILQR", "ShootingGN")) else 1
    plain, compiled = (case.build(horizon=2, iterations=count) for _ in range(2))
    counter = CompileCounter()
    compiled.compile(backend=counter, fullgraph=True)
    plans: list[dp.Plan | None] = [None, None]
    for step in range(3):
        for index, planner in enumerate((plain, compiled)):
            last = plans[index]
            start = None if last is None else last.shifted()
            plans[index] = planner(problem, state + 0.1 * step, warm_start=start)
        first = counter.frame_count if step == 0 else first
        assert first > 0
        assert counter.frame_count == first
        torch.testing.assert_close(plans[1].actions, plans[0].actions)
        assert plans[1].memory.keys() == plans[0].memory.keys()


@pytest.mark.compiled
def test_a_whole_call_compiles_into_one_graph_noise_included() -> None:
    problem, state = double_integrator(limit=1.0), states_of(6).reshape(2, 3, 2)
    planner = dp.MPPI(3, num_samples=10, iterations=2, noise_exponent=1.0)
    compiled = torch.compile(planner, fullgraph=True, backend="aot_eager")
    keys = torch.arange(6).reshape(2, 3) + 4
    plan = expected = None
    for _ in range(2):
        plan = compiled(problem, state, keys=keys, warm_start=plan and plan.shifted())
        expected = planner(
            problem, state, keys=keys, warm_start=expected and expected.shifted()
        )
        torch.testing.assert_close(plan.actions, expected.actions)
        assert torch.equal(plan.memory["plan_index"], expected.memory["plan_index"])


@pytest.mark.compiled
def test_first_mistakes_are_answered_in_our_words() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = dp.MPPI(3, num_samples=10, iterations=2)
    for wrong in (0, 7, torch.tensor(1)):
        with pytest.raises(TensorTypeError, match=r"generator: .*manual_seed\(0\).*"):
            planner(problem, state, generator=wrong)
    plan = planner(problem, state)
    for wrong in (plan.actions, [plan], plan.cost.detach().numpy()):
        with pytest.raises(TensorTypeError, match=r"warm_start: .*plan\.shifted\(\)"):
            planner(problem, state, warm_start=wrong)
    for wrong in (0, [0, 1], torch.ones(2), torch.arange(2).int()):
        with pytest.raises(TensorTypeError, match="keys: expected an int64 tensor"):
            planner(problem, state, keys=wrong)
    with pytest.raises(ShapeError, match=r"keys: expected \[2\].* got \[2, 1\]"):
        planner(problem, state, keys=torch.zeros(2, 1, dtype=torch.int64))
