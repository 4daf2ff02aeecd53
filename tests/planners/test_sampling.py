"""What all sampling planners share: counting costs, noise, and plans without states."""

import pytest
import torch
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp
from diffplan.objectives import StageObjective
from diffplan.planners import CEM, DCEM, MPPI, Planner
from diffplan.planners import _evaluation as candidates
from diffplan.planners._evaluation import candidate_costs
from diffplan.planners.sampling import loop


class OnArrival(StageObjective):
    """A cost whose first, running and last step all differ."""

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:
        del state
        return action.square().sum(-1)

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return state.square().sum(-1) + 0.1 * action.square().sum(-1)

    def terminal_cost(self, state: Tensor) -> Tensor:
        return 10 * (state - 1).square().sum(-1)


class Timed(StageObjective):
    """A cost that grows with the step."""

    def running_cost(self, state: Tensor, action: Tensor, time: Tensor) -> Tensor:
        return time * (state - 1).square().sum(-1) + action.square().sum(-1)

    def terminal_cost(self, state: Tensor, time: Tensor) -> Tensor:
        return time * state.square().sum(-1)


class Discounted(OnArrival):
    """Overrides the sum over time, so that no step can be counted by itself."""

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        discount = 0.5 ** torch.arange(actions.shape[-2], dtype=states.dtype)
        return (discount * self.running_cost(states[..., :-1, :], actions)).sum(-1)


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("objective", [OnArrival(), Discounted(), Timed()])
def test_costs_counted_step_by_step_are_those_of_whole_trajectories(
    objective: StageObjective, horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = double_integrator(limit=1.0)
    problem = dp.PlanningProblem(plain.dynamics, objective, plain.action_space)
    state = states_of(2).requires_grad_()
    tried = torch.randn(2, 7, horizon, 1, dtype=state.dtype, requires_grad=True)
    start = state.unsqueeze(1).expand(-1, 7, -1)
    whole = problem.cost(start, tried)
    monkeypatch.setattr(candidates, "CACHED", 0)
    cost = candidate_costs(problem, state, tried, chunk_size=4)
    torch.testing.assert_close(cost, whole)
    expected = torch.autograd.grad(whole.square().sum(), (state, tried))
    found = torch.autograd.grad(cost.square().sum(), (state, tried))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("limit", [loop._NOISE_LIMIT, 0], ids=["noise", "seeds"])
@pytest.mark.parametrize(
    "planner",
    [
        CEM(3, num_samples=20, num_elites=4, iterations=2, shared_noise=True),
        DCEM(3, num_samples=20, num_elites=4, iterations=2, shared_noise=True),
        MPPI(3, num_samples=20, iterations=2, shared_noise=True),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_with_shared_noise_a_plan_is_the_same_in_any_batch(
    planner: Planner, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_NOISE_LIMIT", limit)
    problem, state = double_integrator(limit=1.0), states_of(3)
    together = planner(problem, state)
    for index, alone in enumerate(state):
        plan = planner(problem, alone)
        torch.testing.assert_close(together[index].actions, plan.actions)
    assert not torch.equal(together.actions[0], together.actions[1])


@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
def test_a_plan_that_is_not_evaluated_has_the_same_actions_and_no_cost(
    lead: tuple[int, ...],
) -> None:
    plain, calls = double_integrator(limit=1.0), []

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        calls.append(state.shape)
        return plain.dynamics(state, action)

    problem = dp.PlanningProblem(dynamics, plain.objective, plain.action_space)
    state = states_of(6)[: int(torch.Size(lead).numel())].reshape(*lead, 2)
    planner = MPPI(3, num_samples=10, iterations=2)
    expected = planner(problem, state)
    assert len(calls) == 10 + 2 * 3 + 3  # a check, the iterations, the answer
    calls.clear()
    plan = planner(problem, state, evaluate=False)
    assert len(calls) == 2 * 3
    assert torch.equal(plan.actions, expected.actions)
    assert torch.equal(plan.status, expected.status)
    assert plan.states.shape == expected.states.shape
    assert plan.cost.shape == expected.cost.shape
    assert plan.states.isnan().all()
    assert plan.cost.isnan().all()
    warm = planner(problem, state, warm_start=plan.shifted())
    assert torch.isfinite(warm.cost).all()


def test_actions_that_are_not_finite_are_reported_without_evaluation() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        lambda states, actions: states[..., -1, 0] * torch.nan,
        dp.Box([-1.0], [1.0]),
    )
    plan = MPPI(2, num_samples=5, iterations=2)(
        problem, torch.zeros(3, 1), evaluate=False
    )
    assert (plan.status == int(dp.Status.NON_FINITE)).all()
    assert torch.isfinite(plan.actions).all()


@pytest.mark.parametrize(
    "planner",
    [
        CEM(1, num_samples=20, num_elites=10, iterations=1),
        DCEM(1, num_samples=20, num_elites=10, iterations=1),
        MPPI(1, num_samples=20, num_elites=10, iterations=1, temperature=1.0),
    ],
    ids=lambda planner: type(planner).__name__,
)
@pytest.mark.parametrize("failure", [torch.nan, torch.inf])
def test_candidates_that_fail_weigh_nothing_where_fewer_than_the_elites_do_not(
    planner: Planner, failure: float
) -> None:
    def objective(states: Tensor, actions: Tensor) -> Tensor:
        allowed = (actions > 0.7).all(dim=-1).all(dim=-1)
        return torch.where(allowed, actions.square().sum((-2, -1)), failure)

    problem = dp.PlanningProblem(torch.add, objective, dp.Box([-1.0], [1.0]))
    noise = torch.linspace(-1.0, 1.0, 20).reshape(1, 1, 20, 1, 1)  # three are allowed
    plan = planner(problem, torch.zeros(1, 1), noise=noise)
    assert 0.7 < float(plan.actions) < 1.0
    assert bool(plan.status == int(dp.Status.COMPLETED))
