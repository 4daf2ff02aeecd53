"""How good an agent is, measured without exploration noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffplan.agents._base import Agent
from diffplan.errors import ArgumentError
from diffplan.training._environments import require_environments
from diffplan.training._interaction import Environments, Observer, run_episodes
from diffplan.training.episode import Episode


@dataclass(frozen=True)
class Evaluation:
    """The results of E episodes.

    Attributes:
        returns: float64 `[E]`, sums of rewards.
        lengths: int64 `[E]`, numbers of decisions.
        successes: bool `[E]`: any step succeeded, as in LatCo's released evaluation
            (success at the last step only is a harder criterion); None where the
            task knows no success.
        initial_infos: What the environments told at the resets.
    """

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None
    initial_infos: list[dict[str, float]]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "Evaluation":
        """Summarise episodes.

        Raises:
            ArgumentError: there is none.
        """
        if not episodes:
            raise ArgumentError("episodes: expected at least one")
        successes = [episode.succeeded for episode in episodes]
        # One that was told of none, where others were told, had none.
        known = any(each is not None for each in successes)
        return cls(
            returns=np.array([episode.episode_return for episode in episodes]),
            lengths=np.array([episode.length for episode in episodes]),
            successes=np.array(successes, bool) if known else None,
            initial_infos=[dict(episode.initial_info) for episode in episodes],
        )

    @property
    def mean_return(self) -> float:
        """Mean over the episodes."""
        return float(self.returns.mean())

    @property
    def success_rate(self) -> float:
        """Share of successful episodes; NaN where the task knows no success."""
        return math.nan if self.successes is None else float(self.successes.mean())

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return means, standard deviations and each episode's results, for logs."""
        result = {
            f"{prefix}/return": self.mean_return,
            f"{prefix}/return_std": float(self.returns.std()),
            f"{prefix}/length": float(self.lengths.mean()),
        }
        if self.successes is not None:
            result[f"{prefix}/success"] = self.success_rate
        for index, info in enumerate(self.initial_infos):
            episode = f"{prefix}/episode_{index}"
            result[f"{episode}/return"] = float(self.returns[index])
            if self.successes is not None:
                result[f"{episode}/success"] = float(self.successes[index])
            for name, value in info.items():
                result[f"{episode}/initial_{name}"] = value
        return result


def evaluate(
    agent: Agent,
    environments: Environments | Any,
    seeds: Sequence[int],
    *,
    agent_seed: int = 0,
    observer: Observer | None = None,
) -> Evaluation:
    """Run one noise-free episode for each seed, in batches.

    Args:
        agent: Any agent.
        environments: Stepped together; see `run_episodes`.
        seeds: Of the episodes, at least one.
        agent_seed: Determines the planner's randomness.
        observer: Called after every decision, for videos.

    Raises:
        ArgumentError: `environments` is a plain one, or Gymnasium's vector.

    Example:
        >>> evaluation = evaluate(agent, envs, range(10))  # doctest: +SKIP
        >>> evaluation.mean_return  # doctest: +SKIP
        812.5
    """
    episodes = run_episodes(
        agent,
        require_environments(environments),
        list(seeds),
        agent_seed=agent_seed,
        observer=observer,
    )
    return Evaluation.of(episodes)
