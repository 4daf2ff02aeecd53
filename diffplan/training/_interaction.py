"""Agents in environments: whole episodes, many at a time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from diffplan.agents._base import Agent, AgentState
from diffplan.errors import ArgumentError
from diffplan.training.episode import Episode
from diffplan.training.seeding import derive_seed

Timing = Callable[[str], AbstractContextManager[None]]
Observer = Callable[[int, np.ndarray, AgentState, np.ndarray], None]
"""`(number of the batch's first episode, observations [B, …], agent state after acting,
whether each episode still runs [B])`."""


@runtime_checkable
class Environments(Protocol):
    """Several environments that step together, as `diffplan.envs.vector.VectorEnv`.

    Infos are those of a `gymnasium.vector.VectorEnv`: an array for each entry, and the
    mask `_entry` of the environments that gave it.
    """

    num_envs: int

    def reset(self, *, seed: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes that the seeds fully determine."""
        ...

    def step(
        self, actions: np.ndarray, *, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the environments of the mask.

        Returns:
            Observations, rewards, terminated, truncated and infos, all `[B, …]`.
        """
        ...


def run_episodes(
    agent: Agent,
    environments: Environments,
    seeds: Sequence[int],
    *,
    agent_seed: int = 0,
    explore: bool = False,
    timing: Timing = lambda name: nullcontext(),  # noqa: ARG005
    observer: Observer | None = None,
) -> list[Episode]:
    """Run one whole episode for each seed.

    Episodes run in batches of `environments.num_envs`. An episode depends on its own
    seed and on `agent_seed`; on the batch only by rounding.

    Args:
        agent: Acts in the whole batch at once.
        environments: The batch; smaller last batches leave some at rest.
        seeds: One per episode.
        agent_seed: Determines the agent's randomness.
        explore: Whether the agent adds exploration noise.
        timing: Context managers by name, for "planning" and "environment".
        observer: Called after every decision, for videos.

    Returns:
        The episodes, in the order of the seeds.
    """
    episodes: list[Episode] = []
    size = environments.num_envs
    for first in range(0, len(seeds), size):
        batch = _Batch(environments, seeds[first : first + size], timing)
        agent_state = agent.initial_state(size, seed=agent_seed, keys=batch.keys)
        device = agent_state.action.device
        while batch.running.any():
            with timing("planning"):
                observation = torch.from_numpy(batch.observations).to(device)
                action, agent_state = agent.act(
                    observation, agent_state, explore=explore
                )
                numbers = action.cpu().numpy()
            if observer is not None:
                observer(first, batch.observations, agent_state, batch.running)
            batch.step(numbers)
        episodes += batch.episodes()
    return episodes


class _Batch:
    """Episodes that run side by side, one in each environment, at most."""

    def __init__(
        self, environments: Environments, seeds: Sequence[int], timing: Timing
    ) -> None:
        self.environments, self.timing = environments, timing
        size = environments.num_envs
        if not seeds:
            raise ArgumentError("seeds: expected at least one")
        self.running = np.arange(size) < len(seeds)
        self.count = len(seeds)
        # A resting environment is reset too, so that the agent sees a valid
        # observation there; its actions go nowhere.
        padded = [*seeds, *[seeds[-1]] * (size - len(seeds))]
        # Whatever a seed is, its hash is an int64 number.
        self.keys = torch.tensor([derive_seed(seed, "episode") for seed in padded])
        with timing("environment"):
            self.observations, infos = environments.reset(seed=padded)
        self.infos = [_numbers(infos, index) for index in range(size)]
        self.records = [_Record(image) for image in self.observations]

    def step(self, actions: np.ndarray) -> None:
        """Step the running environments and record what they answer."""
        with self.timing("environment"):
            observations, rewards, terminated, truncated, infos = (
                self.environments.step(actions, mask=self.running)
            )
        for i in np.flatnonzero(self.running).tolist():
            record = self.records[i]
            record.append(
                actions[i], observations[i], float(rewards[i]), _numbers(infos, i)
            )
            record.terminated = bool(terminated[i])
        self.observations = observations
        self.running = self.running & ~(terminated | truncated)

    def episodes(self) -> list[Episode]:
        """Return what was recorded."""
        records = zip(self.records, self.infos, strict=True)
        return [record.episode(info) for record, info in list(records)[: self.count]]


class _Record:
    """An episode in the making."""

    def __init__(self, observation: np.ndarray) -> None:
        self.observations = [observation]
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.successes: list[float | None] = []
        self.terminated = False

    def append(
        self,
        action: np.ndarray,
        observation: np.ndarray,
        reward: float,
        info: dict[str, float],
    ) -> None:
        self.actions.append(action)
        self.observations.append(observation)
        self.rewards.append(reward)
        self.successes.append(info.get("success"))

    def episode(self, initial_info: dict[str, float]) -> Episode:
        told = any(each is not None for each in self.successes)
        # A step that does not tell it, where others do, was none.
        success = [each or 0.0 for each in self.successes] if told else None
        return Episode(
            observations=np.stack(self.observations),
            actions=np.stack(self.actions).astype(np.float32),
            rewards=np.asarray(self.rewards, np.float32),
            success=None if success is None else np.asarray(success, np.float32),
            initial_info=initial_info,
            terminated=self.terminated,
        )


def _numbers(infos: dict[str, Any], index: int) -> dict[str, float]:
    """Return the single numbers of an environment's info."""
    numbers = {}
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue  # The mask of another entry.
        mask = infos.get(f"_{name}")
        if isinstance(values, np.ndarray) and (mask is None or mask[index]):
            value = values[index]
            if isinstance(value, bool | int | float | np.number | np.bool_):
                numbers[name] = float(value)
    return numbers
