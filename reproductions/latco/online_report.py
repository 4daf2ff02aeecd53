"""Learning curves and table rows of online runs, made from their `metrics.csv`."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reproductions.common.figures import COLOURS, draw_runs, new_figure, save_figure
from reproductions.common.metrics import Rounds
from reproductions.common.runs import folders
from reproductions.common.stages import SETTINGS
from reproductions.common.statistics import Estimate, mean
from reproductions.common.tables import write_csv, write_text
from reproductions.latco.online_config import PLANNERS

FINAL_EPISODES = {"online": 8, "paper": 100}
"""Most recent training episodes of a run that a table's number is the mean of."""
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
        rounds: What was measured.
    """

    seed: int
    settings: dict[str, Any]
    rounds: Rounds

    @classmethod
    def read(cls, directory: Path) -> "History":
        """Read a run's folder."""
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
        return cls(settings["seed"], settings, Rounds.read(directory))

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.settings["run"]["task"])

    @property
    def planner(self) -> str:
        """Name of the planner."""
        return str(self.settings["run"]["planner"]["name"])

    @property
    def fast_images(self) -> bool:
        """Whether it saw images without shadows; the first runs had no choice."""
        run = self.settings["run"]
        preset = run.get("render_preset", "fast")
        return run.get("observation") == "pixels" and preset == "fast"

    @property
    def measure(self) -> str:
        """What counts: success where the task knows it, else the return."""
        return "success" if "collect/success" in self.rounds.metrics[0] else "return"

    def episodes(self, rounds: slice = slice(None)) -> list[float]:
        """Return what each collected episode of some rounds scored."""
        ending = f"/{self.measure}"
        return [
            value
            for metrics in self.rounds.metrics[rounds]
            for name, value in metrics.items()
            if name.startswith("collect/episode_") and name.endswith(ending)
        ]

    def cost(self) -> dict[str, float]:
        """Return the mean of each measure of time, without the first round."""
        found = {}
        for name in COST_METRICS:
            known = [metrics.get(f"time/{name}") for metrics in self.rounds.metrics[1:]]
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


def histories(directory: Path) -> list[History]:
    """Return all runs below a folder that have a round, finished or not."""
    found = [
        History.read(folder)
        for folder in folders(directory)
        if (folder / SETTINGS).exists() and (folder / "metrics.csv").exists()
    ]
    return [history for history in found if history.rounds.steps]


def summarise(runs: Sequence[History], final_episodes: int) -> Row:
    """Return the table's line of several seeds of one task and planner."""
    tests = [run.rounds.series(f"test/{run.measure}")[1] for run in runs]
    finals = [run.episodes(slice(1, None))[-final_episodes:] for run in runs]
    costs = [run.cost() for run in runs]
    names = [name for name in COST_METRICS if all(name in cost for cost in costs)]
    return Row(
        task=runs[0].task,
        planner=runs[0].planner,
        measure=runs[0].measure,
        random=mean([float(np.mean(run.episodes(slice(0, 1)))) for run in runs]),
        training=mean([float(np.mean(values or [np.nan])) for values in finals]),
        test=mean([float(values[-1]) for values in tests])
        if all(len(values) for values in tests)
        else None,
        steps=min(run.rounds.steps[-1] for run in runs),
        seeds=[run.seed for run in runs],
        cost={name: float(np.mean([cost[name] for cost in costs])) for name in names},
        fast_images=any(run.fast_images for run in runs),
    )


def grouped(runs: Sequence[History]) -> dict[tuple[str, str], list[History]]:
    """Return the runs by task and planner, planners in the paper's order."""
    found: dict[tuple[str, str], list[History]] = {}
    for run in sorted(runs, key=lambda run: (run.task, PLANNERS.index(run.planner))):
        found.setdefault((run.task, run.planner), []).append(run)
    return found


def write(directory: Path, output: Path, name: str) -> list[Row]:
    """Write raw curves and one figure per task; return the table's lines.

    Args:
        directory: Of the runs.
        output: Receives `<name>.csv`, `<name>.json` (the lines) and
            `<name>_<task>.png`; they stay as they are where no run has begun.
        name: online or paper.
    """
    runs = histories(directory)
    published = output / f"{name}.json"
    if not runs:
        return _read(published) if published.exists() else []
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / f"{name}.csv", [row for run in runs for row in _curve(run)])
    groups = grouped(runs)
    for task in dict.fromkeys(task for task, _ in groups):
        chosen = {who: each for (what, who), each in groups.items() if what == task}
        path = output / f"{name}_{task.rpartition('/')[2]}.png"
        save_figure(learning_figure(task, chosen), path)
    rows = [summarise(each, FINAL_EPISODES[name]) for each in groups.values()]
    text = json.dumps([_plain(asdict(row)) for row in rows], indent=2) + "\n"
    write_text(published, text)
    return rows


def _plain(value: Any) -> Any:
    """Return a copy for JSON, which has no NaN: None takes its place."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _read(path: Path) -> list[Row]:
    found = json.loads(path.read_text(encoding="utf-8"))
    for row in found:
        for name in ("random", "training", "test"):
            numbers = row[name]
            if numbers is not None:
                known = {k: math.nan if v is None else v for k, v in numbers.items()}
                row[name] = Estimate(**known)
    return [Row(**row) for row in found]


def _curve(run: History) -> list[dict[str, object]]:
    return [
        {
            "task": run.task,
            "planner": run.planner,
            "seed": run.seed,
            "round": index,
            "environment_step": step,
            "collect_return": metrics["collect/return"],
            "collect_success": metrics.get("collect/success", ""),
            "test_return": metrics.get("test/return", ""),
            "test_success": metrics.get("test/success", ""),
            "seconds": round(metrics["time/seconds"], 3),
        }
        for index, (step, metrics) in enumerate(
            zip(run.rounds.steps, run.rounds.metrics, strict=True)
        )
    ]


def learning_figure(task: str, groups: dict[str, list[History]]) -> Any:
    """Draw training and test scores against thousands of environment steps."""
    figure, axes = new_figure(columns=2, size=(4.4, 3.2))
    measure = next(iter(groups.values()))[0].measure
    for colour, (planner, runs) in zip(COLOURS, groups.items(), strict=False):
        for axis, prefix in zip(axes[0], ("collect", "test"), strict=True):
            series = [run.rounds.series(f"{prefix}/{measure}") for run in runs]
            series = [binned(*pair) for pair in series if len(pair[0])]
            if series:
                steps, values = zip(*series, strict=True)
                thousands = [array / 1000 for array in steps]
                draw_runs(axis, thousands, values, planner, colour)
        level = float(np.mean([np.mean(run.episodes(slice(0, 1))) for run in runs]))
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
