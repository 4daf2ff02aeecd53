"""Discounts, values, terminations, ensembles and references against explicit loops."""

import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from problems import double_integrator, states_of
from torch import Tensor, nn

import diffplan as dp
from diffplan._problem_data import aligned
from diffplan.capabilities import takes_action
from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    ShapeError,
    UnsupportedProblemError,
)
from diffplan.objectives import (
    ActionPenalty,
    Disagreement,
    Ensemble,
    LowerConfidenceBound,
    NegativeReturn,
    SoftplusReward,
    SumOfResiduals,
    TerminatingReturn,
    Tracking,
    WeightedSum,
    mean,
    minimum,
)

DOUBLE = torch.float64
REFERENCE = torch.tensor(
    [[0.0, 0.0], [0.1, 0.2], [0.3, 0.1], [0.5, 0.4], [0.2, -0.3]], dtype=DOUBLE
)
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=DOUBLE)
Trajectory = tuple[list[list[float]], list[list[float]]]


def arrival(state: Tensor) -> Tensor:
    return state[..., 0].sin() + state[..., 1].square()


def acting(state: Tensor, action: Tensor) -> Tensor:
    return state[..., 0] * action[..., 0] - action.square().sum(-1)


def value(state: Tensor) -> Tensor:
    return 2.0 * state[..., 0] - state[..., 1]


def goes_on(state: Tensor) -> Tensor:
    return torch.sigmoid(state[..., 0])


def plain(x: list[float]) -> float:
    return math.sin(x[0]) + x[1] ** 2


def discounted(x: list[list[float]], u: list[list[float]]) -> float:
    total = sum(0.9**t * plain(x[t + 1]) for t in range(len(u)))
    return -total - 0.9 ** len(u) * (2.0 * x[-1][0] - x[-1][1])


def of_actions(x: list[list[float]], u: list[list[float]]) -> float:
    total = 0.0
    for t, (state, action) in enumerate(zip(x, u, strict=False)):
        total += 0.9**t * (state[0] * action[0] - sum(a * a for a in action))
    return -total - 0.9 ** len(u) * (2.0 * x[-1][0] - x[-1][1])


def terminating(x: list[list[float]], u: list[list[float]]) -> float:
    total, alive = 0.0, 1.0
    for t in range(len(u)):
        total += 0.9**t * alive * plain(x[t + 1])
        alive *= 1.0 / (1.0 + math.exp(-x[t + 1][0]))
    return -total - 0.9 ** len(u) * alive * (2.0 * x[-1][0] - x[-1][1])


def tracked(x: list[list[float]], u: list[list[float]]) -> float:
    return 0.5 * sum(
        w * sum((a - b) ** 2 for a, b in zip(state, goal, strict=True))
        for w, state, goal in zip(WEIGHTS.tolist(), x, REFERENCE.tolist(), strict=True)
    )


def disagreeing(x: list[list[float]], u: list[list[float]]) -> float:
    # the models differ by 2 u_0: each is that times ½ away from their average
    return 0.5 * sum(2 * action[0] ** 2 for action in u)


def bound(x: list[list[float]], u: list[list[float]]) -> float:
    def lower(state: list[float]) -> float:
        heads = [plain(state), 2.0 * state[0] - state[1], 0.0]
        average = sum(heads) / 3
        spread = math.sqrt(sum((h - average) ** 2 for h in heads) / 3)
        return average - 0.5 * spread

    return -sum(lower(state) for state in x[1:])


def least(x: list[list[float]], u: list[list[float]]) -> float:
    return -sum(min(plain(s), 2.0 * s[0] - s[1]) for s in x[1:])


