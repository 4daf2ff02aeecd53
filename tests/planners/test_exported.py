"""Planners as programs: the same loop without Python, for every planner."""

from pathlib import Path

import pytest
import torch
from planner_cases import CASES, PlannerCase, each_planner
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, UnsupportedProblemError

TOLD = ("actions", "states", "cost", "status", "iterations")


@each_planner
@torch.no_grad()
def test_a_program_gives_the_plans_of_the_loop(case: PlannerCase) -> None:
    planner = case.build(horizon=2, iterations=1)
    problem, state = double_integrator(limit=1.0), states_of(2)
    if case.name.startswith("LatCo") and "theseus" in case.name:
        with pytest.raises(UnsupportedProblemError, match="never look at a number"):
            planner.export(problem, state)
        return
    exported = planner.export(problem, state, executed=1)
    step, start = exported.program.module(), exported.start
    state, plan = state + 0.2, None  # not those that it was traced with
    for _ in range(3):
        plan = planner(
            problem, state, warm_start=None if plan is None else plan.shifted()
        )
        told, start = step(state, start)
        for name in TOLD:
            expected = getattr(plan, name)
            torch.testing.assert_close(told[name], expected, rtol=1e-9, atol=1e-9)
        state = problem.step(state, plan.action) + 0.05


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_states_of_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    planner, problem = dp.CEM(2, iterations=2), double_integrator(limit=1.0)
    state = states_of(6).reshape(2, 3, 2) if lead else states_of(1)[0]
    program, start = planner.export(problem, state, executed=2, evaluate=False)
    told, start = program.module()(state, start)
    plan = planner(problem, state, evaluate=False)
    assert torch.equal(told["actions"], plan.actions)
    assert torch.equal(start["actions"], plan.shifted(2).actions)
    assert start["memory"]["plan_index"].shape == (*lead, 1, 1)


def test_a_program_is_saved_and_loaded_as_a_file(tmp_path: Path) -> None:
    planner, problem = dp.ShootingGD(2, iterations=1), double_integrator(limit=1.0)
    state = states_of(2)
    program, start = planner.export(problem, state)
    torch.export.save(program, tmp_path / "planner.pt2")
    loaded = torch.export.load(tmp_path / "planner.pt2").module()
    told, _ = loaded(state, start)
    expected = planner(problem, state).actions
    torch.testing.assert_close(told["actions"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow  # a compiler of C++ takes most of a minute
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch itself
def test_a_program_becomes_code_without_python(tmp_path: Path) -> None:
    matrix = torch.eye(2, dtype=torch.float64)
    model = dp.models.LinearDynamics(matrix, 0.3 * matrix)
    problem = dp.PlanningProblem(
        model,
        dp.objectives.QuadraticCost(matrix, matrix),
        dp.Box([-0.5] * 2, [0.5] * 2),
    )
    planner, state = dp.ILQR(1, iterations=1), states_of(1)[0]
    program, start = planner.export(problem, state)
    path = str(tmp_path / "planner.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=path)
    code = torch._inductor.aoti_load_package(path)
    for state in states_of(3):
        told, _ = code(state, start)
        expected = planner(problem, state).actions
        torch.testing.assert_close(told["actions"], expected, rtol=1e-12, atol=1e-12)


def test_a_function_that_looks_at_a_number_is_named() -> None:
    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        return state + action if bool((state > 0).any()) else state - action

    problem = dp.PlanningProblem(
        dynamics, dp.objectives.GoalDistance(torch.zeros(1)), dp.Box([-1.0], [1.0])
    )
    with pytest.raises(UnsupportedProblemError, match=r"x\.item\(\) or if"):
        dp.CEM(2, iterations=1).export(problem, torch.ones(1))


def test_what_a_call_refuses_is_refused() -> None:
    planner, problem = CASES[0].build(horizon=2), double_integrator(limit=1.0)
    with pytest.raises(ArgumentError, match="executed: expected"):
        planner.export(problem, states_of(1), executed=-1)
    with pytest.raises(dp.errors.NonFiniteError, match="state"):
        planner.export(problem, torch.full((1, 2), torch.nan))
