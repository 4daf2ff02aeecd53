"""What a task gives away: episodes of random actions and of none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from diffplan._runs.online import OnlineRun, action_box
from diffplan._runs.tables import read_csv, write_csv
from diffplan._runs.tasks import make_task
from diffplan.agents import Agent, UniformAgent
from diffplan.envs.vector import VectorEnv
from diffplan.problem import Box
from diffplan.training._interaction import run_episodes
from diffplan.training.episode import Episode
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.common import ledger
from reproductions.common.provenance import Records, mark
from reproductions.common.runs import folders
from reproductions.common.statistics import Estimate, mean
from reproductions.common.units import Unit, read_record

KIND = "idle"
"""Of the ledger's rows, and the name of the units."""
EPISODES = 10
FILE = "idle.csv"


def still(action_space: Box) -> Agent:
    """Return an agent that never moves: what the task gives away."""
    nothing = torch.zeros_like(action_space.low)
    return UniformAgent(Box(nothing, nothing))


def unit(experiment: str, run: OnlineRun, folder: Path) -> Unit:
    """Return the unit that measures the task of a run.

    Args:
        experiment: First part of its name, which the task follows.
        run: Gives task and action repeat; whatever learns has no part in it.
        folder: Receives the folder `idle`.
    """
    task = run.task.rpartition("/")[2]
    work = partial(
        measure,
        task=run.task,
        action_repeat=run.training.action_repeat,
        episodes=EPISODES,
        directory=folder / KIND,
    )
    return Unit(f"{experiment}/{task}/{KIND}", work, folder / KIND)


def measure(task: str, action_repeat: int, episodes: int, directory: Path) -> None:
    """Play episodes of random actions and of none; write `idle.csv`.

    Args:
        task: See `make_task`.
        action_repeat: Simulated steps of an action.
        episodes: How many of each, from the same states.
        directory: Of the unit.
    """
    make = partial(make_task, task, observation="state", action_repeat=action_repeat)
    seeds = [derive_seed(0, "test", i, bits=SIMULATOR_BITS) for i in range(episodes)]
    rows = []
    with VectorEnv([make] * episodes) as environments:
        box = action_box(environments.single_action_space)
        for name, agent in {"random": UniformAgent(box), "still": still(box)}.items():
            played = run_episodes(agent, environments, seeds, agent_seed=0)
            rows += [{"planner": name, **row} for row in episode_rows(played)]
    write_csv(directory / FILE, rows)


def episode_rows(episodes: Sequence[Episode]) -> list[dict[str, object]]:
    """Return what the ledger says of episodes from numbered starts."""
    return [
        {
            "episode": index,
            "outcome": "" if e.succeeded is None else int(e.succeeded),
            "episode_return": e.episode_return,
            "initial_distance": e.initial_info.get("distance", ""),
            "solved_at_start": e.initial_info.get("success", ""),
        }
        for index, e in enumerate(episodes)
    ]


def entries(runs: Path, experiment: str) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of the finished units below a run folder."""
    for folder in folders(runs):
        record = read_record(folder)
        if record is None or folder.name != KIND:
            continue
        for row in read_csv(folder / FILE):
            yield {
                "experiment": experiment,
                "unit": record["name"],
                "model_evaluations": 0,
                "milliseconds": 0,
                "task": record["settings"]["task"],
                "kind": KIND,
                "episodes": 1,
                **row,
            }


@dataclass(frozen=True)
class Idle:
    """A line of a table: what an agent earned that knows nothing.

    Attributes:
        task: Name.
        agent: random or still.
        score: Of episodes from states of their own, with an interval over episodes.
        mark: `*` if what made it is in no commit, see `provenance.mark`.
    """

    task: str
    agent: str
    score: Estimate
    mark: str


def read(output: Path, experiment: str, records: Records) -> list[Idle]:
    """Return what the ledger has of an experiment, with marks from the records."""
    found: dict[tuple[str, str], list[ledger.Row]] = {}
    for row in ledger.read(output, experiment):
        if row.get("kind") == KIND:
            found.setdefault((row["task"], row["planner"]), []).append(row)
    return [
        Idle(
            task,
            agent,
            mean([float(row["outcome"] or row["episode_return"]) for row in rows]),
            mark(records, rows[0]["unit"]),
        )
        for (task, agent), rows in found.items()
    ]