HEADS = [arrival, value, lambda state: 0 * state[..., 0]]
MODELS = [
    lambda state, action: state + action[..., :1],
    lambda state, action: state - action[..., :1],
]
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., float]]] = {
    "discounted": (
        lambda: NegativeReturn(arrival, discount=0.9, value=value),
        discounted,
    ),
    "reward of actions": (
        lambda: NegativeReturn(acting, discount=0.9, value=value),
        of_actions,
    ),
    "terminating": (
        lambda: TerminatingReturn(arrival, goes_on, discount=0.9, value=value),
        terminating,
    ),
    "tracking": (lambda: Tracking(REFERENCE, WEIGHTS), tracked),
    "disagreement": (lambda: Disagreement(MODELS), disagreeing),
    "lower bound": (
        lambda: NegativeReturn(Ensemble(HEADS, LowerConfidenceBound(0.5))),
        bound,
    ),
    "minimum": (lambda: NegativeReturn(Ensemble(HEADS[:2], minimum)), least),
    "sum of residuals": (
        lambda: SumOfResiduals([Tracking(REFERENCE, WEIGHTS), Disagreement(MODELS)]),
        lambda x, u: tracked(x, u) + disagreeing(x, u),
    ),
    "weighted sum": (
        lambda: WeightedSum(
            [NegativeReturn(arrival, discount=0.9, value=value), Disagreement(MODELS)],
            [0.5, 3.0],
        ),
        lambda x, u: 0.5 * discounted(x, u) + 3.0 * disagreeing(x, u),
    ),
}
each_objective = pytest.mark.parametrize(
    ("build", "loop"), list(CASES.values()), ids=list(CASES)
)


