"""One online run: an agent collects, its model learns, and is measured.

What is played, with which model, planner and agent, a paper or a user decides; devices,
scales of observations, the agent that plans, the loop and its measurements are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import gymnasium
import torch

from diffplan._checks import require_count
from diffplan._runs.settings import Settings
from diffplan._runs.stopwatch import Stopwatch
from diffplan._runs.tasks import make_task
from diffplan.agents import (
    Agent,
    GaussianNoise,
    PlanningAgent,
    RandomChoice,
    UniformAgent,
)
from diffplan.constraints.categorical import Categorical
from diffplan.envs.vector import VectorEnv
from diffplan.envs.wrappers import OneHot
from diffplan.errors import ArgumentError
from diffplan.models.rssm import RSSM
from diffplan.planners.base import Planner
from diffplan.problem import Box, Objective
from diffplan.training._interaction import run_episodes
from diffplan.training.logging import MetricWriter
from diffplan.training.offline import OfflineConfig
from diffplan.training.online import OnlineConfig, OnlineTrainer
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed, global_seeds

SMALL_MODEL = {
    "belief_size": 64,
    "hidden_size": 128,
    "embedding_size": 128,
    "reward_hidden": 128,
    "vector_hidden": 128,
    "free_nats": 1.0,
    "kl_scale": 0.1,
}
"""Of an `RSSM` that learns in minutes on a core, from state vectors."""


def resolve_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of that name; of auto CUDA, where there is one.

    Raises:
        ArgumentError: it is cuda, and torch finds none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ArgumentError(
            "device: expected cpu or auto where torch finds no CUDA (`diffplan doctor` "
            "says why), got cuda"
        )
    return torch.device(("cuda" if found else "cpu") if name == "auto" else name)


@dataclass(frozen=True)
class Acting:
    """How agents act, side by side.

    Attributes:
        num_envs: Episodes that are collected side by side, planned for in one batch.
        num_workers: Processes that simulate them; 0 stays in this one.
        scale_episodes: Random episodes that set the scale of vector observations; 0
            leaves them as they are. They are not trained on and not counted.
        exploration: Standard deviation of the noise on every collected action; of
            choices, the probability that one is drawn at random.
        posterior: The state that is planned from, a sample of the posterior or its
            mean.
        device: cpu, cuda, or auto: CUDA where there is one.
    """

    num_envs: int = 1
    num_workers: int = 0
    scale_episodes: int = 0
    exploration: float = 0.3
    posterior: Literal["sample", "mean"] = "sample"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def resolve_device(self) -> torch.device:
        """Return the device, CUDA if it is there and wanted."""
        return resolve_device(self.device)


@dataclass(frozen=True)
class OnlineRun(Acting):
    """One online run: an agent collects, its model learns, and is measured.

    Attributes:
        task: See `make_task`.
        observation: state or pixels.
        render_preset: How images are drawn: faithful, with shadows, reflections and
            smooth edges, or fast, without.
        model: The RSSM.
        training: See `diffplan.training.OnlineConfig`.
    """

    task: str = "dm_control/cheetah-run"
    observation: Literal["state", "pixels"] = "state"
    render_preset: Literal["faithful", "fast"] = "fast"
    model: Settings = field(default_factory=partial(Settings, RSSM))
    training: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        require_count("num_envs", self.num_envs)
        require_count("scale_episodes", self.scale_episodes, 0)

    def environments(self, rendering: Stopwatch, count: int | None = None) -> VectorEnv:
        """Make `count` environments, `num_envs` by default, whose images are timed."""
        make = partial(make_environment, self, rendering)
        factories = [make] * (count or self.num_envs)
        return VectorEnv(factories, num_workers=self.num_workers)


def make_environment(run: OnlineRun, rendering: Stopwatch) -> gymnasium.Env:
    """Make an environment whose images are timed."""
    env = make_task(
        run.task,
        observation=run.observation,
        render_preset=run.render_preset,
        action_repeat=run.training.action_repeat,
    )
    setattr(env, "render", rendering.around(env.render))  # noqa: B010 - of this one
    return env


def action_box(space: gymnasium.spaces.Box, device: torch.device | str = "cpu") -> Box:
    """Return the actions that an environment allows; one-hot ones are choices."""
    box = (
        Categorical(*space.shape)
        if isinstance(space, OneHot)
        else Box(low=space.low.tolist(), high=space.high.tolist())
    )
    return box.to(torch.zeros(1, device=device))


def build_model(
    settings: Settings, observation_shape: tuple[int, ...], action_dim: int, seed: int
) -> RSSM:
    """Return an untrained model whose weights follow from the seed.

    Args:
        settings: Of an `RSSM`.
        observation_shape: Of one observation.
        action_dim: A.
        seed: Of the weights.
    """
    with global_seeds(seed):
        model: RSSM = settings.build(observation_shape, action_dim)
    return model


def new_model(settings: Settings, envs: VectorEnv, acting: Acting, seed: int) -> RSSM:
    """Return an untrained model for some environments, on its device.

    Its observations are scaled to those of random episodes, the same at every start.
    """
    box = action_box(envs.single_action_space)
    shape = envs.single_observation_space.shape
    model = build_model(settings, shape, box.dim, seed)
    if acting.scale_episodes and len(shape) == 1:
        seeds = [
            derive_seed(seed, "scale episode", number, bits=SIMULATOR_BITS)
            for number in range(acting.scale_episodes)
        ]
        agent_seed = derive_seed(seed, "scale")
        episodes = run_episodes(UniformAgent(box), envs, seeds, agent_seed=agent_seed)
        arrays = [torch.from_numpy(episode.observations) for episode in episodes]
        model.fit_normalizer(torch.cat(arrays))
    return model.to(acting.resolve_device())


def planning_agent(
    model: RSSM,
    planner: Planner,
    objective: Objective,
    box: Box,
    acting: Acting,
    execute: int = 1,
    warm_start: bool = False,
    **more: Any,
) -> PlanningAgent:
    """Return the agent that plans with a model.

    Args:
        model: Filters, and is planned with.
        planner: Of its plans.
        objective: Of the plans.
        box: The actions that are allowed.
        acting: Gives noise and posterior.
        execute: Actions of a plan that are executed before the next one.
        warm_start: Whether a plan begins with the one before.
        **more: Of `PlanningAgent`.
    """
    if acting.resolve_device().type == "cuda":
        planner.capture()
    chosen = isinstance(box, Categorical)
    exploring = RandomChoice if chosen else GaussianNoise
    return PlanningAgent(
        model,
        planner,
        objective,
        box,
        replan_every=execute,
        warm_start=warm_start,
        exploration=exploring(acting.exploration),
        posterior=acting.posterior,
        **more,
    )


def run_online(
    model: RSSM,
    agent: Agent,
    envs: VectorEnv,
    training: OnlineConfig,
    *,
    seed: int,
    directory: Path,
    watches: Mapping[str, Stopwatch] | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
    writers: Sequence[MetricWriter] = (),
    **more: Any,
) -> None:
    """Train to the end, from the folder's checkpoint if there is one.

    With `training.keep_best` the model, and what learns beside it, end as they were
    evaluated best.

    Args:
        model: Trained in place; on the device that decides about TensorFloat-32.
        agent: Collects, and is evaluated.
        envs: Where it acts.
        training: The settings.
        seed: Of the run, see `OnlineTrainer`.
        directory: Of the run.
        watches: What is measured beside the trainer's own timers: see `Measured`.
        tensorboard: See `OnlineTrainer.run`.
        quiet: Likewise.
        writers: Likewise.
        **more: Of `OnlineTrainer`.
    """
    trainer = Measured(
        model,
        agent,
        envs,
        on_device(training, next(model.parameters()).device),
        seed=seed,
        directory=directory,
        watches=watches or {},
        **more,
    )
    trainer.run(tensorboard=tensorboard, quiet=quiet, writers=writers)
    if training.keep_best:
        trainer.load_best()


Config = TypeVar("Config", OnlineConfig, OfflineConfig)


def on_device(config: Config, device: torch.device) -> Config:
    """Return the settings with TensorFloat-32 on a GPU; a CPU has no such thing."""
    if device.type == "cpu" or config.optimizer.precision != "float32":
        return config
    return replace(config, optimizer=replace(config.optimizer, precision="tf32"))


class Measured(OnlineTrainer):
    """An online trainer that also says what a plan and an image cost.

    Args:
        *arguments: Of `OnlineTrainer`.
        watches: A stopwatch for "rendering" gives `time/rendering_share`, one for any
            other name, such as "plan", `time/seconds_per_plan`.
        **keywords: Of `OnlineTrainer`.
    """

    def __init__(
        self, *arguments: Any, watches: Mapping[str, Stopwatch], **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self._watches = watches

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Play a round; see `OnlineTrainer.play_round`."""
        step, metrics = super().play_round(index)
        for name, watch in self._watches.items():
            seconds, calls = watch.collect()
            if name == "rendering":
                metrics["time/rendering_share"] = seconds / metrics["time/seconds"]
            elif calls:
                metrics[f"time/seconds_per_{name}"] = seconds / calls
        return step, metrics
