"""A candidate whose cost or gradient is not finite leaves, and the plan counts it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.planners.gradient import PolicyGradMPC

EDGE = 0.5
"""Actions above it fail; the goal lies on the other side."""

PLANNERS: dict[str, Callable[..., dp.Planner]] = {
    "GradMPC": dp.GradMPC,
    "GradMPC-adam": lambda *given, **how: dp.GradMPC(*given, optimizer="adam", **how),
    "ShootingGD": dp.ShootingGD,
}
each_planner = pytest.mark.parametrize("build", list(PLANNERS.values()), ids=PLANNERS)


def no_cost(states: Tensor, actions: Tensor) -> Tensor:
    """(u + ½)², and no cost where an action is beyond the edge."""
    square = (actions + 0.5).square().sum((-2, -1))
    return torch.where((actions > EDGE).any(-2).squeeze(-1), torch.nan, square)


def no_gradient(states: Tensor, actions: Tensor) -> Tensor:
    """The same, but beyond the edge it is far cheaper and the derivative is NaN."""
    square = (actions + 0.5).square().sum((-2, -1))
    beyond = (actions > EDGE).any(-2).squeeze(-1)
    root = torch.where(beyond, 0 * square, 1 + 0 * square).sqrt()  # 0 · ∞
    return torch.where(beyond, -10.0, square) + root


each_cost = pytest.mark.parametrize("cost", [no_cost, no_gradient])

# Where the four candidates of three problems start, T = A = 1: 0, 2 and 3 beyond.
STARTS = torch.tensor(
    [[-0.9, -0.7, -0.2, 0.3], [0.6, -0.8, 0.9, -0.3], [0.7, 0.8, -0.6, 1.0]]
)
BEYOND = [0, 2, 3]


def plan_from(
    starts: Tensor, cost: dp.Objective, build: Callable[..., dp.Planner], **how: Any
) -> dp.Plan:
    problem = dp.PlanningProblem(torch.add, cost, dp.Box([-1.0], [1.0]))
    how = {"iterations": 5, "step_size": 0.1, "num_starts": starts.shape[1], **how}
    noise, state = starts[..., None, None], torch.zeros(len(starts), 1)
    return build(1, **how)(problem, state, noise=noise)


@each_planner
@each_cost
@pytest.mark.parametrize("keep_best", [True, False])
def test_the_count_is_that_of_the_candidates_beyond_the_edge(
    build: Callable[..., dp.Planner], cost: dp.Objective, keep_best: bool
) -> None:
    plan = plan_from(STARTS, cost, build, keep_best=keep_best)
    assert plan.discarded.tolist() == BEYOND
    assert (plan.actions < EDGE).all()  # also where the others are cheaper
    assert (plan.status == dp.Status.COMPLETED).all()
    assert "5 candidates left the contest" in plan.explain()
    sound = plan_from(STARTS.clamp(max=0.3), cost, build, keep_best=keep_best)
    assert sound.discarded.tolist() == [0, 0, 0]
    assert "candidates" not in sound.explain()


@each_planner
@each_cost
def test_problems_beside_a_failing_one_are_planned_to_the_same_bit(
    build: Callable[..., dp.Planner], cost: dp.Objective
) -> None:
    healthy = STARTS.clone()
    healthy[1:] = -0.4
    plan, alone = (plan_from(each, cost, build) for each in (STARTS, healthy))
    assert torch.equal(plan.actions[0], alone.actions[0])
    assert torch.equal(plan.cost[0], alone.cost[0])
    # nor does a candidate that fails change those that descend beside it
    lonely = plan_from(STARTS[2:, 2:3], cost, build)
    assert torch.equal(plan.actions[2], lonely.actions[0])


def test_one_that_steps_beyond_the_edge_has_left_with_what_it_had_before() -> None:
    start = torch.tensor([[-0.9, 0.1]])
    plan = plan_from(start, no_cost, dp.GradMPC, step_size=2.0, iterations=1)
    # -0.9 goes to 0.7, beyond; 0.1 to -1 (clipped). The cheapest seen is the first.
    assert plan.discarded.tolist() == [1]
    assert plan.actions.item() == pytest.approx(-0.9)
    last = plan_from(
        start, no_cost, dp.GradMPC, step_size=2.0, iterations=1, keep_best=False
    )
    assert last.actions.item() == -1
    assert last.discarded.tolist() == [1]


def test_one_that_gives_way_to_the_middle_of_the_box_counts_too() -> None:
    """The middle, 0, is cheaper than what is left of this start."""
    starts = torch.tensor([[0.9, 0.3, 0.8]])
    plan = plan_from(starts, no_gradient, dp.GradMPC, iterations=1)
    assert plan.discarded.tolist() == [2]
    # 0 - 0.1 · 2 · (0 + ½) is where the middle descends to
    assert plan.actions.item() == pytest.approx(-0.1)


@each_planner
def test_where_all_have_left_the_cheapest_is_the_answer(
    build: Callable[..., dp.Planner],
) -> None:
    def graded(states: Tensor, actions: Tensor) -> Tensor:
        return no_gradient(states, actions) + actions.detach().square().sum((-2, -1))

    starts = torch.tensor([[0.9, 0.6, 0.8], [0.2, -0.2, 0.0]])
    plan = plan_from(starts, graded, build, keep_best=False)
    assert plan.discarded.tolist() == [3, 0]
    assert plan.actions[0].item() == pytest.approx(0.6)
    assert plan.status.tolist() == [int(dp.Status.NON_FINITE), 1]


def test_leading_dimensions_indices_and_planners_without_candidates() -> None:
    problem = dp.PlanningProblem(torch.add, no_cost, dp.Box([-1.0], [1.0]))
    planner = dp.GradMPC(1, num_starts=4, iterations=1)
    noise = STARTS[:2].reshape(2, 1, 4, 1, 1)
    plan = planner(problem, torch.zeros(2, 1, 1), noise=noise)
    assert plan.discarded.tolist() == [[0], [2]]
    assert plan[1].discarded.tolist() == [2]
    cem = dp.CEM(1, num_samples=4, num_elites=2)(problem, torch.zeros(2, 1))
    assert cem.discarded is None


def test_policies_are_counted_and_latent_points_too() -> None:
    problem = dp.PlanningProblem(torch.add, no_cost, dp.Box([-1.0], [1.0]))
    state = torch.tensor([[0.9], [-0.3]])
    policy = PolicyGradMPC(1, lambda state: state, num_starts=1, iterations=1)
    assert policy(problem, state).discarded.tolist() == [1, 0]
    inner = dp.GradMPC(1, num_starts=4, iterations=1, keep_best=False)
    planner = dp.LatentActions(
        inner, lambda point: point[..., None], latent_space=1, horizon=1
    )
    noise = STARTS[:2, :, None, None]
    found = planner(problem, torch.zeros(2, 1), noise=noise)
    assert found.discarded.tolist() == [0, 2]
