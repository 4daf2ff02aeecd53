"""Every planner on a GPU: the plan of the CPU, its gradient, no waiting, one graph."""

import copy
import warnings

import pytest
import torch
from planner_cases import PlannerCase, each_planner_that
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp
from diffplan.planners.request import PlanRequest

pytestmark = pytest.mark.gpu

each_native = each_planner_that(lambda case: case.name != "LatCo-theseus")


def on_gpu(case: PlannerCase) -> tuple[dp.Planner, dp.PlanningProblem, Tensor]:
    """A planner, a problem and states on the device."""
    problem, state = double_integrator(limit=1.0), states_of(3)
    planner = case.build(horizon=4, iterations=3)
    for part in (problem.dynamics, problem.objective, planner):
        part.cuda()
    return planner, problem, state.cuda()


@each_native
def test_a_gpu_plans_as_a_cpu_does(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=1.0), states_of(3)
    expected = case.build(horizon=4, iterations=3)(problem, state)
    planner, problem, state = on_gpu(case)
    plan = planner(problem, state)
    assert plan.actions.is_cuda
    # Its arithmetic rounds in its own way, and sums are taken in another order.
    torch.testing.assert_close(
        plan.actions.cpu(), expected.actions, rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(plan.cost.cpu(), expected.cost, rtol=1e-7, atol=1e-7)
    assert torch.equal(plan.status.cpu(), expected.status)


@each_planner_that(
    lambda case: case.name != "LatCo-theseus" and dp.Unroll in case.gradients
)
def test_the_gradient_on_a_gpu_is_that_of_a_cpu(case: PlannerCase) -> None:
    slopes = []
    for device in ("cpu", "cuda"):
        problem, state = double_integrator(limit=1.0), states_of(3).to(device)
        planner = case.build(horizon=4, iterations=3, gradient=dp.Unroll()).to(device)
        problem.dynamics.to(device)
        problem.objective.to(device)
        state.requires_grad_()
        actions = planner(problem, state).actions
        slopes += torch.autograd.grad(actions.sin().sum(), state)
    torch.testing.assert_close(slopes[1].cpu(), slopes[0], rtol=1e-6, atol=1e-6)


@each_native
def test_a_plan_is_one_cuda_graph(case: PlannerCase) -> None:
    planner, problem, state = on_gpu(case)
    problem = copy.copy(problem)
    problem.action_space = problem.action_space.to(state)
    noise = planner.draw_noise(problem, state)

    def plan() -> dp.Plan:
        with torch.no_grad():
            return planner.plan_for(PlanRequest(problem, state, noise))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = plan()
        plan()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # whatever waits for the device is an error here
        captured = plan()
    graph.replay()
    torch.testing.assert_close(captured.actions, expected.actions)


@each_native
def test_a_captured_planner_plans_as_before(case: PlannerCase) -> None:
    planner, problem, state = on_gpu(case)
    captured = copy.deepcopy(planner)
    captured.capture()
    keys = torch.arange(len(state), device="cuda")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")  # of a second recording
        expected = got = None
        for step in range(3):  # from nothing, then from the plan before
            state = state + 0.1 * step
            expected, got = (
                each(problem, state, keys=keys, warm_start=before and before.shifted())
                for each, before in ((planner, expected), (captured, got))
            )
            torch.testing.assert_close(got.actions, expected.actions)
            assert torch.equal(got.status, expected.status)
        kept = got.actions.clone()
        captured(problem, state + 1.0, keys=keys, warm_start=got.shifted())
    assert torch.equal(got.actions, kept)  # a plan is not overwritten by the next


def test_a_captured_planner_sees_weights_that_change_in_place() -> None:
    goal = torch.ones(2, device="cuda", dtype=torch.float64)
    objective = dp.objectives.GoalDistance(goal)
    problem, state = double_integrator(limit=1.0), states_of(3).cuda()
    problem = dp.PlanningProblem(
        problem.dynamics.cuda(), objective.cuda(), problem.action_space
    )
    planner, captured = (dp.GradMPC(4, iterations=3) for _ in range(2))
    captured.capture()
    with torch.no_grad():
        before = captured(problem, state).actions
        objective.goal.mul_(-1.0)
        after = captured(problem, state).actions
    torch.testing.assert_close(after, planner(problem, state).actions.detach())
    assert not torch.allclose(before, after)


def test_another_problem_is_captured_anew_and_said_so() -> None:
    problem, state = double_integrator(limit=1.0), states_of(3).cuda()
    planner = dp.GradMPC(4, iterations=3)
    planner.capture()
    with torch.no_grad():
        for sign in (1.0, -1.0):
            goal = torch.full((2,), sign, device="cuda", dtype=torch.float64)
            other = dp.PlanningProblem(
                problem.dynamics.cuda(),
                dp.objectives.GoalDistance(goal),
                problem.action_space,
            )
            expected = dp.GradMPC(4, iterations=3)(other, state).actions
            if sign > 0:
                actions = planner(other, state).actions
            else:
                with pytest.warns(UserWarning, match="another PlanningProblem"):
                    actions = planner(other, state).actions
            torch.testing.assert_close(actions, expected)
