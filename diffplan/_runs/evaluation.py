"""How well a trained run acts on fresh starts, and what random actions get there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffplan._runs.estimates import Estimate, mean
from diffplan._runs.folder import LoadedRun
from diffplan._runs.tables import markdown_table
from diffplan.agents import Agent, UniformAgent
from diffplan.training.evaluate import Evaluation, evaluate
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed

RANDOM = "random actions"


@dataclass(frozen=True)
class Score:
    """The episodes of one agent.

    Attributes:
        agent: Its name.
        seeds: Of the episodes.
        evaluation: Their results.
    """

    agent: str
    seeds: Sequence[int]
    evaluation: Evaluation

    def mean(self) -> Estimate:
        """Return the mean return with its interval over the episodes."""
        return mean(self.evaluation.returns.tolist())

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each episode."""
        found, successes = self.evaluation, self.evaluation.successes
        return [
            {
                "agent": self.agent,
                "episode": number,
                "seed": seed,
                "return": float(found.returns[number]),
                "length": int(found.lengths[number]),
                "success": "" if successes is None else int(successes[number]),
            }
            for number, seed in enumerate(self.seeds)
        ]


def score(loaded: LoadedRun, episodes: int, use: str) -> Score:
    """Return what the agent of a run gets, without exploration noise.

    Args:
        loaded: The run, with the planner that is to be measured.
        episodes: How many, on starts that follow from the run's seed.
        use: What they are for, such as "evaluation": each use has starts of its own.
    """
    return _played(loaded, loaded.agent, loaded.settings.planner_name, episodes, use)


def score_random(loaded: LoadedRun, episodes: int, use: str) -> Score:
    """Return what uniformly random actions get from the same starts."""
    agent = UniformAgent(loaded.agent.action_space)
    return _played(loaded, agent, RANDOM, episodes, use)


def summary(scores: Sequence[Score]) -> str:
    """Return a table with a line for each agent."""
    rows = []
    for each in scores:
        successes = each.evaluation.successes
        rate = "–" if successes is None else f"{100 * successes.mean():.0f} %"
        rows.append([each.agent, len(each.seeds), each.mean().number(1), rate])
    return markdown_table(["agent", "episodes", "return [95 %]", "success"], rows)


def _played(
    loaded: LoadedRun, agent: Agent, name: str, episodes: int, use: str
) -> Score:
    seeds = [
        derive_seed(loaded.seed, use, number, bits=SIMULATOR_BITS)
        for number in range(episodes)
    ]
    key = derive_seed(loaded.seed, use, "agent")
    with loaded.environments() as envs:
        return Score(name, seeds, evaluate(agent, envs, seeds, agent_seed=key))
