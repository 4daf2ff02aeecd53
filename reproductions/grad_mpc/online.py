"""Online runs: PlaNet's agent with a planner, and Dreamer's with its policy."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from diffplan._runs.online import (
    action_box,
    new_model,
    planning_agent,
    run_online,
)
from diffplan._runs.stopwatch import Stopwatch
from diffplan.agents import GaussianNoise, PolicyAgent
from diffplan.models import Actor
from diffplan.objectives.reward import NegativeReturn
from diffplan.problem import Box
from diffplan.training.dreamer import Dreamer
from diffplan.training.seeding import derive_seed, global_seeds
from reproductions.common import idle
from reproductions.common.stages import Unit
from reproductions.grad_mpc.dreamer_settings import DreamerRun
from reproductions.grad_mpc.settings import PlanetConfig, PlanetRun

MODEL, POLICY = "model.pt", "policy.pt"
"""What a run leaves behind for planners that act with it."""


class Policy(NamedTuple):
    """What Dreamer learns beside its model.

    Attributes:
        actor: Acts.
        critics: Values of states; the actor learnt from the first.
    """

    actor: Actor
    critics: nn.ModuleList


def units(
    experiment: str, config: PlanetConfig, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return a run for each task, planner and seed, and what each task gives away.

    Args:
        experiment: First part of the names.
        config: The settings.
        seeds: Each a run of its own.
        directory: Receives `<task>/<planner>/seed_<n>` and `<task>/idle`.
    """
    runs = [
        run_unit(experiment, config, task, planner, seed, directory)
        for task in config.tasks
        for planner in config.planners
        for seed in seeds
    ]
    first = config.planners[0]
    return runs + [
        idle.unit(experiment, config.of(task, first), directory / task)
        for task in config.tasks
    ]


def run_unit(
    experiment: str,
    config: PlanetConfig,
    task: str,
    planner: str,
    seed: int,
    directory: Path,
) -> Unit:
    """Return the run of a task with a planner."""
    folder = directory / task / planner / f"seed_{seed}"
    run = config.of(task, planner)
    work = partial(train, run=run, seed=seed, directory=folder)
    return Unit(f"{experiment}/{task}/{planner}/seed_{seed}", work, folder)


def train(run: PlanetRun, seed: int, directory: Path) -> None:
    """Train from the last checkpoint in the folder, if there is one, to the end."""
    rendering, planner = Stopwatch(), run.planner.build()
    with run.environments(rendering) as environments:
        model = new_model(run.model, environments, run, seed)
        box = action_box(environments.single_action_space, run.resolve_device())
        objective = NegativeReturn(model.reward)
        run_online(
            model,
            planning_agent(
                model, planner, objective, box, run, problem=run.planner.problem()
            ),
            environments,
            run.training,
            seed=seed,
            directory=directory,
            watches={"rendering": rendering, "plan": Stopwatch().watch(planner)},
            tensorboard=run.observation == "pixels",
        )
    model.save(directory / MODEL)


def train_dreamer(run: DreamerRun, seed: int, directory: Path) -> None:
    """Train model, actor and critic, as `train` does."""
    rendering = Stopwatch()
    with run.environments(rendering) as environments:
        model = new_model(run.model, environments, run, seed)
        box = action_box(environments.single_action_space, run.resolve_device())
        actor, critics = new_policy(run, model.state_dim, box, seed)
        learner = Dreamer(
            model,
            actor,
            critics[0],
            run.learning.build(),
            seed=derive_seed(seed, "dreamer"),
            others=critics[1:],
        )
        noise = GaussianNoise(run.exploration)
        agent = PolicyAgent(
            model, actor, box, exploration=noise, posterior=run.posterior
        )
        run_online(
            model,
            agent,
            environments,
            run.training,
            seed=seed,
            directory=directory,
            watches={"rendering": rendering},
            tensorboard=run.observation == "pixels",
            auxiliary=learner,
        )
    model.save(directory / MODEL)
    weights = {"actor": actor.state_dict(), "critics": critics.state_dict()}
    torch.save(weights, directory / POLICY)


def new_policy(run: DreamerRun, state_dim: int, box: Box, seed: int) -> Policy:
    """Return an untrained actor and critics whose weights follow from the seed."""
    with global_seeds(derive_seed(seed, "policy")):
        actor = run.actor.build(state_dim, box)
        critics = [run.critic.build(state_dim) for _ in range(run.critics)]
    device = run.resolve_device()
    return Policy(actor.to(device), nn.ModuleList(critics).to(device))


def load_policy(run: DreamerRun, state_dim: int, box: Box, path: Path) -> Policy:
    """Return the actor and critics that a run left behind."""
    actor, critics = new_policy(run, state_dim, box, 0)
    weights = torch.load(path, weights_only=True, map_location=run.resolve_device())
    actor.load_state_dict(weights["actor"])
    critics.load_state_dict(weights["critics"])
    return Policy(actor.eval(), critics.eval())
