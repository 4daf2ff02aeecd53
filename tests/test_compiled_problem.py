"""`PlanningProblem.compile`: equal numbers from one graph."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import diffplan as dp
from diffplan.planners import _evaluation as candidates
from diffplan.problem import PlanningProblem

pytestmark = pytest.mark.compiled

BOX = dp.Box([-1.0, -1.0], [1.0, 1.0])


class Drift(nn.Module):
    """Nonlinear dynamics with a parameter, and their noise."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.gain * torch.tanh(action + 0.1 * state.sin())

    def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(self(state, action), 0.05)


def plain(dynamics: Drift) -> PlanningProblem:
    goal = torch.ones(2, dtype=torch.float64)
    return dp.PlanningProblem(dynamics, dp.objectives.GoalDistance(goal), BOX)


def stochastic(dynamics: Drift) -> PlanningProblem:
    goal = torch.ones(2, dtype=torch.float64)
    objective = dp.objectives.GoalDistance(goal)
    return dp.StochasticProblem(dynamics, objective, BOX, num_particles=3)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Graphs of other tests count towards PyTorch's limit."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def states() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", [plain, stochastic])
@pytest.mark.parametrize(
    "planner",
    [
        dp.CEM(3, num_samples=12, num_elites=3, iterations=3),
        dp.DCEM(3, num_samples=12, num_elites=3, iterations=3),
        dp.MPPI(3, num_samples=12, iterations=3),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_plans_and_gradients_are_those_of_the_problem(
    planner: dp.Planner, kind: Callable[[Drift], PlanningProblem]
) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    found = []
    for compiled in (False, True):
        dynamics = Drift()
        problem = kind(dynamics)
        if compiled:
            problem.compile(backend=counter, fullgraph=True)
        assert problem.is_compiled == compiled
        graphs = []
        for seed in (0, 1):
            plan = planner(
                problem, states(), generator=torch.Generator().manual_seed(seed)
            )
            found += [plan.actions.detach(), plan.cost.detach()]
            if plan.actions.requires_grad:
                loss = plan.actions.sin().sum()
                found += torch.autograd.grad(loss, dynamics.gain)
            graphs.append(counter.frame_count)
        # The second plan finds all it needs.
        assert graphs[0] == graphs[1]
        assert (graphs[0] > 0) == compiled
    half = len(found) // 2
    for expected, got in zip(found[:half], found[half:], strict=True):
        torch.testing.assert_close(got, expected)


def test_transforms_see_the_cost_itself() -> None:
    """What is compiled can be mapped by no transform of torch.func."""
    counter = CompileCounterWithBackend("eager")
    problem = plain(Drift())
    actions = torch.zeros(3, 4, 2, dtype=torch.float64)
    expected = problem.cost(states(), actions)
    problem.compile(backend=counter)
    got = torch.func.vmap(problem.cost)(states(), actions)
    torch.testing.assert_close(got, expected)
    assert counter.frame_count == 0
    plan = dp.GradMPC(4, num_starts=2, iterations=3)(problem, states())
    assert bool((plan.cost < expected).all())


def test_copies_are_compiled_and_what_is_pickled_is_not() -> None:
    counter = CompileCounterWithBackend("eager")
    problem = plain(Drift())
    problem.compile(backend=counter)
    actions = torch.zeros(3, 4, 2, dtype=torch.float64)
    other = copy.copy(problem)
    other.objective = dp.objectives.GoalDistance(torch.zeros(2, dtype=torch.float64))
    first, second = problem.cost(states(), actions), other.cost(states(), actions)
    assert counter.frame_count > 0
    torch.testing.assert_close(first, problem.evaluate(states(), actions)[1])
    torch.testing.assert_close(second, other.evaluate(states(), actions)[1])
    assert not torch.allclose(first, second)
    again = pickle.loads(pickle.dumps(problem))
    assert not again.is_compiled
    torch.testing.assert_close(again.cost(states(), actions), first)
    assert problem.is_compiled


def test_many_candidates_go_through_the_compiled_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not through the costs step by step that eager execution prefers."""

    def refuse(*arguments: Any) -> Any:
        raise AssertionError(arguments)

    problem = plain(Drift())
    start, actions = states(), torch.rand(3, 5, 4, 2, dtype=torch.float64)
    monkeypatch.setattr(candidates, "CACHED", 0)
    expected = candidates.candidate_costs(problem, start, actions)
    monkeypatch.setattr(candidates, "_cost_by_step", refuse)
    with pytest.raises(AssertionError):
        candidates.candidate_costs(problem, start, actions)
    problem.compile(backend="aot_eager")
    got = candidates.candidate_costs(problem, start, actions)
    torch.testing.assert_close(got, expected)
