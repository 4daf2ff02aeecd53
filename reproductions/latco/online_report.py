"""Learning curves and table rows of online runs, computed from the ledger."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reproductions.common import ledger
from reproductions.common.experiment import Results
from reproductions.common.figures import COLOURS, draw_runs, new_figure, save_figure
from reproductions.common.metrics import Rounds
from reproductions.common.provenance import Records, mark
from reproductions.common.runs import folders
from reproductions.common.stages import SETTINGS
from reproductions.common.statistics import Estimate, mean
from reproductions.common.tables import write_text
from reproductions.common.units import INPUTS, read_json_or_none, read_record
from reproductions.latco.online_config import PLANNERS

FINAL_EPISODES = {"online": 8, "paper": 100}
"""Most recent training episodes of a run that a table's number is the mean of."""
KINDS = ("collect", "test")
BIN_STEPS = 30_000
"""Environment steps per point of the paper's learning curves."""
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
        """Name of the planner."""
        return str(self.settings["run"]["planner"]["name"])

    def cost(self) -> dict[str, float]:
        """Return the mean of each measure of time, without the first round."""
        found = {}
        for name in COST_METRICS:
            known = [metrics.get(f"time/{name}") for metrics in self.rounds[1:]]
            if any(value is not None for value in known):
                # A round without evaluation spent nothing on it.
                found[name] = float(np.mean([value or 0.0 for value in known]))
        return found


@dataclass(frozen=True)
class Row:
    """One line of the table of online runs.

    Attributes:
        task: Name.
        planner: Name.
        measure: success or return.
        random: Of the seed episodes.
        training: Of the last training episodes, with exploration noise.
        test: Of the last noise-free evaluation; None if there was none.
        steps: Environment steps of the shortest run.
        seeds: Of the runs.
        cost: Where the time went, mean over runs.
        fast_images: Whether any of the runs saw images without shadows.
        mark: `*` if what made them is in no commit, see `provenance.mark`.
    """

    task: str
    planner: str
    measure: str
    random: Estimate
    training: Estimate
    test: Estimate | None
    steps: int
    seeds: list[int]
    cost: dict[str, float]
    fast_images: bool = False
    mark: str = ""


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
        found.setdefault(row["unit"], []).append(row)
    return [
        Run(rows[0]["task"], rows[0]["planner"], int(rows[0]["seed"]), unit, rows)
        for unit, rows in found.items()
    ]


def summarise(
    runs: Sequence[Run], final_episodes: int, cost: dict[str, float], records: Records
) -> Row:
    """Return the table's line of several seeds of one task and planner."""
    tests = [run.score("test", slice(-1, None)) for run in runs]
    training = [run.score("collect", slice(1, None), final_episodes) for run in runs]
    settings = [records[r.unit]["settings"] for r in runs if r.unit in records]
    return Row(
        task=runs[0].task,
        planner=runs[0].planner,
        measure=runs[0].measure,
        random=mean([run.score("collect", slice(0, 1)) for run in runs]),
        training=mean(training),
        test=None if any(map(math.isnan, tests)) else mean(tests),
        steps=min(run.steps for run in runs),
        seeds=[run.seed for run in runs],
        cost=cost,
        fast_images=any(map(_fast_images, settings)),
        mark=mark(records, *(run.unit for run in runs)),
    )


def _fast_images(settings: Mapping[str, Any]) -> bool:
    """Return whether a run saw images without shadows; the first had no choice."""
    preset = settings["run"].get("render_preset", "fast")
    return settings["run"].get("observation") == "pixels" and preset == "fast"


def grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs by task and planner, planners in the paper's order."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.task, PLANNERS.index(run.planner))):
        found.setdefault((run.task, run.planner), []).append(run)
    return found


def write(results: Results, name: str) -> list[Row]:
    """Put the runs into the ledger; write figures and JSON; return the table's lines.

    Args:
        results: Whose output receives rows of the ledger, `<name>.json` (the lines)
            and `<name>_<task>.png`; what it holds of units that have no run stays.
        name: online or paper.
    """
    output, fresh = results.output, histories(results.runs)
    for unit, history in fresh.items():
        ledger.add(output, entries(history, name, unit))
    published, groups = output / f"{name}.json", grouped(read(output, name))
    if not groups:
        return []
    costs = _costs(published) | _mean_costs(list(fresh.values()))
    for task in dict.fromkeys(task for task, _ in groups):
        chosen = {who: each for (what, who), each in groups.items() if what == task}
        path = output / f"{name}_{task.rpartition('/')[2]}.png"
        save_figure(learning_figure(task, chosen), path)
    rows = [
        summarise(each, FINAL_EPISODES[name], costs.get(key, {}), results.records)
        for key, each in groups.items()
    ]
    text = json.dumps([_plain(asdict(row)) for row in rows], indent=2) + "\n"
    write_text(published, text)
    return rows


def _costs(published: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return where the time of published runs went, by task and planner."""
    text = published.read_text(encoding="utf-8") if published.exists() else "[]"
    return {(row["task"], row["planner"]): row["cost"] for row in json.loads(text)}


def _mean_costs(
    runs: Sequence[History],
) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for run in runs:
        found.setdefault((run.task, run.planner), []).append(run.cost())
    return {
        key: {
            name: float(np.mean([cost[name] for cost in costs]))
            for name in COST_METRICS
            if all(name in cost for cost in costs)
        }
        for key, costs in found.items()
    }


def _plain(value: Any) -> Any:
    """Return a copy for JSON, which has no NaN: None takes its place."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def learning_figure(task: str, groups: dict[str, list[Run]]) -> Any:
    """Draw training and test scores against thousands of environment steps."""
    figure, axes = new_figure(columns=2, size=(4.4, 3.2))
    measure = next(iter(groups.values()))[0].measure
    for colour, (planner, runs) in zip(COLOURS, groups.items(), strict=False):
        for axis, prefix in zip(axes[0], KINDS, strict=True):
            series = [run.series(prefix) for run in runs]
            series = [binned(*pair) for pair in series if len(pair[0])]
            if series:
                steps, values = zip(*series, strict=True)
                thousands = [array / 1000 for array in steps]
                draw_runs(axis, thousands, values, planner, colour)
        level = float(np.mean([run.score("collect", slice(0, 1)) for run in runs]))
    for axis in axes[0]:
        axis.axhline(level, color="black", linestyle=":", linewidth=1, label="random")
        axis.set(xlabel="environment steps, thousands", ylim=(0, None))
        axis.legend(fontsize=7)
    axes[0, 0].set(ylabel=measure, title=f"{task}: training episodes, with noise")
    axes[0, 1].set_title("noise-free test episodes")
    return figure


def binned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means over bins of 30,000 steps as in the paper, for long runs only."""
    if steps[-1] < 4 * BIN_STEPS:
        return steps, values
    index = steps // BIN_STEPS
    places = np.unique(index)
    means = np.array([values[index == place].mean() for place in places])
    return (places + 1) * BIN_STEPS, means
