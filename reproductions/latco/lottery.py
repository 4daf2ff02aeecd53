"""Lottery: which goal planners choose where the better one is a matter of chance.

For each training seed: collect episodes that reach either goal equally often, fit a
small RSSM to them, ask it what it knows of the risk, then let every planner act with
it from the same starts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffplan.envs
from diffplan._runs.online import action_box
from diffplan._runs.settings import Settings
from diffplan._runs.stopwatch import planner_watch
from diffplan._runs.tables import write_csv, write_text
from diffplan.envs.base import SimulatorEnv
from diffplan.envs.lottery import GOALS, PAYOFFS
from diffplan.models.rssm import RSSM
from diffplan.training._interaction import run_episodes
from diffplan.training.episode import Episode
from diffplan.training.offline import OfflineConfig
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.seeding import (
    SIMULATOR_BITS,
    derive_seed,
    make_generator,
)
from reproductions.common.stages import Unit
from reproductions.latco.comparison import make_agent, of_seed
from reproductions.latco.comparison_config import EvaluationConfig
from reproductions.latco.comparison_model import filtered_states, fit
from reproductions.latco.comparison_planners import evaluations
from reproductions.latco.data import PARTS, complete
from reproductions.latco.iterates import start_seeds
from reproductions.latco.lottery_config import LotteryConfig

EXPERIMENT = "lottery"


def units(config: LotteryConfig, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return the work: data, a model, what it knows of risk, and planners.

    Args:
        config: The settings.
        seeds: One model is trained for each.
        directory: Receives `seed_<n>/{data,model,risk,<planner>}`.
    """
    return [unit for seed in seeds for unit in _units_of(config, seed, directory)]


def _units_of(config: LotteryConfig, seed: int, directory: Path) -> list[Unit]:
    folder, unit = directory / f"seed_{seed}", of_seed(EXPERIMENT, seed, directory)
    given = {"task": config.task, "steps": config.steps}
    data, model = folder / "data", folder / "model" / "model.pt"
    gathering = partial(
        collect,
        **given,
        counts=(config.episodes, config.validation_episodes),
        noise=config.noise,
        wander=config.wander,
    )
    fitting = partial(
        train, data_directory=data, model=config.model, training=config.training
    )
    asking = partial(
        judge, **given, data_directory=data, model_path=model, rollouts=config.rollouts
    )
    made = [
        unit("data", gathering),
        unit("model", fitting, "data"),
        unit("risk", asking, "data", "model"),
    ]
    for name in config.planners:
        run = partial(
            evaluate,
            **given,
            planner=name,
            settings=config.settings(name),
            evaluation=config.evaluation,
            model_path=model,
        )
        made.append(unit(name, run, "model"))
    return made


def collect(
    directory: Path,
    task: str,
    steps: int,
    counts: tuple[int, int],
    noise: float,
    wander: int,
    seed: int,
) -> None:
    """Collect all episodes that are not there yet, for either goal in turn."""
    env = diffplan.envs.make(task, time_limit=steps)

    def episode(part: str, index: int) -> Episode:
        rng = np.random.default_rng(derive_seed(seed, part, index))
        goal = list(GOALS.values())[index % len(GOALS)]
        return play(env, goal, noise, int(rng.integers(wander + 1)), rng)

    for part, wanted in zip(PARTS, counts, strict=True):
        complete(directory / part, wanted, partial(map, partial(episode, part)))
    env.close()


def play(
    env: SimulatorEnv,
    goal: np.ndarray,
    noise: float,
    wander: int,
    rng: np.random.Generator,
) -> Episode:
    """Play one episode: first to a random place, then with noise to the goal."""
    observation, _ = env.reset(seed=int(rng.integers(2**SIMULATOR_BITS)))
    observations, actions, rewards = [observation], [], []
    place, over = rng.uniform(-1, 1, 2), False
    while not over:
        target = place if len(actions) < wander else goal
        action = (target + noise * rng.standard_normal(2)).clip(-1, 1)
        actions.append(action.astype(np.float32))
        observation, reward, _, over, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
    return Episode(
        observations=np.stack(observations),
        actions=np.stack(actions),
        rewards=np.asarray(rewards, np.float32),
    )


def train(
    directory: Path,
    data_directory: Path,
    model: Settings,
    training: OfflineConfig,
    seed: int,
) -> None:
    """Fit the RSSM; write `model.pt`. Resumes by itself."""
    buffer, validation = (ReplayBuffer.load(data_directory / part) for part in PARTS)
    rssm = fit(directory, buffer, validation, model, training, seed)
    rssm.save(directory / "model.pt")


