"""Objectives against explicit loops over time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.objectives import (
    ActionPenalty,
    GoalDistance,
    NegativeReturn,
    ResidualObjective,
    SoftplusReward,
    StageObjective,
    SumOfResiduals,
    WeightedSum,
)

GOAL = torch.tensor([0.5, -1.0], dtype=torch.float64)


def reward(state: Tensor) -> Tensor:
    return state[..., 0].sin() + state[..., 1].square()


def plain_reward(x: list[float]) -> float:
    return math.sin(x[0]) + x[1] ** 2


def goal_loop(x: list[list[float]], u: list[list[float]]) -> float:
    def distance(state: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(state, GOAL.tolist(), strict=True))

    return 0.5 * (2.0 * sum(map(distance, x[:-1])) + 3.0 * distance(x[-1]))


def effort_loop(x: list[list[float]], u: list[list[float]]) -> float:
    return 0.5 * 0.3 * sum(value**2 for step in u for value in step)


def return_loop(x: list[list[float]], u: list[list[float]]) -> float:
    return -sum(plain_reward(state) for state in x[1:])


def softplus_loop(x: list[list[float]], u: list[list[float]]) -> float:
    residuals = [math.log1p(math.exp(-plain_reward(state))) for state in x[1:]]
    return 0.5 * sum(value**2 for value in residuals)


def goal() -> GoalDistance:
    return GoalDistance(GOAL, running_weight=2.0, terminal_weight=3.0)


CASES: dict[str, tuple[Callable[[], StageObjective], Callable[..., float]]] = {
    "goal": (goal, goal_loop),
    "effort": (lambda: ActionPenalty(0.3), effort_loop),
    "return": (lambda: NegativeReturn(reward), return_loop),
    "softplus": (lambda: SoftplusReward(reward), softplus_loop),
    "sum of residuals": (
        lambda: SumOfResiduals([goal(), ActionPenalty(0.3), SoftplusReward(reward)]),
        lambda x, u: goal_loop(x, u) + effort_loop(x, u) + softplus_loop(x, u),
    ),
    "weighted sum": (
        lambda: WeightedSum([goal(), NegativeReturn(reward)], [0.5, 4.0]),
        lambda x, u: 0.5 * goal_loop(x, u) + 4.0 * return_loop(x, u),
    ),
}

each_objective = pytest.mark.parametrize(
    ("build", "loop"), list(CASES.values()), ids=list(CASES)
)


def trajectory(*lead: int, steps: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(*lead, steps + 1, 2, generator=generator, dtype=torch.float64)
    actions = torch.randn(*lead, steps, 3, generator=generator, dtype=torch.float64)
    return states, actions


@each_objective
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_cost_equals_a_loop_over_time(
    build: Callable[[], StageObjective],
    loop: Callable[..., float],
    steps: int,
    lead: tuple[int, ...],
) -> None:
    states, actions = trajectory(*lead, steps=steps)
    cost = build()(states, actions)
    assert cost.shape == lead
    flat = zip(
        states.reshape(-1, steps + 1, 2).tolist(),
        actions.reshape(-1, steps, 3).tolist(),
        strict=True,
    )
    expected = torch.tensor([loop(x, u) for x, u in flat], dtype=torch.float64)
    torch.testing.assert_close(cost.reshape(-1), expected)


@each_objective
def test_gradients(
    build: Callable[[], StageObjective], loop: Callable[..., float]
) -> None:
    states, actions = trajectory(2, steps=3)
    inputs = (states.requires_grad_(), actions.requires_grad_())
    assert torch.autograd.gradcheck(build(), inputs)


@each_objective
def test_stage_costs_are_half_squared_residuals(
    build: Callable[[], StageObjective], loop: Callable[..., float]
) -> None:
    objective = build()
    if not hasattr(objective, "running_residual"):
        pytest.skip("not a residual objective")
    states, actions = trajectory(3)
    x, u = states[:, 1], actions[:, 1]
    for name, arguments in (
        ("initial", (x, u)),
        ("running", (x, u)),
        ("terminal", (x,)),
    ):
        residual = getattr(objective, f"{name}_residual")(*arguments)
        cost = getattr(objective, f"{name}_cost")(*arguments)
        assert residual.shape[:-1] == cost.shape == (3,)
        torch.testing.assert_close(cost, 0.5 * (residual * residual).sum(-1))


def test_the_given_state_earns_no_reward() -> None:
    states, actions = trajectory()
    other = states.clone()
    other[0] += 5.0
    for objective in (NegativeReturn(reward), SoftplusReward(reward)):
        assert torch.equal(objective(states, actions), objective(other, actions))


def test_softplus_reward_neither_overflows_nor_vanishes() -> None:
    objective = SoftplusReward(lambda state: state[..., 0])
    residual = objective.terminal_residual(torch.tensor([[-1e4], [1e4]]))
    torch.testing.assert_close(residual, torch.tensor([[1e4], [0.0]]))


def test_goals_of_each_problem_of_a_batch() -> None:
    states, actions = trajectory(3, 5)  # problems, candidates
    goals = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    cost = GoalDistance(goals, 2.0, 3.0)(states, actions)
    assert cost.shape == (3, 5)
    for index in range(3):
        single = GoalDistance(goals[index], 2.0, 3.0)(states[index], actions[index])
        torch.testing.assert_close(cost[index], single)
    plain = GoalDistance(goals, 2.0, 3.0)(states[:, 0], actions[:, 0])
    torch.testing.assert_close(plain, cost[:, 0])


def test_a_zero_running_weight_judges_the_last_state_only() -> None:
    states, actions = trajectory()
    other = states.clone()
    other[:-1] += 1.0
    objective = GoalDistance(GOAL, running_weight=0.0)
    assert torch.equal(objective(states, actions), objective(other, actions))
    assert objective.running_residual(states[:-1], actions).shape == (4, 0)


def test_sums_put_residuals_side_by_side() -> None:
    states, actions = trajectory()
    total = SumOfResiduals([goal(), ActionPenalty(1.0)])
    assert total.running_residual(states[:-1], actions).shape == (4, 2 + 3)
    assert total.terminal_residual(states[-1]).shape == (2,)


def test_parameters_of_a_reward_model_belong_to_the_objective() -> None:
    head = nn.Linear(2, 1)
    objective = NegativeReturn(lambda state: head(state)[..., 0])
    assert list(objective.parameters()) == []  # a function hides them
    assert len(list(WeightedSum([goal()], [1.0]).buffers())) == 1


@pytest.mark.parametrize(
    ("states", "actions"), [((5, 2), (5, 3)), ((4, 2), (5, 3)), ((2,), (1, 3))]
)
def test_trajectories_that_do_not_belong_together_are_refused(
    states: tuple[int, ...], actions: tuple[int, ...]
) -> None:
    # The message names states or actions before anything is computed.
    with pytest.raises((ShapeError, TypeError), match="states"):
        goal()(torch.zeros(states), torch.zeros(actions))


def test_malformed_arguments_are_refused_by_name() -> None:
    with pytest.raises(NonFiniteError, match="goal"):
        GoalDistance(torch.tensor([math.nan]))
    with pytest.raises(TensorTypeError, match="goal"):
        GoalDistance(torch.tensor([1]))
    with pytest.raises(ArgumentError, match="terms"):
        SumOfResiduals([])
    with pytest.raises(ArgumentError, match="weights"):
        WeightedSum([goal()], [1.0, 2.0])
    for weight in (-1.0, math.nan):
        with pytest.raises(ArgumentError, match="weight"):
            ActionPenalty(weight)
        with pytest.raises(ArgumentError, match="running_weight"):
            GoalDistance(GOAL, running_weight=weight)
        with pytest.raises(ArgumentError, match="terminal_weight"):
            GoalDistance(GOAL, terminal_weight=weight)


def test_a_sum_counts_what_its_terms_count() -> None:
    class OwnEnd(GoalDistance):
        """Its last state costs something else than half the square of a residual."""

        def terminal_cost(self, state: Tensor) -> Tensor:
            return state.abs().sum(-1)

    class Late(OwnEnd):
        def forward(self, states: Tensor, actions: Tensor) -> Tensor:
            return states[..., -1, 0]

    states, actions = trajectory(2)
    running = 0.5 * ((states[:, :-1] - GOAL).square().sum((-1, -2)))
    effort = 0.15 * actions.square().sum((-1, -2))
    expected = running + effort + states[:, -1].abs().sum(-1)
    total = SumOfResiduals([OwnEnd(GOAL), ActionPenalty(0.3)])
    torch.testing.assert_close(total(states, actions), expected)
    again = SumOfResiduals([total, ActionPenalty(0.3)])
    torch.testing.assert_close(again(states, actions), expected + effort)
    box = dp.Box(-torch.ones(3), torch.ones(3))
    problem = dp.PlanningProblem(lambda x, u: x, OwnEnd(GOAL), box)
    smooth = dp.objectives.with_action_change(problem, 0.0)
    remembered = torch.cat(
        [states, torch.zeros_like(states[..., :1]).expand(-1, -1, 3)], -1
    )
    torch.testing.assert_close(
        smooth.trajectory_cost(remembered, actions), expected - effort
    )
    words = r"terms\[1\]: expected .* sum of its terms, got Late"
    with pytest.raises(UnsupportedProblemError, match=words):
        SumOfResiduals([total, Late(GOAL)])
    with pytest.raises(UnsupportedProblemError, match=words):
        WeightedSum([total, Late(GOAL)], [1.0, 1.0])


def test_terms_may_be_given_by_an_iterator() -> None:
    states, actions = trajectory(2)
    terms = [goal(), ActionPenalty(0.3)]
    listed = SumOfResiduals(terms)(states, actions)
    torch.testing.assert_close(SumOfResiduals(iter(terms))(states, actions), listed)
    both = WeightedSum(iter(terms), iter([1.0, 1.0]))
    for _ in range(2):
        torch.testing.assert_close(both(states, actions), listed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_goals_are_met_in_the_dtype_of_the_states(dtype: torch.dtype) -> None:
    states, actions = (value.to(dtype) for value in trajectory(2))
    for given in (GOAL, GOAL.float()):
        cost = GoalDistance(given)(states, actions)
        assert cost.dtype == dtype
        torch.testing.assert_close(cost, GoalDistance(GOAL.to(dtype))(states, actions))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2), (1, 2), (5, 2), (4, 3, 2)])
def test_goals_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    states, actions = trajectory(4, 5)
    with pytest.raises(ShapeError, match="goal: expected"):
        GoalDistance(torch.zeros(shape, dtype=torch.float64))(states, actions)


def test_a_term_is_checked_wherever_it_is_called() -> None:
    class Careless:
        """A mixin that knows nothing of objectives."""

        def terminal_cost(self, state: Tensor) -> Tensor:
            return state.square().sum()

    class Cost(Careless, StageObjective):
        def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
            return action.square().sum(-1)

    class Doubled(Cost):
        def terminal_cost(self, state: Tensor) -> Tensor:
            return 2 * super().terminal_cost(state)

    states, actions = trajectory(3)
    for objective in (Cost(), Doubled()):
        torch.testing.assert_close(
            objective.running_cost(states[:, 0], action=actions[:, 0]),
            actions[:, 0].square().sum(-1),
        )
        for call in (
            lambda o: o.terminal_cost(states[:, -1]),
            lambda o: o.terminal_cost(state=states[:, -1]),
            lambda o: o(states, actions),
            lambda o: WeightedSum([o, goal()], [1.0, 2.0])(states, actions),
        ):
            with pytest.raises(ShapeError, match=r"objective: .*terminal_cost.*dim=-1"):
                call(objective)
        # One state alone has no batch to sum over.
        assert objective.terminal_cost(states[0, -1]).shape == ()


def test_a_term_may_have_arguments_of_its_own() -> None:
    class Cost(StageObjective):
        def running_cost(
            self, state: Tensor, action: Tensor, scale: float = 1.0
        ) -> Tensor:
            return scale * action.square().sum(-1)

        def terminal_cost(self, state: Tensor) -> Tensor:
            return self.running_cost(state, state, scale=2.0)

    states, actions = trajectory(3)
    doubled = Cost().running_cost(states[:, 0], actions[:, 0], 2.0)
    torch.testing.assert_close(doubled, 2 * actions[:, 0].square().sum(-1))
    assert Cost()(states, actions).shape == (3,)


def test_a_term_that_fails_is_named_with_its_shapes() -> None:
    class Cost(StageObjective):
        def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
            return (state - action).square().sum(-1)  # two numbers against three

        def terminal_cost(self, state: Tensor) -> Tensor:
            return state[..., 0]

    words = r"objective: .*Cost\.running_cost fails on inputs \[3, 4, 2\].*\[3, 4, 3\]"
    with pytest.raises(ShapeError, match=words):
        Cost()(*trajectory(3))


def test_identities_of_default_terms_are_kept() -> None:
    # Planners look whether the first step costs what the others do.
    class Cost(StageObjective):
        def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
            return state[..., 0]

        def terminal_cost(self, state: Tensor) -> Tensor:
            return state[..., 0]

    assert Cost.initial_cost is StageObjective.initial_cost
    assert GoalDistance.initial_cost is ResidualObjective.initial_cost
    assert GoalDistance.initial_residual is ResidualObjective.initial_residual
