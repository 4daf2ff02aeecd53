"""Models that are no RSSM: planned with, trained and acted with like any other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from latent_models import EmbeddingModel, TaskCost, TaskModel
from torch import nn
from toy import BOX, make_envs

import diffplan as dp
from diffplan.agents import GaussianNoise, PlanningAgent
from diffplan.models import WorldModel
from diffplan.objectives import GoalDistance
from diffplan.planners import Planner
from diffplan.training import OnlineConfig, OnlineTrainer, OptimizerConfig

HORIZON = 3
PLANNERS: dict[str, Callable[[], Planner]] = {
    "CEM": lambda: dp.CEM(HORIZON, num_samples=16, num_elites=4, iterations=2),
    "MPPI": lambda: dp.MPPI(HORIZON, num_samples=16, iterations=2),
    "GradMPC": lambda: dp.GradMPC(HORIZON, iterations=3),
    "ILQR": lambda: dp.ILQR(HORIZON, iterations=3),
    "LatCo": lambda: dp.LatCo(HORIZON, iterations=3),
}
GOAL = torch.tensor([0.3])


def task() -> tuple[WorldModel, nn.Module]:
    """A model with values of its own, and its rewards and values as an objective."""
    torch.manual_seed(0)
    model = TaskModel()
    return model, TaskCost(model)


def embedding() -> tuple[WorldModel, nn.Module]:
    """A model without rewards; the objective is the distance to a goal's embedding."""
    torch.manual_seed(0)
    model = EmbeddingModel()
    return model, GoalDistance(model.encode(GOAL).detach())


PAIRS = [
    *((task, name) for name in ("CEM", "MPPI", "GradMPC", "ILQR")),
    *((embedding, name) for name in PLANNERS),
]


@pytest.mark.parametrize(("make", "name"), PAIRS)
def test_planners_lower_the_cost(
    make: Callable[[], tuple[WorldModel, nn.Module]], name: str
) -> None:
    model, objective = make()
    problem = dp.PlanningProblem(model, objective, BOX)
    state = model.encode(torch.tensor([[-0.8], [0.6]])).detach()
    plan = PLANNERS[name]()(problem, state, generator=torch.Generator().manual_seed(0))
    assert plan.actions.shape == (2, HORIZON, 1)
    assert (plan.actions.abs() <= 1).all()
    still = problem.cost(state, torch.zeros_like(plan.actions))
    assert (problem.cost(state, plan.actions) < still).all()


@pytest.mark.parametrize("make", [task, embedding])
def test_an_agent_collects_and_the_trainer_trains(
    make: Callable[[], tuple[WorldModel, nn.Module]], tmp_path: Path
) -> None:
    model, objective = make()
    planner = PLANNERS["CEM"]()
    agent = PlanningAgent(model, planner, objective, BOX, exploration=GaussianNoise())
    config = OnlineConfig(
        rounds=1,
        seed_episodes=2,
        pretrain_updates=2,
        updates_per_round=2,
        batch_size=4,
        sequence_length=3,
        evaluate_every=1,
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = OnlineTrainer(
        model, agent, make_envs(2), config, seed=0, directory=tmp_path
    )
    trainer.run(tensorboard=False, quiet=True)
    assert trainer.trainer.updates == 4
    assert len(trainer.buffer) == 3
    for name, value in model.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, before[name]), name