@torch.no_grad()
def judge(
    directory: Path,
    data_directory: Path,
    model_path: Path,
    task: str,
    steps: int,
    rollouts: int,
    seed: int,
) -> None:
    """Write `risk.json`: what the model says of each goal, beside the truth.

    From the starts of the validation episodes, each goal held as the action: the return
    of the rollout by the mean, and of sampled rollouts their mean and the shares that
    win and lose; besides, the reward that filtered states are said to have earned.
    """
    model = RSSM.load(model_path).eval()
    episodes = ReplayBuffer.load(data_directory / PARTS[1]).episodes
    first = filtered_states(model, episodes)[:, 0]
    payoff = PAYOFFS[task.rpartition("/")[2]]
    generator = make_generator(seed, "risk")
    found: dict[str, object] = {}
    for name, goal in GOALS.items():
        action = torch.tensor(goal, dtype=first.dtype)
        mean = _return(model, first, action, steps, None)
        many = first.repeat(rollouts, 1)
        sampled = _return(model, many, action, steps, generator)
        better, worse = 0.5 * payoff.win, 0.5 * payoff.loss
        found[name] = {
            "truth": payoff.top if name == "top" else payoff.bottom,
            "by_the_mean": float(mean.mean()),
            "by_the_mean_std": float(mean.std()),
            "sampled": float(sampled.mean()),
            "sampled_std": float(sampled.std()),
            "sampled_wins": float((sampled > better).float().mean()),
            "sampled_losses": float((sampled < worse).float().mean()),
        }
    found["seen"] = _seen(model, episodes)
    write_text(directory / "risk.json", json.dumps(found, indent=2) + "\n")


def _return(
    model: RSSM,
    state: Tensor,
    action: Tensor,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the sum of rewards under one action, by the mean or by samples."""
    total, actions = torch.zeros(len(state)), action.expand(len(state), -1)
    for _ in range(steps):
        if generator is None:
            state = model.step(state, actions)
        else:
            noise = torch.randn(len(state), model.state_size, generator=generator)
            state = model.sample_step(state, actions, noise)
        total += model.reward(state)
    return total


def _seen(model: RSSM, episodes: Sequence[Episode]) -> dict[str, object]:
    """Return by each reward the mean of what is said where it was earned."""
    said: dict[float, list[float]] = {}
    for episode in episodes:
        rewards = model.reward(filtered_states(model, [episode])[0, 1:])
        for earned, reward in zip(episode.rewards, rewards, strict=True):
            said.setdefault(float(earned), []).append(float(reward))
    return {f"{k:g}": float(np.mean(v)) for k, v in sorted(said.items())}


@dataclass(frozen=True)
class Choice:
    """One episode of one planner, a line of `results.csv`.

    Attributes:
        start: Number of the start; the same start, and the same luck, for all.
        top: 1 if the top goal was hit first.
        bottom: 1 if the bottom goal was.
        episode_return: What it paid.
        predicted_return: Of the plan, by the mean of the model that it was made with.
        model_evaluations: Of one plan.
        plan_seconds: Wall-clock seconds per plan; all starts are planned together.
        plan_cpu_seconds: Processor seconds.
    """

    start: int
    top: int
    bottom: int
    episode_return: float
    predicted_return: float
    model_evaluations: int
    plan_seconds: float
    plan_cpu_seconds: float


def evaluate(
    directory: Path,
    model_path: Path,
    task: str,
    steps: int,
    planner: str,
    settings: Settings,
    evaluation: EvaluationConfig,
    seed: int,
) -> None:
    """Let one planner act from every start; write `results.csv`."""
    model, watch = RSSM.load(model_path).eval(), planner_watch()
    count = evaluation.starts
    with diffplan.envs.make_vector(task, count, time_limit=steps) as environments:
        box = action_box(environments.single_action_space)
        episodes = run_episodes(
            make_agent(model, settings, evaluation, box, watch, model.reward),
            environments,
            start_seeds(evaluation),
            agent_seed=derive_seed(seed, "planner", planner),
        )
    predicted = torch.full((count,), torch.nan)
    if watch.first is not None:
        with torch.no_grad():
            predicted = model.reward(watch.first.states[:, 1:]).sum(dim=-1)
    top = PAYOFFS[task.rpartition("/")[2]].top
    rows = []
    for index, episode in enumerate(episodes):
        paid = float(episode.rewards.sum())  # 0 is no pay-off
        row = Choice(
            start=index,
            top=int(paid == top),
            bottom=int(paid not in (0.0, top)),
            episode_return=paid,
            predicted_return=round(float(predicted[index]), 4),
            model_evaluations=evaluations(settings, evaluation.horizon),
            plan_seconds=round(watch.wall / max(watch.calls, 1), 5),
            plan_cpu_seconds=round(watch.cpu / max(watch.calls, 1), 5),
        )
        rows.append(vars(row))
    write_csv(directory / "results.csv", rows)
