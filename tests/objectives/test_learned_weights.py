"""Weights that are learned, zero included: what they cost, and what gradient they get.

The cost ½ w r² is linear in its weight, which is the closed form here.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import diffplan as dp
from diffplan.objectives import GoalDistance, Tracking, with_action_change

DOUBLE = torch.float64
STATES = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]], dtype=DOUBLE)
ACTIONS = torch.tensor([[0.5], [0.2]], dtype=DOUBLE)
BOX = dp.Box([-1.0], [1.0])


def moving(state: Tensor, action: Tensor) -> Tensor:
    return state + action


def smooth(weight: Tensor) -> dp.PlanningProblem:
    goal = GoalDistance(torch.ones(1, dtype=DOUBLE))
    return with_action_change(dp.PlanningProblem(moving, goal, BOX), weight)


def tracked(weights: Tensor) -> dp.PlanningProblem:
    reference = torch.linspace(0, 0.6, 5, dtype=DOUBLE).unsqueeze(-1)
    effort = dp.objectives.ActionPenalty(0.1)
    both = dp.objectives.SumOfResiduals([Tracking(reference, weights), effort])
    return dp.PlanningProblem(moving, both, BOX)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_price_of_a_change_is_linear_in_its_weight(
    dtype: torch.dtype, weight: float
) -> None:
    learned = nn.Parameter(torch.tensor([weight], dtype=dtype))
    problem, actions = smooth(learned), ACTIONS.to(dtype)
    states = problem.rollout(torch.zeros(2, dtype=dtype), actions)
    (slope,) = torch.autograd.grad(problem.trajectory_cost(states, actions), learned)
    expected = torch.tensor([0.5 * (0.5**2 + 0.3**2)], dtype=dtype)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    "weights", [[0.0, 1.0, 2.0], [[0.0, 1.0], [0.0, 0.0], [0.3, 0.0]]], ids=["t", "tS"]
)
def test_tracking_is_linear_in_its_weights(
    dtype: torch.dtype, weights: list[float]
) -> None:
    learned = torch.tensor(weights, dtype=dtype, requires_grad=True)
    cost = Tracking(torch.zeros(3, 2, dtype=dtype), learned)
    states = STATES.to(dtype)
    half = 0.5 * states.square()
    half = half if learned.ndim == 2 else half.sum(-1)

    def slope_of(objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(objective(states, ACTIONS.to(dtype)), learned)[0]

    for _ in range(2):  # the graph is there for each plan
        torch.testing.assert_close(slope_of(cost), half)
    # As planners expand it: by the states, the gradient is w (x - x*).
    _, running, _, end = cost.quadratize(states, ACTIONS.to(dtype))
    (slope,) = torch.autograd.grad(running.sum() + end.sum(), learned)
    expected = states if learned.ndim == 2 else states.sum(-1)
    torch.testing.assert_close(slope, expected)


def test_weights_that_are_no_longer_what_they_were_count_as_they_are() -> None:
    learned = nn.Parameter(torch.ones(3, dtype=DOUBLE))
    cost = Tracking(torch.zeros(3, 2, dtype=DOUBLE), learned)
    assert list(cost.parameters()) == [learned]
    problem = dp.PlanningProblem(lambda x, u: x + u.mean(-1, keepdim=True), cost, BOX)
    for weights in ([0.0, 2.0, 0.5], [4.0, 0.0, 1.0]):
        with torch.no_grad():
            learned.copy_(torch.tensor(weights))
        plain = torch.tensor(weights, dtype=DOUBLE)
        expected = 0.5 * (plain * STATES.square().sum(-1)).sum()
        torch.testing.assert_close(cost(STATES, ACTIONS), expected)
        torch.testing.assert_close(problem.trajectory_cost(STATES, ACTIONS), expected)
        fixed = Tracking(torch.zeros(3, 2, dtype=DOUBLE), plain)
        for got, wanted in zip(
            cost.quadratize(STATES, ACTIONS),
            fixed.quadratize(STATES, ACTIONS),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted)


PLANNERS = {
    "ILQR": dp.ILQR(4, iterations=8),
    "ShootingGN": dp.ShootingGN(4, iterations=8),
    "LatCo": dp.LatCo(4, iterations=3),  # so few that no rounding decides
    "GradMPC": dp.GradMPC(4, iterations=5, gradient=dp.Unroll()),
}


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=list(PLANNERS))
@pytest.mark.parametrize(
    ("build", "size", "start"), [(smooth, 1, [0.0, 0.4]), (tracked, 5, [0.3])]
)
def test_plans_have_a_gradient_by_a_weight_of_zero(
    planner: dp.Planner,
    build: Callable[[Tensor], dp.PlanningProblem],
    size: int,
    start: list[float],
) -> None:
    state = torch.tensor([start], dtype=DOUBLE)
    weights = torch.ones(size, dtype=DOUBLE)
    weights[0 if size == 1 else 2] = 0.0

    def loss(weights: Tensor) -> Tensor:
        # Learned or not: planners may go other ways where nothing is.
        return planner(build(weights), state).actions.sin().sum()

    learned = nn.Parameter(weights.clone())
    slope = torch.autograd.grad(loss(learned), learned)[0][weights == 0]
    # No weight is below zero: a parabola through three points on one side.
    step = 1e-5
    ahead = [weights + count * step * (weights == 0) for count in range(3)]
    at, near, far = (loss(nn.Parameter(value)).detach() for value in ahead)
    expected = (4 * near - far - 3 * at) / (2 * step)
    torch.testing.assert_close(slope, expected.reshape(1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        lambda goal: dp.objectives.GoalDistance(goal),
        lambda goal: dp.objectives.Tracking(goal),
        lambda goal: dp.objectives.ActionChange(goal),
        lambda goal: dp.objectives.QuadraticCost(
            torch.eye(2), torch.eye(1), state_linear=goal
        ),
    ],
    ids=["goal", "reference", "weight", "linear"],
)
def test_what_is_learned_is_among_the_parameters(
    objective: Callable[[nn.Parameter], nn.Module],
) -> None:
    goal = nn.Parameter(torch.ones(3, 2))
    assert [each is goal for each in objective(goal).parameters()] == [True]
    assert list(objective(goal.detach()).parameters()) == []
