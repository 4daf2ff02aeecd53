"""Learning curves and table rows of online runs, computed from the ledger."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import draw_runs, new_figure, save_figure
from diffplan._runs.tables import markdown_table, picture, write_text
from reproductions.common import idle, ledger
from reproductions.common.experiment import Results, Section
from reproductions.common.online_runs import (
    COST_METRICS,
    KINDS,
    History,
    Run,
    entries,
    histories,
    read,
)
from reproductions.common.provenance import LEGEND, Records, mark
from reproductions.common.statistics import Estimate, mean
from reproductions.common.styles import planner_styles

COLUMNS = (
    "experiment",
    "agent",
    "paper",
    "ours",
    "95 % interval",
    "baseline: random",
    "preset",
    "deviations",
)
"""Of the table at the head of a page: those of `line`."""
IDLE = {"random": "random actions", "still": "no action"}
IDLE_READING = """\
Random actions and no action: noise-free test episodes, from the same states for both;
n: episodes, which the interval is about.
"""
BIN_STEPS = 30_000
"""Environment steps per point of the paper's learning curves."""


@dataclass(frozen=True)
class Cost:
    """Where the time of runs went: its mean over their seeds."""

    seeds: list[int]
    cost: dict[str, float]


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
        costs: Where the time went, of one or several seeds each: mean over these.
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
    costs: list[Cost]
    fast_images: bool = False
    mark: str = ""

    @property
    def cost(self) -> dict[str, float]:
        """Where the time went, mean over runs; of all of which it has to be known."""
        known = [seed for each in self.costs for seed in each.seeds]
        if sorted(known) != sorted(self.seeds):
            return {}
        sizes = [len(each.seeds) for each in self.costs]
        return {
            name: float(np.average([e.cost[name] for e in self.costs], weights=sizes))
            for name in COST_METRICS
            if all(name in each.cost for each in self.costs)
        }


def summarise(
    runs: Sequence[Run], final_episodes: int, costs: list[Cost], records: Records
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
        costs=costs,
        fast_images=any(map(_fast_images, settings)),
        mark=mark(records, *(run.unit for run in runs)),
    )


def _fast_images(settings: Mapping[str, Any]) -> bool:
    """Return whether a run saw images without shadows; the first had no choice."""
    preset = settings["run"].get("render_preset", "fast")
    return settings["run"].get("observation") == "pixels" and preset == "fast"


def grouped(
    runs: Sequence[Run], planners: Sequence[str]
) -> dict[tuple[str, str], list[Run]]:
    """Return the runs by task and planner, planners in this order."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.task, planners.index(run.planner))):
        found.setdefault((run.task, run.planner), []).append(run)
    return found


def write(
    results: Results, name: str, planners: Sequence[str], final_episodes: int
) -> list[Row]:
    """Put the runs into the ledger; write figures and JSON; return the table's lines.

    Args:
        results: Whose output receives rows of the ledger, `<name>.json` (the lines)
            and `<name>_<task>.png`; what it holds of units that have no run stays.
        name: Of the experiment.
        planners: In the order of the lines.
        final_episodes: Most recent training episodes of a run that a line is about.
    """
    output, fresh = results.output, histories(results.runs)
    rows_of = (entries(history, name, unit) for unit, history in fresh.items())
    ledger.add(output, itertools.chain.from_iterable(rows_of))
    ledger.add(output, idle.entries(results.runs, name))
    published, groups = output / f"{name}.json", grouped(read(output, name), planners)
    if not groups:
        return []
    costs = _costs(published, fresh.values())
    for task in dict.fromkeys(task for task, _ in groups):
        chosen = {who: each for (what, who), each in groups.items() if what == task}
        path = output / f"{name}_{task.rpartition('/')[2]}.png"
        save_figure(learning_figure(task, chosen), path)
    rows = [
        summarise(each, final_episodes, costs.get(key, []), results.records)
        for key, each in groups.items()
    ]
    lines = [_plain(asdict(row) | {"cost": row.cost}) for row in rows]
    text = json.dumps(lines, indent=2) + "\n"
    write_text(published, text)
    return rows


def _costs(
    published: Path, fresh: Iterable[History]
) -> dict[tuple[str, str], list[Cost]]:
    """Return where the time of all runs went, by task and planner.

    Published seeds of which only a mean is known are gone when one of them is fresh.
    """
    text = published.read_text(encoding="utf-8") if published.exists() else "[]"
    found = {
        (row["task"], row["planner"]): [Cost(**each) for each in row.get("costs", [])]
        for row in json.loads(text)
    }
    for run in fresh:
        known = found.get((run.task, run.planner), [])
        kept = [each for each in known if run.seed not in each.seeds]
        found[run.task, run.planner] = [*kept, Cost([run.seed], run.cost())]
    return found


def _plain(value: Any) -> Any:
    """Return a copy for JSON, which has no NaN: None takes its place."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


