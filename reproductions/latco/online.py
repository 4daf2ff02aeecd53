"""Online runs: LatCo collects its own data (stage (b), and the paper's protocol)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffplan.envs
from diffplan.agents import GaussianNoise, PlanningAgent, UniformAgent
from diffplan.envs.base import SimulatorEnv
from diffplan.envs.vector import VectorEnv
from diffplan.problem import Box
from diffplan.training._episode import Episode
from diffplan.training._interaction import run_episodes
from diffplan.training.online import OnlineConfig, OnlineTrainer
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.common.stages import Unit
from reproductions.latco.comparison_config import DataConfig
from reproductions.latco.data import behaviour
from reproductions.latco.online_config import OnlineRun

MINIMUM_EPISODES = 10
"""Fewest that the mix of stage (a) allows."""


def units(run: OnlineRun, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return one unit per seed.

    Args:
        run: The settings.
        seeds: Each a run of its own.
        directory: Receives `seed_<n>`.
    """
    return [
        Unit(
            f"online/seed_{seed}",
            partial(train, run=run, seed=seed, directory=directory / f"seed_{seed}"),
            directory / f"seed_{seed}",
        )
        for seed in seeds
    ]


def paper_unit(run: OnlineRun, seed: int, directory: Path) -> Unit:
    """Return the unit of one run with the paper's protocol."""
    task = run.task.partition("/")[2]
    name = f"{task}/{run.planner.name}/seed_{seed}"
    folder = directory / name
    work = partial(train, run=run, seed=seed, directory=folder)
    return Unit(f"paper/{name}", work, folder)


def train(run: OnlineRun, seed: int, directory: Path) -> None:
    """Train from the last checkpoint in the folder, if there is one, to the end."""
    rendering = Stopwatch()
    factories = [partial(_make, run, rendering)] * run.num_envs
    with VectorEnv(factories, num_workers=run.num_workers) as environments:
        trainer = build(run, environments, seed, directory, rendering)
        trainer.run(tensorboard=run.observation == "pixels")


def build(
    run: OnlineRun,
    environments: VectorEnv,
    seed: int,
    directory: Path,
    rendering: "Stopwatch",
) -> "MeasuredTrainer":
    """Return the trainer of a run, at its beginning.

    Args:
        run: The settings.
        environments: Of the task, `run.num_envs` of them.
        seed: Of weights, episodes, planning and sampling.
        directory: Where the run is, or will be.
        rendering: Runs while one of the environments draws.
    """
    device = run.resolve_device()
    space = environments.single_action_space
    box = Box(low=space.low.tolist(), high=space.high.tolist())
    model = run.model.build(environments.single_observation_space.shape, box.dim, seed)
    if run.observation == "state":
        model.fit_normalizer(_random_observations(run, environments, box, seed))
    model.to(device)
    planner, objective = run.planner.build(model)
    agent = PlanningAgent(
        model,
        planner,
        objective,
        box.to(torch.zeros(1, device=device)),
        replan_every=run.planner.execute,
        warm_start=False,
        exploration=GaussianNoise(run.exploration),
        posterior=run.posterior,
    )
    return MeasuredTrainer(
        model,
        agent,
        environments,
        on_device(run.training, device),
        seed=seed,
        directory=directory,
        offline_episodes=scripted_episodes(run, seed),
        rendering=rendering,
        planning=Stopwatch.of(planner),
    )


def on_device(config: OnlineConfig, device: torch.device) -> OnlineConfig:
    """Return the settings with TensorFloat-32 on a GPU; a CPU has no such thing."""
    if device.type == "cpu" or config.optimizer.precision != "float32":
        return config
    return replace(config, optimizer=replace(config.optimizer, precision="tf32"))


class Stopwatch:
    """Seconds and calls of one function since the last `collect`."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    @classmethod
    def of(cls, module: torch.nn.Module) -> "Stopwatch":
        """Return a stopwatch on a module's calls."""
        watch = cls()
        start = [0.0]

        def before(*_: Any) -> None:
            start[0] = time.perf_counter()

        def after(*_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            watch.add(time.perf_counter() - start[0])

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        return watch

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted."""

        def measured(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.add(time.perf_counter() - start)

        return measured

    def add(self, seconds: float) -> None:
        """Count one call."""
        self.seconds, self.calls = self.seconds + seconds, self.calls + 1

    def collect(self) -> tuple[float, int]:
        """Return seconds and calls, and start again at zero."""
        found = self.seconds, self.calls
        self.seconds, self.calls = 0.0, 0
        return found


class MeasuredTrainer(OnlineTrainer):
    """An online trainer that also says what a plan and an image cost.

    Args:
        *arguments: Of `OnlineTrainer`.
        rendering: Runs while images are drawn in this process.
        planning: Runs while the planner plans.
        **keywords: Of `OnlineTrainer`.
    """

    def __init__(
        self,
        *arguments: Any,
        rendering: Stopwatch,
        planning: Stopwatch,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self._rendering, self._planning = rendering, planning

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Play a round; see `OnlineTrainer.play_round`."""
        step, metrics = super().play_round(index)
        total = metrics["time/seconds"]
        seconds, _ = self._rendering.collect()
        metrics["time/rendering_share"] = seconds / total
        seconds, plans = self._planning.collect()
        if plans:
            metrics["time/seconds_per_plan"] = seconds / plans
        return step, metrics


def scripted_episodes(run: OnlineRun, seed: int) -> list[Episode]:
    """Return the offline episodes of a hybrid run, some successful and some not.

    An episode follows from its number alone, so a resumed run simply makes them again.
    """
    if run.offline_episodes == 0:
        return []
    data = offline_data(run)
    env = _make(run, Stopwatch())
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
    policy = behaviour(data, index, rng)
    observation, info = env.reset(seed=int(rng.integers(2**SIMULATOR_BITS)))
    observations, rewards, successes = [observation], [], []
    actions: list[np.ndarray] = []
    over = False
    while not over:
        actions.append(policy(len(actions), info["raw_observation"], rng))
        observation, reward, _, over, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        successes.append(info["success"])
    return Episode(
        observations=np.stack(observations),
        actions=np.stack(actions).astype(np.float32),
        rewards=np.asarray(rewards, np.float32),
        success=np.asarray(successes, np.float32),
    )


def _make(run: OnlineRun, rendering: Stopwatch) -> SimulatorEnv:
    """Make an environment whose images are timed."""
    env = diffplan.envs.make(
        run.task,
        observation=run.observation,
        render_preset=run.render_preset,
        action_repeat=run.training.action_repeat,
    )
    setattr(env, "render", rendering.around(env.render))  # noqa: B010 - of this one
    return env


def _random_observations(
    run: OnlineRun, environments: VectorEnv, box: Box, seed: int
) -> torch.Tensor:
    """Return observations of random episodes; the same ones at every start."""
    seeds = [
        derive_seed(seed, "scale episode", index, bits=SIMULATOR_BITS)
        for index in range(run.scale_episodes)
    ]
    episodes = run_episodes(
        UniformAgent(box), environments, seeds, agent_seed=derive_seed(seed, "scale")
    )
    arrays = [torch.from_numpy(episode.observations) for episode in episodes]
    return torch.cat(arrays)
