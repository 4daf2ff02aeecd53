"""Offline data of graded quality for stage (a): noise, wandering, noisy experts.

An episode follows from the seed and its number alone, so that an interrupted collection
goes on where it stopped.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import diffplan.envs
from diffplan.envs.base import SimulatorEnv
from diffplan.training.episode import Episode
from diffplan.training.replay_buffer import ReplayBuffer, episode_path
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.latco.comparison_config import STATE_VECTORS, DataConfig, Setup
from reproductions.latco.scripted import (
    HeldDirection,
    ScriptedExpert,
    UniformActions,
)

Policy = Callable[[int, np.ndarray, np.random.Generator], np.ndarray]
"""`(step, raw observation, generator) → action`."""

BEHAVIOURS = ("uniform", "held", "expert", "held", "expert")
"""Repeated over the episodes: 20, 40 and 40 %."""

DETOUR_EVERY = 3
"""One expert episode in so many begins with a random direction."""

PARTS = ("training", "validation")


def collect(
    directory: Path, data: DataConfig, seed: int, setup: Setup = STATE_VECTORS
) -> None:
    """Collect all episodes that are not there yet.

    Args:
        directory: Receives the folders `training` and `validation`.
        data: How many, and how.
        seed: Of everything random.
        setup: Images or vectors, and how many processes play.
    """

    def fill(
        mapped: Callable[..., Iterable[Episode]], play: Callable[..., Episode]
    ) -> None:
        wanted = (data.episodes, data.validation_episodes)
        for part, number in zip(PARTS, wanted, strict=True):
            complete(directory / part, number, partial(mapped, partial(play, part)))

    given = (data, seed, setup)
    if setup.num_workers == 0:
        player = Player(*given)
        fill(map, player)
        player.env.close()
        return
    # Not forked: OpenGL does not outlive a fork.
    with get_context("spawn").Pool(setup.num_workers, _begin, given) as pool:
        fill(pool.imap, _played)


class Player:
    """Plays episodes by number in an environment of its own.

    Args:
        data: How.
        seed: Of everything random.
        setup: Images or vectors.
    """

    def __init__(self, data: DataConfig, seed: int, setup: Setup) -> None:
        self.data, self.seed = data, seed
        self.env = diffplan.envs.make(data.task, **setup.seen)

    def __call__(self, part: str, index: int) -> Episode:
        """Play an episode, which follows from its part and number alone."""
        rng = np.random.default_rng(derive_seed(self.seed, part, index))
        return play(self.env, behaviour(self.data, index, rng), rng)


_OF_PROCESS: list[Player] = []
"""The one player of a process that `collect` started."""


def _begin(data: DataConfig, seed: int, setup: Setup) -> None:
    _OF_PROCESS.append(Player(data, seed, setup))


def _played(part: str, index: int) -> Episode:
    return _OF_PROCESS[0](part, index)


def complete(
    folder: Path, wanted: int, play_all: Callable[[Iterable[int]], Iterable[Episode]]
) -> None:
    """Write the episodes of a folder that are not there yet.

    Args:
        folder: Of the episodes.
        wanted: How many in all.
        play_all: `numbers → episodes`, in their order.
    """
    buffer = ReplayBuffer(folder)
    there = next(i for i in count() if not episode_path(folder, i).exists())
    buffer.restore(there)
    for episode in play_all(range(there, wanted)):
        buffer.add(episode)


def behaviour(data: DataConfig, index: int, rng: np.random.Generator) -> Policy:
    """Return who acts in episode `index`."""
    kind = BEHAVIOURS[index % len(BEHAVIOURS)]
    if kind == "uniform":
        uniform = UniformActions()
        return lambda _, raw, rng: uniform(raw, rng)
    held = HeldDirection(data.held_sigma)
    if kind == "held":
        return lambda _, raw, rng: held(raw, rng)
    level, detours = expert_settings(expert_number(index), len(data.expert_noise))
    expert = ScriptedExpert(data.task, data.expert_noise[level])
    detour = int(rng.integers(*data.detour)) if detours else 0
    return partial(_after_detour, expert, held, detour)


def expert_number(index: int) -> int:
    """Return how many expert episodes come before episode `index`."""
    return 2 * (index // len(BEHAVIOURS)) + index % len(BEHAVIOURS) // 4


def expert_settings(nth: int, levels: int) -> tuple[int, bool]:
    """Return the level of noise of the `nth` expert episode, and whether it detours.

    Both go in turn, and are crossed: at every level the same share detours.
    """
    # Turns of 3, 6 … levels would always detour at the same ones: each round of them
    # begins one level later. Other numbers cross by themselves.
    shift = nth // levels if levels % DETOUR_EVERY == 0 else 0
    return (nth + shift) % levels, nth % DETOUR_EVERY == 0


def _after_detour(
    expert: ScriptedExpert,
    held: HeldDirection,
    detour: int,
    step: int,
    raw: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    return held(raw, rng) if step < detour else expert(raw, rng)


def play(
    env: SimulatorEnv,
    policy: Policy,
    rng: np.random.Generator,
    *,
    success: bool = False,
) -> Episode:
    """Play one episode.

    Args:
        env: Where.
        policy: Who acts.
        rng: Of the start and the policy.
        success: Whether success is recorded, of a task that knows it.
    """
    observation, info = env.reset(seed=int(rng.integers(2**SIMULATOR_BITS)))
    observations, rewards, successes = [observation], [], []
    actions: list[np.ndarray] = []
    over = False
    while not over:
        actions.append(policy(len(actions), info["raw_observation"], rng))
        observation, reward, _, over, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        successes.append(info.get("success"))
    return Episode(
        observations=np.stack(observations),
        actions=np.stack(actions).astype(np.float32),
        rewards=np.asarray(rewards, np.float32),
        success=np.asarray(successes, np.float32) if success else None,
    )
