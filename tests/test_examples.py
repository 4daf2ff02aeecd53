"""The examples do what their first lines say."""

import pytest
import torch

import diffplan as dp
from examples.imitation import imitate, planners
from examples.planners.icem import ICEM
from examples.planners.policy_mppi import PolicyMPPI


@pytest.mark.parametrize("name", list(planners()))
def test_a_pendulum_is_learnt_from_actions_alone(name: str) -> None:
    errors = imitate(planners()[name])
    assert set(errors) == {"gravity", "mass", "effort"}
    assert max(errors.values()) < 0.05, errors


def test_icem_needs_a_quarter_of_the_samples() -> None:
    problem = dp.PlanningProblem(
        dp.models.Pendulum(),
        dp.objectives.SumOfResiduals(
            [
                dp.objectives.GoalDistance(torch.zeros(2)),
                dp.objectives.ActionPenalty(0.1),
            ]
        ),
        dp.Box([-1.0], [1.0]),
    )
    state = torch.tensor([[1.0, 0.0]]).repeat(16, 1)
    few = ICEM(30, num_samples=50, num_elites=10)(problem, state)
    many = dp.CEM(30, num_samples=200, num_elites=20, iterations=3)(problem, state)
    assert few.cost.mean() < many.cost.mean()


def test_a_policy_that_is_right_is_as_good_as_thousands_of_samples() -> None:
    matrices = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([[0.0], [0.1]])
    dynamics = dp.models.LinearDynamics(*matrices)
    cost = dp.objectives.GoalDistance(torch.zeros(2))
    problem = dp.PlanningProblem(dynamics, cost, dp.Box([-1.0], [1.0]))
    state = torch.tensor([[2.0, 0.5], [-1.0, 0.0]])
    best = dp.ILQR(20)(problem, state)

    def policy(state: torch.Tensor) -> torch.Tensor:
        return (-3 * state[..., :1] - 3 * state[..., 1:]).clamp(-1, 1)

    few = {"num_samples": 32, "num_proposals": 4, "num_elites": 4, "temperature": 0.1}
    told = PolicyMPPI(20, policy, **few)(problem, state)
    alone = PolicyMPPI(20, lambda state: 0 * state[..., :1], **few)(problem, state)
    assert ((told.cost - best.cost) < 0.5 * (alone.cost - best.cost)).all()
