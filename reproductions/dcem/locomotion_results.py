"""What stage (c) found: episodes of the ledger, and what is known of their units."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffplan._runs.metrics import Rounds
from diffplan._runs.tables import read_csv
from reproductions.common import ledger
from reproductions.common.provenance import Records, mark_of, source_of
from reproductions.common.stages import DONE, SETTINGS
from reproductions.dcem.locomotion import IDLE, PHASES
from reproductions.dcem.locomotion_config import TASKS
from reproductions.dcem.locomotion_evaluation import COST, RETURNS
from reproductions.dcem.locomotion_figures import TITLES

EXPERIMENT, TESTED = "locomotion", "locomotion_phases.csv"


@dataclass(frozen=True)
class Tested:
    """The episodes after one phase of one task, those of all seeds together.

    Attributes:
        task: Its name.
        phase: One of `PHASES` or of `IDLE`.
        models: How many were trained.
        returns: Of the episodes, `[seeds, episodes]`: all phases play the same ones.
        steps: Simulated steps that the phase was trained on, mean over seeds.
        evaluations: Transitions that were evaluated for an action; NaN for these.
        seconds: Wall time of an action, environment included; NaN for these.
        time_limit: Simulated steps of an episode.
        source: The commits of training and tests.
    """

    task: str
    phase: str
    models: int
    returns: np.ndarray
    steps: float
    evaluations: float
    seconds: float
    time_limit: int
    source: str

    @property
    def label(self) -> str:
        """Its controller, with a mark if what made it is in no commit."""
        return TITLES[self.phase] + mark_of(self.source)

    def quartiles(self) -> tuple[float, float, float]:
        """Return first quartile, median and third quartile."""
        low, middle, high = np.percentile(self.returns, (25, 50, 75)).tolist()
        return low, middle, high


def read_tested(output: Path) -> list[Tested]:
    """Return the phases that are published."""
    if not (output / TESTED).exists():
        return []
    returns: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in ledger.read(output, EXPERIMENT):
        seeds = returns.setdefault((row["task"], row["planner"]), {})
        seeds.setdefault(row["unit"], []).append(float(row["episode_return"]))
    return [
        Tested(
            row["task"],
            row["phase"],
            int(row["models"]),
            np.array(list(returns[row["task"], row["phase"]].values())),
            float(row["steps"]),
            float(row["evaluations"]),
            float(row["seconds"]),
            int(row["time_limit"]),
            row["source"],
        )
        for row in read_csv(output / TESTED)
    ]


def finished_tests(directory: Path) -> dict[tuple[str, str], list[Path]]:
    """Return the folders of finished tests, by task and phase."""
    found = {}
    for task in TASKS:
        for phase in (*IDLE, *PHASES):
            pattern = phase if phase in IDLE else f"seed_*/{phase}_tests"
            folders = sorted(
                path.parent for path in (directory / task).glob(f"{pattern}/{DONE}")
            )
            if folders:
                found[task, phase] = folders
    return found


def entries(
    finished: Mapping[tuple[str, str], Sequence[Path]],
) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of finished tests."""
    for (task, phase), folders in finished.items():
        for folder in folders:
            record = json.loads((folder / DONE).read_text(encoding="utf-8"))
            cost = _cost(folder)
            for index, row in enumerate(read_csv(folder / RETURNS)):
                yield {
                    "experiment": EXPERIMENT,
                    "unit": record["name"],
                    "planner": phase,
                    "seed": record["settings"].get("seed"),
                    "episode": index,
                    "episode_return": row["return"],
                    "model_evaluations": cost.get("evaluations_per_action"),
                    "milliseconds": 1000 * cost.get("seconds_per_action", math.nan),
                    "task": task,
                }


def _cost(folder: Path) -> dict[str, float]:
    path = folder / COST
    if not path.exists():
        return {}
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def phase_row(
    task: str, phase: str, folders: Sequence[Path], records: Records
) -> dict[str, object]:
    """Return what is known of the units behind the episodes of a phase."""
    costs = [cost for cost in map(_cost, folders) if cost]
    trained = [folder.with_name(phase) for folder in folders] if costs else []
    steps = [Rounds.read(folder).steps[-1] for folder in trained]
    settings = json.loads((folders[0] / SETTINGS).read_text(encoding="utf-8"))

    def average(name: str) -> float:
        return float(np.mean([cost[name] for cost in costs])) if costs else math.nan

    start = f"locomotion/{task}/"
    names = [
        name
        for name in records
        if name.startswith(start)
        and name.rpartition("/")[2] in (phase, f"{phase}_tests")
    ]
    return {
        "task": task,
        "phase": phase,
        "models": len(folders),
        "steps": float(np.mean(steps)) if steps else 0.0,
        "evaluations": average("evaluations_per_action"),
        "seconds": average("seconds_per_action"),
        "time_limit": settings["place"]["world"]["time_limit"],
        "source": source_of(records, *names),
    }
