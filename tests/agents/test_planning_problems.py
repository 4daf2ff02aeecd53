"""An agent plans any problem that its model can pose: particles, risk, constraints."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from toy import BOX, LinearModel

import diffplan as dp
from diffplan.agents import PlanningAgent
from diffplan.agents._base import PLANNING
from diffplan.constraints import Ball, StateConstraint
from diffplan.errors import TensorTypeError, UnsupportedProblemError
from diffplan.functional._random import fold
from diffplan.objectives.reward import NegativeReturn
from diffplan.training._description import described

PARTICLES = partial(dp.StochasticProblem, num_particles=5, risk=dp.CVaR(0.4))
PLANNERS = {
    "CEM": lambda: dp.CEM(3, num_samples=12, num_elites=3, iterations=2),
    "GradMPC": lambda: dp.GradMPC(3, num_starts=4, iterations=5, step_size=2.0),
}
each_planner = pytest.mark.parametrize("planner", list(PLANNERS))


class NoisyModel(LinearModel):
    """Moves a tenth of the way, with noise that grows with the action."""

    def __init__(self, spread: float = 0.3) -> None:
        super().__init__(gain=0.1)
        self.spread = spread

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        deviation = self.spread * action.abs().expand_as(state)
        mean = self.step(state, action)
        return Normal(mean, deviation, validate_args=False)  # may be none at all


def agent_of(
    planner: str = "CEM", model: nn.Module | None = None, **settings: Any
) -> PlanningAgent:
    model = NoisyModel() if model is None else model
    objective = NegativeReturn(model.reward)
    return PlanningAgent(model, PLANNERS[planner](), objective, BOX, **settings)


def observations(steps: int, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(steps, batch, 1, generator=generator) + 0.2


def play(agent: PlanningAgent, seen: Tensor, keys: Tensor) -> Tensor:
    actions, memory = [], agent.initial_state(len(keys), seed=2, keys=keys)
    for observation in seen:
        action, memory = agent.act(observation, memory)
        actions.append(action)
    return torch.stack(actions)


@each_planner
def test_particles_without_deviation_plan_as_the_mean_does(planner: str) -> None:
    seen, keys = observations(3, 4), torch.arange(4)
    certain = NoisyModel(spread=0.0)
    mean = play(agent_of(planner, certain), seen, keys)
    particles = play(agent_of(planner, certain, problem=PARTICLES), seen, keys)
    torch.testing.assert_close(particles, mean)
    random = play(agent_of(planner, problem=PARTICLES), seen, keys)
    assert random.abs().mean() < 0.8 * mean.abs().mean()  # the noisier, the calmer


@each_planner
def test_plans_are_those_of_the_planner_with_the_same_keys(planner: str) -> None:
    agent = agent_of(planner, problem=PARTICLES)
    model, box = agent.model, agent.action_space
    by_hand = dp.StochasticProblem(
        model, NegativeReturn(model.reward), box, num_particles=5, risk=dp.CVaR(0.4)
    )
    memory = agent.initial_state(3, seed=8)
    plan = None
    for observation in observations(3, 3):
        keys = fold(memory.noise_keys(), PLANNING)
        action, memory = agent.act(observation, memory)
        start = None if plan is None else plan.shifted()
        plan = PLANNERS[planner]()(by_hand, memory.state, keys=keys, warm_start=start)
        assert torch.equal(action, plan.action)
        assert torch.equal(memory.plan.cost, plan.cost)


@each_planner
def test_particles_of_an_environment_do_not_depend_on_its_batch(planner: str) -> None:
    agent = agent_of(planner, problem=PARTICLES)
    seen, keys = observations(3, 4), torch.tensor([7, -1, 2**60, 0])
    together = play(agent, seen, keys)
    for index in ([2], [3, 1]):
        alone = play(agent, seen[:, index], keys[index])
        torch.testing.assert_close(alone, together[:, index])


def test_constraints_hold_for_the_actions_of_an_agent() -> None:
    problem = partial(dp.PlanningProblem, constraints=[Ball(0.25)])
    seen, keys = observations(2, 3), torch.arange(3)
    bounded = play(agent_of(problem=problem), seen, keys)
    assert bounded.abs().max() <= 0.25 * (1 + 1e-5)
    assert play(agent_of(), seen, keys).abs().max() > 0.5


def latco() -> dp.Planner:
    return dp.LatCo(3, iterations=2)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (latco, "LatCo"),
        (lambda: dp.ShootingGN(3, iterations=2), "ShootingGN"),
        (lambda: dp.ILQR(3, iterations=2), "ILQR"),
        (lambda: dp.AugmentedLagrangian(latco()), "AugmentedLagrangian"),
    ],
)
def test_planners_of_one_trajectory_are_refused_when_the_agent_is_built(
    build: Any, name: str
) -> None:
    objective = dp.objectives.GoalDistance(torch.zeros(1))
    PlanningAgent(NoisyModel(), build(), objective, BOX)
    with pytest.raises(UnsupportedProblemError, match=f"problem: {name} plans one"):
        PlanningAgent(NoisyModel(), build(), objective, BOX, problem=PARTICLES)


def test_what_a_model_or_a_planner_cannot_do_is_said_when_the_agent_is_built() -> None:
    with pytest.raises(UnsupportedProblemError, match="`predict`, got LinearModel"):
        agent_of(model=LinearModel(), problem=PARTICLES)
    wall = StateConstraint(lambda state, action: state - 0.5)
    problem = partial(dp.PlanningProblem, constraints=[wall])
    with pytest.raises(UnsupportedProblemError, match=r"AugmentedLagrangian\(CEM"):
        agent_of(problem=problem)
    with pytest.raises(TensorTypeError, match="problem: expected a function that ret"):
        agent_of(problem=lambda *parts: parts)


def test_a_run_knows_particles_risk_and_constraints_as_settings_of_its_agent() -> None:
    assert described(agent_of(problem=PARTICLES))["problem"] == {
        "class": "StochasticProblem",
        "num_particles": 5,
        "risk": {"class": "CVaR", "alpha": 0.4},
    }
    problem = partial(dp.PlanningProblem, constraints=[Ball(0.25)])
    told = described(agent_of(problem=problem))["problem"]["action_constraints"]
    assert told["0"]["class"] == "Ball"
    assert told["0"]["radius"] == 0.25
    # so that runs from before go on
    assert "problem" not in described(agent_of())
