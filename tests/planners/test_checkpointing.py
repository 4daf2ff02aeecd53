"""Checkpointed rollouts: the same derivatives in memory that grows like √T."""

from collections.abc import Callable

import pytest
import torch
from problems import PendulumDynamics, QuadraticCost, TimedCost, states_of
from torch import Tensor, nn

import diffplan as dp
from benchmarks._peak_memory import PeakMemory
from diffplan.objectives import (
    ConstraintPenalty,
    GoalDistance,
    NegativeReturn,
    StageObjective,
    SumOfResiduals,
)
from diffplan.planners._evaluation import segment_length

HORIZON = 6  # two segments of three steps

Build = Callable[..., dp.Planner]

PLANNERS: dict[str, Build] = {
    "MPPI": lambda **k: dp.MPPI(
        HORIZON, num_samples=6, iterations=2, temperature=1.0, **k
    ),
    "MPPI-chunks": lambda **k: dp.MPPI(
        HORIZON, num_samples=6, iterations=2, temperature=1.0, chunk_size=4, **k
    ),
    "DCEM": lambda **k: dp.DCEM(
        HORIZON, num_samples=6, num_elites=2, iterations=2, **k
    ),
    "GradMPC": lambda **k: dp.GradMPC(
        HORIZON, num_starts=2, iterations=3, step_size=0.02, **k
    ),
    "GradMPC-rmsprop": lambda **k: dp.GradMPC(
        HORIZON,
        num_starts=2,
        iterations=3,
        step_size=0.02,
        optimizer="rmsprop",
        clip=1.0,
        **k,
    ),
    "ShootingGD": lambda **k: dp.ShootingGD(
        HORIZON, num_starts=2, iterations=3, **{"gradient": dp.Unroll(), **k}
    ),
}


class DiscountedCost(StageObjective):
    """Overrides the sum over time, so that no segment can be counted by itself."""

    def __init__(self, goal: Tensor) -> None:
        super().__init__()
        self.goal = goal

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return (state - self.goal).square().sum(-1) + 0.1 * action.square().sum(-1)

    def terminal_cost(self, state: Tensor) -> Tensor:
        return (state - self.goal).square().sum(-1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        discount = 0.5 ** torch.arange(actions.shape[-2], dtype=states.dtype)
        return (discount * self.running_cost(states[..., :-1, :], actions)).sum(-1)


def quadratic(goal: Tensor) -> dp.Objective:
    objective = QuadraticCost(goal.detach(), effort=0.01)
    del objective.goal  # a parameter; the given tensor takes its place
    objective.goal = goal
    return objective


def timed(goal: Tensor) -> dp.Objective:
    objective = TimedCost(torch.tensor([1.0, 3.0, 0.2, 2.0, 0.5, 7.0, 1.5, 1.0]), goal)
    del objective.goal
    objective.goal = goal
    return objective.double()


OBJECTIVES: dict[str, Callable[[Tensor], dp.Objective]] = {
    "residuals": quadratic,
    "return": lambda goal: NegativeReturn(lambda x: -(x - goal).square().sum(-1)),
    "callable": lambda goal: lambda x, u: (x - goal).square().sum((-1, -2)),
    "timed": lambda goal: timed(goal),
    "overridden": DiscountedCost,
}

each_planner = pytest.mark.parametrize("build", PLANNERS.values(), ids=PLANNERS.keys())


class Parameters:
    """What a plan is differentiated with respect to."""

    def __init__(self) -> None:
        self.dynamics = PendulumDynamics()
        self.goal = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
        self.state = states_of(2).requires_grad_()

    def all(self) -> list[Tensor]:
        return [self.dynamics.gravity, self.goal, self.state]

    def problem(
        self, objective: Callable[[Tensor], dp.Objective]
    ) -> dp.PlanningProblem:
        wide = dp.Box([-3.0], [3.0])
        return dp.PlanningProblem(self.dynamics, objective(self.goal), wide)


def derivatives(build: Build, kind: str, checkpoint: bool, **options: object) -> list:
    """Plan, its gradient, and the gradient of the gradient's norm."""
    given = Parameters()
    planner = build(checkpoint=checkpoint, **options)
    plan = planner(given.problem(OBJECTIVES[kind]), given.state)
    loss = plan.actions.sin().sum() + plan.cost.sum()
    first = torch.autograd.grad(loss, given.all(), create_graph=True)
    norm = sum(gradient.square().sum() for gradient in first)
    return [plan.actions, plan.cost, *first, *torch.autograd.grad(norm, given.all())]


@each_planner
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_plans_and_derivatives_of_two_orders_are_the_same(
    build: Build, kind: str
) -> None:
    got = derivatives(build, kind, checkpoint=True)
    expected = derivatives(build, kind, checkpoint=False)
    for value, wanted in zip(got, expected, strict=True):
        assert value.abs().sum() > 0
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)