# The page


def section(
    results: Results,
    name: str,
    planners: Sequence[str],
    final_episodes: int,
    shown: Callable[[Row], Sequence[str]],
) -> Section | None:
    """Return what an experiment of online runs adds to the page, None without any.

    Args:
        results: As the next three, see `write`.
        name: Of the experiment.
        planners: In the order of the lines.
        final_episodes: That a line is about.
        shown: Returns the line of the table at the head of the page, see `line`.
    """
    found = write(results, name, planners, final_episodes)
    if not found:
        return None
    knowing_nothing = idle.read(results.output, name, results.records)
    text = "\n".join(body(found, name, final_episodes, knowing_nothing))
    return Section(text, [shown(row) for row in found])


def line(
    row: Row, title: str, agent: str, paper: str, preset: str, deviations: str
) -> list[str]:
    """Return a line of the table at the head of the page: `COLUMNS`.

    Args:
        row: Whose training episodes count: with exploration noise, as in papers.
        title: Of the task.
        agent: In words.
        paper: Its number.
        preset: Of the run.
        deviations: Their numbers.
    """
    ours, (scale, unit) = row.training, (1.0, "")
    if row.measure == "success":
        scale, unit = 100.0, " %"
    interval = (
        "one seed"
        if math.isnan(ours.low)
        else f"{scale * ours.low:.0f} … {scale * ours.high:.0f}{unit}"
    )
    return [
        f"{title}, {row.measure}, {row.steps:,} environment steps",
        agent,
        paper,
        f"{scale * ours.value:.0f}{unit}",
        interval,
        f"{scale * row.random.value:.0f}{unit}",
        preset,
        deviations,
    ]


def learning_figure(task: str, groups: dict[str, list[Run]]) -> Any:
    """Draw training and test scores against thousands of environment steps."""
    figure, axes = new_figure(columns=2, size=(4.4, 3.2))
    measure = next(iter(groups.values()))[0].measure
    styles = planner_styles(*groups)
    for style, (planner, runs) in zip(styles, groups.items(), strict=True):
        for axis, prefix in zip(axes[0], KINDS, strict=True):
            series = [run.series(prefix) for run in runs]
            series = [binned(*pair) for pair in series if len(pair[0])]
            if series:
                steps, values = zip(*series, strict=True)
                thousands = [array / 1000 for array in steps]
                draw_runs(axis, thousands, values, planner, *style)
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


def body(
    rows: Sequence[Row],
    name: str,
    final_episodes: int,
    knowing_nothing: Sequence[idle.Idle] = (),
) -> list[str]:
    """Return figures and the table of scores and of where the time went."""
    tasks = dict.fromkeys(row.task.rpartition("/")[2] for row in rows)
    names = [name for name in COST_METRICS if any(name in row.cost for row in rows)]
    scores = ("random", "training", "test")
    columns = [name.replace("_", " ") for name in names]
    header = ["task", "planner", "seeds", "n", *scores, *columns]
    lines: list[list[object]] = [
        [
            *(row.task, row.planner + row.mark, row.seeds),
            f"{len(row.seeds)} × {final_episodes}",
            *(_score(getattr(row, name), row.measure) for name in scores),
            *(f"{row.cost[name]:.3g}" if name in row.cost else "–" for name in names),
        ]
        for row in rows
    ]
    measures = {row.task: row.measure for row in rows}
    for each in knowing_nothing:
        if each.task in measures:
            who, score = IDLE[each.agent], _score(each.score, measures[each.task])
            counted = [each.task, who + each.mark, "–", each.score.count]
            lines.append([*counted, "–", "–", score, *("–",) * len(names)])
    figures = [
        picture(f"{name}_{task}.png", f"Learning curves, {task}") for task in tasks
    ]
    return [
        *figures,
        "Random: the seed episodes. Training: the collected episodes of each run, at "
        f"most its last {final_episodes}, with exploration "
        "noise; the table at the top has this number. Test: the last noise-free "
        "evaluation, of few episodes. Times are means over the later rounds and over "
        "the seeds, – where they are not known of all. n: "
        "training seeds × episodes of the number under training. Each episode stands "
        "in `ledger.csv.gz`.\n",
        *([IDLE_READING] if knowing_nothing else []),
        markdown_table(header, lines),
        *([LEGEND + "\n"] if any(row.mark for row in rows) else []),
    ]


def _score(estimate: Estimate | None, measure: str) -> str:
    if estimate is None:
        return "–"
    return estimate.percent() if measure == "success" else estimate.number()
