"""Online runs: their metrics in a run folder, and their episodes in the ledger."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.metrics import Rounds
from reproductions.common import ledger
from reproductions.common.runs import folders
from reproductions.common.stages import SETTINGS
from reproductions.common.units import INPUTS, read_json_or_none, read_record

KINDS = ("collect", "test")
COST_METRICS = (
    "environment_steps_per_second",
    "seconds_per_plan",
    "planning_share",
    "training_share",
    "evaluation_share",
    "environment_share",
    "rendering_share",
)


@dataclass(frozen=True)
class History:
    """The metrics of one online run, as far as it is.

    Attributes:
        seed: Of the run.
        settings: What the unit was called with.
        steps: Environment steps after each round.
        rounds: Metrics by name, for each round.
    """

    seed: int
    settings: dict[str, Any]
    steps: list[int]
    rounds: list[dict[str, float]]

    @classmethod
    def read(cls, directory: Path) -> "History":
        """Read a run's folder."""
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
        found = Rounds.read(directory)
        return cls(settings["seed"], settings, found.steps, found.metrics)

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.settings["run"]["task"])

    @property
    def planner(self) -> str:
        """Name of the planner; a run without one acts with its policy."""
        planner = self.settings["run"].get("planner", {"name": "policy"})
        return str(planner["name"])

    def cost(self) -> dict[str, float]:
        """Return the mean of each measure of time, without the first round."""
        found = {}
        for name in COST_METRICS:
            known = [metrics.get(f"time/{name}") for metrics in self.rounds[1:]]
            if any(value is not None for value in known):
                # A round without evaluation spent nothing on it.
                found[name] = float(np.mean([value or 0.0 for value in known]))
        return found


def histories(directory: Path) -> dict[str, History]:
    """Return all runs below a folder that have a round, finished or not, by unit."""
    found = {}
    for folder in folders(directory):
        if (folder / SETTINGS).exists() and (folder / "metrics.csv").exists():
            begun = read_json_or_none(folder / INPUTS) or read_record(folder) or {}
            name = begun.get("name", folder.relative_to(directory.parent).as_posix())
            found[name] = History.read(folder)
    return {name: history for name, history in found.items() if history.rounds}


@dataclass(frozen=True)
class Run:
    """The episodes of one online run, as the ledger has them.

    Attributes:
        task: Name.
        planner: Name.
        seed: Of the run.
        unit: That made it.
        rows: Of its episodes; of early runs, of the mean of each round's.
    """

    task: str
    planner: str
    seed: int
    unit: str
    rows: Sequence[ledger.Row]

    @property
    def measure(self) -> str:
        """What counts: success where the task knows it, else the return."""
        return "success" if self.rows[0]["outcome"] else "return"

    @property
    def steps(self) -> int:
        """Environment steps until now."""
        return max(int(row["environment_step"]) for row in self.rows)

    def score(self, kind: str, rounds: slice, episodes: int | None = None) -> float:
        """Return the mean score of the last episodes of some rounds, NaN without any.

        Args:
            kind: collect or test.
            rounds: Of those that have such episodes, the first being the seed episodes.
            episodes: At most so many; all if None.
        """
        chosen = sorted({int(r["round"]) for r in self.rows if r["kind"] == kind})
        wanted = {str(index) for index in chosen[rounds]}
        rows = [r for r in self.rows if r["kind"] == kind and r["round"] in wanted]
        values: list[float] = []
        for row in rows:
            values += [self._score(row)] * int(row["episodes"])
        kept = values[-episodes:] if episodes else values
        return float(np.mean(kept)) if kept else math.nan

    def series(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and mean scores of the rounds that have such episodes."""
        found: dict[int, list[float]] = {}
        for row in self.rows:
            if row["kind"] == kind:
                step = int(row["environment_step"])
                found.setdefault(step, []).append(self._score(row))
        means = [float(np.mean(values)) for values in found.values()]
        return np.array(list(found)), np.array(means)

    def _score(self, row: ledger.Row) -> float:
        name = "outcome" if self.measure == "success" else "episode_return"
        return float(row[name])


def entries(history: History, experiment: str, unit: str) -> list[dict[str, object]]:
    """Return the ledger's rows of a run: its collected and its test episodes."""
    rows: list[dict[str, object]] = []
    pairs = zip(history.steps, history.rounds, strict=True)
    for index, (step, metrics) in enumerate(pairs):
        shared = {
            "experiment": experiment,
            "unit": unit,
            "planner": history.planner,
            "seed": history.seed,
            "milliseconds": 1000 * metrics.get("time/seconds_per_plan", math.nan),
            "task": history.task,
            "round": index,
            "environment_step": step,
            "episodes": 1,
        }
        for kind in KINDS:
            number = 0
            while f"{kind}/episode_{number}/return" in metrics:
                prefix = f"{kind}/episode_{number}"
                rows.append(
                    {
                        **shared,
                        "kind": kind,
                        "episode": f"{kind} {index}.{number}",
                        "outcome": metrics.get(f"{prefix}/success"),
                        "episode_return": metrics[f"{prefix}/return"],
                        "initial_distance": metrics.get(f"{prefix}/initial_distance"),
                        "solved_at_start": metrics.get(f"{prefix}/initial_success"),
                    }
                )
                number += 1
    return rows


def read(output: Path, experiment: str) -> list[Run]:
    """Return the runs that the ledger has."""
    found: dict[str, list[ledger.Row]] = {}
    for row in ledger.read(output, experiment):
        if row["kind"] in KINDS:
            found.setdefault(row["unit"], []).append(row)
    return [
        Run(rows[0]["task"], rows[0]["planner"], int(rows[0]["seed"]), unit, rows)
        for unit, rows in found.items()
    ]
