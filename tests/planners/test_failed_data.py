"""An element whose own data make it fail harms nobody.

Its start is as good as the others': what stands in for it needs their data too.
"""

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from planner_cases import PlannerCase, each_planner_that
from torch import Tensor, nn

import diffplan as dp
from diffplan.objectives import aligned
from diffplan.planners import MPPI, GradMPC

DOUBLE = torch.float64


class Slippery(nn.Module):
    """A point that is pushed by √grip, of each problem; there is none below zero."""

    per_problem: ClassVar[Mapping[str, int]] = {"grip": 1}

    def __init__(self, grip: list[float]) -> None:
        super().__init__()
        self.register_buffer("grip", torch.tensor(grip, dtype=DOUBLE)[:, None])
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        grip = aligned("grip", self.grip, state, own=1, covers=1)
        push = self.gain * (grip * self.gain).sqrt() * action
        return state + torch.cat([0.3 * state[..., 1:], push], dim=-1)


def slope(case: PlannerCase, grip: list[float], strategy: dp.GradientStrategy) -> float:
    """The derivative of a loss over the problems that have a grip, by the gain."""
    model = Slippery(grip)
    goal = dp.objectives.GoalDistance(torch.tensor([0.5, 0.0], dtype=DOUBLE))
    problem = dp.PlanningProblem(model, goal, dp.Box([-1.0], [1.0]))
    sound = torch.tensor(grip) > 0
    state = torch.tensor([[0.1, 0.2]], dtype=DOUBLE).expand(len(grip), 2)
    # Collocation by Adam takes long until it is better than its start.
    changes = {} if case.finds_clock else {"fall_back": False}
    planner = case.build(3, gradient=strategy, iterations=3, **changes)
    plan = planner(problem, state, keys=torch.where(sound, 7, 8))
    assert (plan.status[~sound] == int(dp.Status.NON_FINITE)).all()
    loss = plan.actions[sound].sin().sum() + plan.cost[sound].sum()
    return float(torch.autograd.grad(loss, model.gain)[0]) / int(sound.sum())


@each_planner_that(
    lambda case: (
        case.action_dim in (None, 1)
        and case.problem.__name__ == "point_mass_problem"
        # that of the suite asks the dynamics that it began with for its moments
        and case.name != "GaussianLatCo"
    )
)
def test_the_others_keep_their_gradient(case: PlannerCase) -> None:
    strategies: list[dp.GradientStrategy] = [dp.Detach()]  # then of the cost alone
    if dp.Unroll in case.gradients:
        strategies[0] = dp.Unroll()
    if dp.Implicit in case.gradients:
        strategies.append(dp.Implicit(on_failure="zero"))
    for strategy in strategies:
        alone = slope(case, [2.0], strategy)
        assert alone != 0
        for grip in ([2.0, -1.0], [-1.0, 2.0, 2.0]):
            assert slope(case, grip, strategy) == pytest.approx(alone, rel=1e-6)


class Gusty(nn.Module):
    """A point with a gust, whose root decides how well it is pushed."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0, dtype=DOUBLE))

    def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
        pushed = self.gain * action * (state[..., 1:] + 1.2).sqrt()
        mean = torch.cat([state[..., :1] + pushed, torch.zeros_like(pushed)], dim=-1)
        spread = torch.tensor([1e-6, 1.0], dtype=DOUBLE).expand_as(mean)
        return torch.distributions.Normal(mean, spread, validate_args=False)


@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize(
    "planner",
    [GradMPC(2, num_starts=2, iterations=3), MPPI(2, num_samples=8, iterations=2)],
    ids=["GradMPC", "MPPI"],
)
def test_particles_that_fail_harm_no_other(planner: dp.Planner, common: bool) -> None:
    model, state = Gusty(), torch.zeros(6, 2, dtype=DOUBLE)

    def found(keys: Tensor) -> tuple[dp.Plan, Tensor]:
        problem = dp.StochasticProblem(
            model,
            lambda states, actions: (states[..., -1, 0] - 1).square(),
            dp.Box([-1.0], [1.0]),
            num_particles=3,
            common_noise=common,
        )
        plan = planner(problem, state[: len(keys)], keys=keys)
        sound = plan.status != int(dp.Status.NON_FINITE)
        loss = plan.actions[sound].sum() + 0 * model.gain
        return plan, torch.autograd.grad(loss, model.gain)[0]

    keys = torch.arange(6)
    together, slope = found(keys)
    failed = together.status == int(dp.Status.NON_FINITE)
    if common:
        assert 0 < int(failed.sum()) < 6
    each = [found(keys[i : i + 1])[1] for i in range(6)]
    torch.testing.assert_close(slope, torch.stack(each).sum())


@each_planner_that(lambda case: dp.Unroll in case.gradients)
def test_an_empty_batch_is_planned_for(case: PlannerCase) -> None:
    problem, state = case.problem(DOUBLE)
    strategies: list[dp.GradientStrategy] = [dp.Unroll()]
    if dp.Implicit in case.gradients:
        strategies.append(dp.Implicit())
    for strategy in strategies:
        given = state[:0].detach().requires_grad_()
        plan = case.build(3, gradient=strategy, iterations=2)(problem, given)
        (plan.actions.sum() + plan.cost.sum()).backward()
        assert plan.actions.shape[:2] == (0, 3)
        assert given.grad.shape == given.shape