@each_planner
def test_truncated_derivatives_are_the_same(build: Build) -> None:
    strategy = {"gradient": dp.Truncated(1)}
    got = derivatives(build, "residuals", checkpoint=True, **strategy)
    expected = derivatives(build, "residuals", checkpoint=False, **strategy)
    for value, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)


@each_planner
def test_detached_plans_are_the_same_and_constants(build: Build) -> None:
    given = Parameters()
    problem = given.problem(quadratic)
    plans = [
        build(checkpoint=checkpoint, gradient=dp.Detach())(problem, given.state)
        for checkpoint in (True, False)
    ]
    torch.testing.assert_close(plans[0].actions, plans[1].actions)
    assert not plans[0].actions.requires_grad


@each_planner
def test_nothing_to_differentiate_leaves_no_graph(build: Build) -> None:
    given = Parameters()
    for value in given.all():
        value.requires_grad_(False)
    plan = build(checkpoint=True)(given.problem(quadratic), given.state)
    assert not plan.actions.requires_grad
    assert not plan.cost.requires_grad


@each_planner
def test_vmap_gives_the_same_plans(build: Build) -> None:
    given, planner = Parameters(), build(checkpoint=True)
    problem, states = given.problem(quadratic), given.state.detach()
    mapped = torch.func.vmap(lambda x: planner(problem, x).actions, randomness="same")
    expected = torch.stack([planner(problem, x).actions for x in states])
    torch.testing.assert_close(mapped(states), expected)


def test_particles_are_computed_again_as_a_whole() -> None:
    class Drift(nn.Module):
        def predict(self, x: Tensor, u: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(x + 0.3 * u, 0.1 * (1 + u.square()))

    costs = []
    for checkpoint in (True, False):
        problem = dp.StochasticProblem(
            Drift(),
            GoalDistance(torch.ones(1)),
            dp.Box([-1.0], [1.0]),
            num_particles=4,
        )
        state = torch.zeros(2, 1, requires_grad=True)
        planner = dp.MPPI(4, num_samples=8, iterations=2, checkpoint=checkpoint)
        plan = planner(problem, state)
        (gradient,) = torch.autograd.grad(plan.actions.sum(), state)
        costs.append((plan.cost.detach(), gradient))
    for got, expected in zip(*costs, strict=True):
        torch.testing.assert_close(got, expected)


def test_sums_know_whether_the_time_matters() -> None:
    goal = GoalDistance(torch.zeros(2))
    assert not SumOfResiduals([goal, goal]).uses_time
    assert ConstraintPenalty.uses_time
    timed = TimedCost(torch.ones(3), torch.zeros(2))
    assert SumOfResiduals([goal, timed]).uses_time
    assert dp.objectives.WeightedSum([goal, timed], [1.0, 1.0]).uses_time


@pytest.mark.parametrize(
    ("steps", "length"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (200, 15)]
)
def test_segments_are_as_long_as_they_are_many(steps: int, length: int) -> None:
    assert segment_length(steps) == length
    assert length * length >= steps


class WideDynamics(nn.Module):
    """Needs far more memory for its activations than for its states."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return state + 0.05 * self.layers(torch.cat([state, action], dim=-1))


@pytest.mark.parametrize("name", ["MPPI", "DCEM", "GradMPC"])
def test_memory_of_a_gradient_grows_like_the_root_of_the_horizon(name: str) -> None:
    builds = {
        "MPPI": lambda steps, **k: dp.MPPI(steps, num_samples=16, iterations=1, **k),
        "DCEM": lambda steps, **k: dp.DCEM(steps, num_samples=16, iterations=1, **k),
        "GradMPC": lambda steps, **k: dp.GradMPC(
            steps, num_starts=16, iterations=1, **k
        ),
    }
    dynamics = WideDynamics()
    problem = dp.PlanningProblem(
        dynamics, GoalDistance(torch.ones(2)), dp.Box([-1.0], [1.0])
    )

    def peak(steps: int, checkpoint: bool) -> int:
        planner = builds[name](steps, checkpoint=checkpoint)
        with PeakMemory() as memory:
            plan = planner(problem, torch.zeros(1, 2))
            torch.autograd.grad(plan.actions.sum(), list(dynamics.parameters()))
        return memory.peak

    # Nine times the horizon: three times as many states and activations are kept.
    assert peak(81, checkpoint=True) < 4 * peak(9, checkpoint=True)
    assert peak(81, checkpoint=True) < peak(81, checkpoint=False) / 3