def trajectory(*lead: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(*lead, 5, 2, generator=generator, dtype=DOUBLE)
    return states, torch.randn(*lead, 4, 1, generator=generator, dtype=DOUBLE)


@each_objective
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_cost_equals_a_loop_over_time(
    build: Callable[[], nn.Module], loop: Callable[..., float], lead: tuple[int, ...]
) -> None:
    states, actions = trajectory(*lead)
    cost = build()(states, actions)
    assert cost.shape == lead
    flat = zip(
        states.reshape(-1, 5, 2).tolist(),
        actions.reshape(-1, 4, 1).tolist(),
        strict=True,
    )
    expected = torch.tensor([loop(x, u) for x, u in flat], dtype=DOUBLE)
    torch.testing.assert_close(cost.reshape(-1), expected)


@each_objective
def test_gradients(build: Callable[[], nn.Module], loop: Callable[..., float]) -> None:
    states, actions = trajectory(2)
    inputs = (states.requires_grad_(), actions.requires_grad_())
    assert torch.autograd.gradcheck(build(), inputs)


@each_objective
def test_planners_count_what_the_loop_counts(
    build: Callable[[], nn.Module], loop: Callable[..., float]
) -> None:
    base, state, objective = double_integrator(limit=1.0), states_of(2), build()
    problem = dp.PlanningProblem(base.dynamics, objective, base.action_space)
    planners: list[dp.Planner] = [
        dp.CEM(4, num_samples=32, num_elites=4, iterations=3),
        dp.MPPI(4, num_samples=16, iterations=2, checkpoint=True),
        dp.GradMPC(4, iterations=5, num_starts=2, checkpoint=True),
    ]
    if isinstance(objective, dp.objectives.StageObjective):
        planners.append(dp.ILQR(4, iterations=5))
    if isinstance(objective, dp.objectives.ResidualObjective):
        planners += [dp.ShootingGN(4, iterations=5), dp.LatCo(4, iterations=5)]
    for planner in planners:
        plan = planner(problem, state).detach()
        for index in range(2):
            x, u = plan.states[index].tolist(), plan.actions[index].tolist()
            assert plan.cost[index].item() == pytest.approx(loop(x, u), rel=1e-8)


def test_references_and_goals_of_each_problem_follow_it() -> None:
    base, state = double_integrator(limit=1.0), states_of(6).reshape(3, 2, 2)
    shift = torch.arange(6, dtype=DOUBLE).reshape(3, 2, 1, 1)
    references = REFERENCE + 0.1 * shift

    def problem(reference: Tensor) -> dp.PlanningProblem:
        cost = SumOfResiduals([Tracking(reference), ActionPenalty(0.1)])
        return dp.PlanningProblem(base.dynamics, cost, base.action_space)

    for planner in (
        dp.ILQR(4, iterations=5),
        dp.ShootingGN(4, iterations=5, num_starts=2),
        dp.LatCo(4),
    ):
        together = planner(problem(references), state)
        alone = planner(problem(references[2, 1]), state[2, 1])
        torch.testing.assert_close(together.cost[2, 1], alone.cost, rtol=1e-4, atol=0)


def test_what_is_wrong_is_named() -> None:
    states, actions = trajectory(3)
    with pytest.raises(ShapeError, match="data for 4 steps"):
        Tracking(REFERENCE)(states[:, :4], actions[:, :3])
    with pytest.raises(ArgumentError, match="one horizon"):
        SumOfResiduals([Tracking(REFERENCE), Tracking(REFERENCE[:3])])
    with pytest.raises(ArgumentError, match="time"):
        NegativeReturn(arrival, discount=0.9).running_cost(states[:, 1], actions[:, 1])
    with pytest.raises(ArgumentError, match="discount"):
        NegativeReturn(arrival, discount=1.1)
    with pytest.raises(ArgumentError, match="got both"):
        Ensemble([arrival, acting], mean)
    with pytest.raises(ArgumentError, match="at least two"):
        Disagreement(MODELS[:1])
    with pytest.raises(ShapeError, match=r"weights: expected \[5\]"):
        Tracking(REFERENCE, WEIGHTS[:3])
    box, whole = dp.Box([-1.0], [1.0]), TerminatingReturn(arrival, goes_on)
    with pytest.raises(UnsupportedProblemError, match="StageObjective"):
        dp.ILQR(3)(dp.PlanningProblem(lambda x, u: x + u, whole, box), states[:, 0])


def mixes(state: Tensor) -> Tensor:
    return arrival(state).sum()


def mixes_some(state: Tensor) -> Tensor:
    return arrival(state).mean(0, keepdim=True)


def one_for_all(state: Tensor) -> float:
    return 0.0


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("wrong", [mixes, mixes_some, one_for_all])
def test_a_reward_or_value_that_would_broadcast_is_named(
    wrong: Callable[[Tensor], Tensor], discount: float
) -> None:
    """Its own name, what it should have returned, and what it did."""
    problem, state = double_integrator(limit=1.0), states_of(3)
    words = rf"expected {wrong.__name__} to return \[3, .*\], got "
    shapes = {mixes: r"\[\]", mixes_some: r"\[1, .*\]", one_for_all: "float"}
    for objective in (
        NegativeReturn(wrong, discount=discount),
        NegativeReturn(arrival, value=wrong, discount=discount),
        SoftplusReward(wrong),
    ):
        posed = dp.PlanningProblem(problem.dynamics, objective, problem.action_space)
        with pytest.raises(DiffplanError, match=f"objective: {words}{shapes[wrong]}"):
            posed.cost(state[:, None], torch.zeros(3, 1, 2, 1, dtype=DOUBLE))


@pytest.mark.parametrize("planner", [dp.CEM(2), dp.GradMPC(2), dp.ILQR(2)])
def test_heads_of_several_problems_are_not_combined(planner: dp.Planner) -> None:
    def everything(heads: Tensor) -> Tensor:
        return heads.mean()

    problem, state = double_integrator(limit=1.0), states_of(3)
    objective = NegativeReturn(arrival, value=Ensemble([arrival], everything))
    posed = dp.PlanningProblem(problem.dynamics, objective, problem.action_space)
    words = r"objective: expected .*everything to return \[3\], got \[\]"
    with pytest.raises(ShapeError, match=words):
        planner(posed, state)


def test_heads_that_agree_have_a_derivative() -> None:
    heads = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    LowerConfidenceBound(1.0)(heads).backward()
    torch.testing.assert_close(heads.grad, torch.full_like(heads, 1 / 3))


def test_parameters_of_heads_and_models_are_found() -> None:
    heads = [nn.Linear(2, 1), lambda state: state[..., :1]]
    assert len(list(NegativeReturn(Ensemble(heads, mean)).parameters())) == 2


class Windy(nn.Module):
    """Dynamics with a wind for each problem."""

    per_problem: ClassVar = {"wind": 1}

    def __init__(self, wind: Tensor) -> None:
        super().__init__()
        self.register_buffer("wind", wind)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + 0.3 * action + aligned("wind", self.wind, state, own=1)

    forward = step

    def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.step(state, action), 1e-6)


