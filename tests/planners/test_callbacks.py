"""What a callback is shown, beyond what `check_callback` asks of every planner."""

import pytest
import torch
from planner_cases import PlannerCase, each_planner_that
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp
from diffplan.planners import Iterate

COUNTED = each_planner_that(lambda case: case.feasible_throughout)


@COUNTED
def test_costs_are_those_of_the_actions(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)
    seen: list[Iterate] = []
    plan = case.build(iterations=3)(problem, state, callback=seen.append)
    for iterate in seen:
        start = state.unsqueeze(1).expand(-1, iterate.cost.shape[1], -1)
        states, cost = problem.evaluate(start, iterate.actions)
        torch.testing.assert_close(iterate.cost, cost.detach())
        if iterate.states is not None:
            torch.testing.assert_close(iterate.states, states.detach())
        assert problem.action_space.contains(iterate.actions).all()
    trace = plan.diagnostics.get("best_cost", plan.diagnostics["cost"])
    for iterate, known in zip(seen, trace.unbind(1), strict=True):
        gap = (iterate.cost - known.unsqueeze(1)).abs().amin(1)
        torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-9)


@pytest.mark.parametrize("engine", ["native", "theseus"])
def test_collocation_shows_the_states_it_plans(engine: str) -> None:
    if engine == "theseus":
        pytest.importorskip("theseus")
    problem, state = double_integrator(limit=0.6), states_of(2)
    seen: list[Iterate] = []
    planner = dp.LatCo(5, iterations=4, num_starts=3, engine=engine)
    plan = planner(problem, state, callback=seen.append)
    for iterate in seen:
        given = state.unsqueeze(1).expand(-1, 3, -1)
        assert torch.equal(iterate.states[:, :, 0], given)
        cost = problem.objective(iterate.states, iterate.actions).detach()
        torch.testing.assert_close(iterate.cost, cost)
    gaps = [
        breach(problem, iterate).amax(-1).amin(-1) for iterate in (seen[0], seen[-1])
    ]
    assert (gaps[1] < gaps[0]).all()
    assert len(seen) == plan.diagnostics["cost"].shape[1]


def breach(problem: dp.PlanningProblem, iterate: Iterate) -> Tensor:
    """How far planned states are from what the dynamics say, `[B, N, T]`."""
    following = problem.dynamics(iterate.states[:, :, :-1], iterate.actions)
    return (iterate.states[:, :, 1:] - following).detach().norm(dim=-1)


def test_wrapped_planners_go_on_counting() -> None:
    plain, state = double_integrator(limit=0.6), states_of(2)
    wall = dp.constraints.StateConstraint(lambda states, actions: states[..., :1] - 9)
    problem = dp.PlanningProblem(
        plain.dynamics, plain.objective, plain.action_space, [wall]
    )
    inner = dp.CEM(3, num_samples=16, num_elites=4, iterations=2)
    seen: list[Iterate] = []
    dp.AugmentedLagrangian(inner, outer_iterations=3)(
        problem, state, callback=seen.append
    )
    assert [iterate.iteration for iterate in seen] == list(range(6))


def test_an_exception_ends_the_planning() -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)

    def patience(iterate: Iterate) -> None:
        if iterate.iteration == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        dp.CEM(3, num_samples=16, num_elites=4)(problem, state, callback=patience)


def test_elements_that_fail_are_shown_once() -> None:
    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        return torch.where(state > 5, torch.nan, state + action)

    problem = dp.PlanningProblem(
        dynamics, dp.objectives.GoalDistance(torch.zeros(1)), dp.Box([-1.0], [1.0])
    )
    leaf = torch.tensor([[9.0], [0.5]], requires_grad=True)
    seen: list[Iterate] = []
    plan = dp.ILQR(2)(problem, leaf, callback=seen.append)
    assert len(seen) == int(plan.iterations.max())
    assert not torch.isfinite(seen[0].cost[0]).any()
