"""Gaussian LatCo: moments by hand, LatCo without spread, risk, gradients, settings."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import diffplan as dp
from diffplan.objectives._base import ResidualObjective, no_residual

LINEARIZATIONS = ("mean", "samples", "full")
each_linearization = pytest.mark.parametrize("linearization", LINEARIZATIONS)


class Noisy:
    """Dynamics, to whose next state noise of a given spread is added."""

    def __init__(self, dynamics: object, spread: object) -> None:
        self.dynamics, self.spread = dynamics, spread

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return self.dynamics(state, action)

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        mean = self.step(state, action)
        spread = self.spread(mean) if callable(self.spread) else self.spread
        return Normal(mean, spread * torch.ones_like(mean), validate_args=False)


def bent(state: Tensor, action: Tensor) -> Tensor:
    """A pendulum of a kind, with two numbers and one action."""
    angle, speed = state.split(1, dim=-1)
    speed = speed + 0.3 * (angle.sin() + 2 * action.tanh())
    return torch.cat([angle + 0.3 * speed, speed], dim=-1)


def bent_problem(spread: object = 0.2) -> dp.PlanningProblem:
    """Bring it to rest, upright."""
    goal = dp.objectives.GoalDistance(torch.zeros(2, dtype=torch.float64))
    objective = dp.objectives.SumOfResiduals([goal, dp.objectives.ActionPenalty(0.1)])
    model = Noisy(bent, spread)
    return dp.PlanningProblem(model.step, objective, dp.Box([-1.0], [1.0]))


class Stake(ResidualObjective):
    """A lottery: a stake x earns tanh(x) (cos(2 y) - ½) by luck y, on arrival.

    For y ~ N(0, 1) the factor is ½ under the mean and e^-2 - ½ < 0 on average. The cost
    is 4 minus what is earned, so that it is a square.
    """

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return self.terminal_residual(state)

    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return no_residual(state)

    def terminal_residual(self, state: Tensor) -> Tensor:
        stake, luck = state.split(1, dim=-1)
        return (2 * (4 - stake.tanh() * ((2 * luck).cos() - 0.5))).sqrt()


def place(state: Tensor, action: Tensor) -> Tensor:
    """The stake moves by the action; luck is drawn anew."""
    return torch.cat([state[..., :1] + action, torch.zeros_like(action)], dim=-1)


def lottery() -> tuple[dp.PlanningProblem, Tensor]:
    """Four starts of a lottery whose luck has variance 1."""
    spread = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    problem = dp.PlanningProblem(
        Noisy(place, spread).step, Stake(), dp.Box([-0.4], [0.4])
    )
    start = torch.tensor([[0.0, 0.0], [0.3, 0.0], [-0.2, 0.0], [0.5, 0.0]])
    return problem, start.double()


def expected_return(plan: dp.Plan) -> Tensor:
    """Closed form: E cos(2 y) = e^-2 for y ~ N(0, 1)."""
    return plan.states[:, 1:, 0].tanh().sum(dim=1) * (math.exp(-2) - 0.5)


@each_linearization
def test_prefers_what_pays_more_on_average_where_latco_does_not(
    linearization: str,
) -> None:
    problem, state = lottery()
    planner = dp.GaussianLatCo(3, linearization=linearization)
    careful = planner(problem, state)
    blind = dp.LatCo(3)(problem, state)
    # Each stake is the worse the higher it is, on average, and the better by the mean.
    low = torch.full_like(careful.actions, -0.4)
    torch.testing.assert_close(careful.actions, low, rtol=0, atol=1e-3)
    torch.testing.assert_close(blind.actions, -low, rtol=0, atol=1e-3)
    assert (expected_return(careful) > expected_return(blind) + 0.5).all()
    assert careful.succeeded.all()
    assert blind.succeeded.all()
    luck = careful.diagnostics["planned_spreads"][..., 1]
    assert ((luck - 1).square() <= 2e-2).all()  # what a status of CONVERGED allows
