"""Online runs: LatCo collects its own data (stage (b), and the paper's protocol)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from diffplan._runs.online import (
    action_box,
    make_environment,
    new_model,
    planning_agent,
    run_online,
)
from diffplan._runs.stopwatch import Stopwatch
from diffplan.envs.base import SimulatorEnv
from diffplan.training.episode import Episode
from diffplan.training.seeding import derive_seed
from reproductions.common import idle
from reproductions.common.stages import Unit
from reproductions.latco.comparison_config import DataConfig
from reproductions.latco.data import behaviour, play
from reproductions.latco.online_config import CHEETAH, OnlineRun

MINIMUM_EPISODES = 10
"""Fewest that the mix of stage (a) allows."""


def units(run: OnlineRun, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return one unit per seed, and one for what the task gives away.

    Args:
        run: The settings.
        seeds: Each a run of its own.
        directory: Named as the experiment; receives `<task>/<planner>/seed_<n>` and
            `<task>/idle`. What stage (b) does by default lies in it at once.
    """
    task, experiment = run.task.partition("/")[2], directory.name
    places = [f"{name_of(run)}/seed_{seed}" for seed in seeds]
    by_default = experiment == "online" and task == CHEETAH.partition("/")[0]
    if by_default and name_of(run) == CHEETAH:
        places = [f"seed_{seed}" for seed in seeds]
    runs = [
        Unit(
            f"{experiment}/{place}",
            partial(train, run=run, seed=seed, directory=directory / place),
            directory / place,
        )
        for seed, place in zip(seeds, places, strict=True)
    ]
    home = directory if by_default else directory / task
    return [*runs, idle.unit(experiment, run, home)]


def name_of(run: OnlineRun) -> str:
    """Return task and planner, as in `RUNS`."""
    return f"{run.task.partition('/')[2]}/{run.planner.name}"


def train(run: OnlineRun, seed: int, directory: Path) -> None:
    """Train from the last checkpoint in the folder, if there is one, to the end."""
    rendering = Stopwatch()
    with run.environments(rendering) as environments:
        model = new_model(run.model, environments, run, seed)
        planner, objective = run.planner.build(model)
        box = action_box(environments.single_action_space, run.resolve_device())
        run_online(
            model,
            planning_agent(model, planner, objective, box, run, run.planner.execute),
            environments,
            run.training,
            seed=seed,
            directory=directory,
            offline_episodes=scripted_episodes(run, seed),
            watches={"rendering": rendering, "plan": Stopwatch().watch(planner)},
            tensorboard=run.observation == "pixels",
        )


def scripted_episodes(run: OnlineRun, seed: int) -> list[Episode]:
    """Return the offline episodes of a hybrid run, some successful and some not.

    An episode follows from its number alone, so a resumed run simply makes them again.
    """
    if run.offline_episodes == 0:
        return []
    data = offline_data(run)
    env = make_environment(run, Stopwatch())
    episodes = [
        scripted_episode(env, data, seed, index)
        for index in range(run.offline_episodes)
    ]
    env.close()
    return episodes


def offline_data(run: OnlineRun) -> DataConfig:
    """Return what the offline episodes of a hybrid run are.

    Two in five follow Meta-World's expert with noise 0.1 … 0.6, the others are random
    in two ways. Detours last as long as in stage (a), in simulated steps: up to half an
    episode, after which an expert still has the time to succeed.
    """
    default, repeat = DataConfig(), run.training.action_repeat
    return replace(
        default,
        task=run.task,
        episodes=max(run.offline_episodes, MINIMUM_EPISODES),
        expert_noise=(0.1, 0.3, 0.6),
        detour=(default.detour[0] // repeat, default.detour[1] // repeat),
    )


def scripted_episode(
    env: SimulatorEnv, data: DataConfig, seed: int, index: int
) -> Episode:
    """Play offline episode number `index` of a seed, with success recorded."""
    rng = np.random.default_rng(derive_seed(seed, "offline", index))
    return play(env, behaviour(data, index, rng), rng, success=True)