class Wall(nn.Module):
    """A limit of the first state number, for each problem."""

    per_problem: ClassVar = {"limit": 1}

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, state: Tensor, action: Tensor | None = None) -> Tensor:
        place = self.limit.reshape(
            *self.limit.shape[:-1], *(1,) * (state.ndim - self.limit.ndim), 1
        )
        return state[..., :1] - place


@pytest.mark.parametrize("given", ["module", "method"])
def test_dynamics_and_constraints_of_each_problem_follow_it(given: str) -> None:
    wind = 0.1 * torch.randn(
        2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE
    )
    limits = torch.linspace(0.2, 0.6, 6, dtype=DOUBLE).reshape(2, 3, 1)
    state, goal = torch.zeros(2, 3, 2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)

    def problem(wind: Tensor, limit: Tensor | None = None) -> dp.PlanningProblem:
        model = Windy(wind)
        walls = () if limit is None else [Wall(limit)]
        constraints = [dp.constraints.StateConstraint(w, w) for w in walls]
        return dp.PlanningProblem(
            model if given == "module" else model.step,
            dp.objectives.GoalDistance(goal),
            dp.Box([-1.0, -1.0], [1.0, 1.0]),
            constraints,
        )

    for planner in (
        dp.ILQR(4, iterations=5),
        dp.LatCo(4, iterations=30, damping=1e-6, initial_multipliers=(1e4, 1e4)),
        dp.ShootingGD(4, iterations=100, step_size=0.05, num_starts=2),
    ):
        together = planner(problem(wind), state)
        alone = planner(problem(wind[1, 2]), state[1, 2])
        torch.testing.assert_close(together.cost[1, 2], alone.cost, rtol=1e-2, atol=0)
        assert not torch.equal(together.cost[0, 0], together.cost[1, 2])
    planner = dp.AugmentedLagrangian(dp.ILQR(4, iterations=8), outer_iterations=4)
    together = planner(problem(wind, limits), state)
    alone = planner(problem(wind[1, 2], limits[1, 2]), state[1, 2])
    torch.testing.assert_close(together.actions[1, 2], alone.actions)
    assert (together.states[..., 0].amax(-1) < limits[..., 0] + 1e-2).all()


def test_particles_know_the_wind_of_their_problem() -> None:
    wind, state = torch.tensor([[0.1], [-0.2]]), torch.zeros(2, 1)
    goal, box = dp.objectives.GoalDistance(torch.ones(1)), dp.Box([0.0], [0.0])
    problem = dp.StochasticProblem(Windy(wind), goal, box, num_particles=3)
    plan = dp.CEM(2, num_samples=4, num_elites=2)(problem, state)
    for index in range(2):
        final = dp.PlanningProblem(Windy(wind[index]), goal, box)
        cost = final.cost(state[index], torch.zeros(2, 1))
        torch.testing.assert_close(plan.cost[index], cost, rtol=1e-4, atol=1e-4)


def test_a_reward_of_actions_is_declared_as_a_world_models_is() -> None:
    states, actions = torch.zeros(4, 1), torch.ones(3, 1)

    def paid(x: Tensor, u: Tensor) -> Tensor:
        return x[..., 0] + u[..., 0]

    assert takes_action(paid)
    for objective in (
        dp.objectives.NegativeReturn(paid),
        dp.objectives.TerminatingReturn(paid, lambda x: torch.ones_like(x[..., 0])),
    ):
        assert objective(states, actions).item() == -3
    assert not takes_action(lambda state, time: state[..., 0])
