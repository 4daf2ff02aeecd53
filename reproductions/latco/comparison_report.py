"""Tables and figures of stage (a), made from the files of its finished units."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.planners.sampling.cem import CEM
from diffplan.planners.sampling.mppi import MPPI
from reproductions.common.figures import COLOURS, new_figure, save_figure
from reproductions.common.settings import Settings
from reproductions.common.stages import DONE
from reproductions.common.statistics import (
    Estimate,
    mean,
    paired_difference,
    proportion,
)
from reproductions.common.tables import markdown_table, read_csv, write_csv, write_text
from reproductions.latco import paper_numbers
from reproductions.latco.comparison_config import ComparisonConfig
from reproductions.latco.comparison_planners import counted, words

NAMES = {
    "latco": "LatCo",
    "latco_native": "LatCo, native engine",
    "gd_many": "Shooting GD, many starts",
    "gd_one": "Shooting GD, one start",
    "cem_coloured": "CEM, coloured noise",
    "cem": "CEM",
    "mppi": "MPPI",
    "grad_mpc": "Grad-MPC",
    "random": "random actions",
    "still": "no action",
}
SUMMARY, TEXT = "comparison.json", "comparison.md"
PAPER = {"latco": "latco", "gd_one": "gd", "cem": "cem", "mppi": "mppi"}
"""Planners that are in the paper's tables too, by their names in `paper.toml`."""

DISTANCE_BINS = np.linspace(0.0, 0.75, 6)
"""Metres; the corners of the hand's box are up to 0.72 m away."""

DIFFERENCES = """\
What differs from the paper's {table}, whose numbers stand beside ours: the model sees
18 numbers (hand, gripper, objects; not the goal) instead of images; it has {parameters}
parameters instead of 5.3 million; it is trained once, offline, on {episodes} episodes
of noise, wandering and noisy scripted experts, where the paper trains online with each
planner's own data; it is frozen, and the same for all planners; actions have no noise,
where the paper's table script reads training episodes with noise 0.3{budgets}.
So the paper compares whole agents, and this table planning alone.
"""
RELEASED_BUDGET = "the released code on these tasks 10,000 × 100"

READING = """\
Success: {success}. {interval} Far
starts: {far} m or more by {measure}. Time: one thread, all
{starts} starts planned together, wall-clock seconds divided by the number of plans
(processor seconds in brackets).
"""

REACH = "metaworld/reach"
SUCCESS = {REACH: "any of 150 steps within 5 cm of the goal, as in the paper"}
"""By task; of others the environment says what counts."""
MEASURES = {REACH: "the measure of the paper's Fig. 4"}


@dataclass(frozen=True)
class Result:
    """One planner over all seeds.

    Attributes:
        name: Of the planner.
        task: With its suite.
        rows: Of all its `results.csv`, converted to numbers.
        settings: In words.
        evaluations: Of the model per plan, in words.
        far: Metres.
        budget: Of CEM and MPPI, samples and refits in words.
    """

    name: str
    task: str
    rows: Sequence[Mapping[str, float]]
    settings: str
    evaluations: str
    far: float
    budget: str = ""

    @property
    def seeds(self) -> list[int]:
        """The training seeds."""
        return sorted({int(row["seed"]) for row in self.rows})

    def counts(self, *, far: bool = False) -> list[tuple[int, int]]:
        """Return successes and episodes of each seed."""
        found = []
        for seed in self.seeds:
            rows = [row for row in self.rows if row["seed"] == seed]
            if far:
                rows = [row for row in rows if row["initial_distance"] >= self.far]
            found.append((sum(int(row["success"]) for row in rows), len(rows)))
        return found

    def success(self, *, far: bool = False) -> Estimate | None:
        """Return the rate: of one seed's episodes, or the mean over seeds."""
        counts = self.counts(far=far)
        if not all(trials for _, trials in counts):
            return None
        if len(counts) == 1:
            return proportion(*counts[0])
        return mean([hits / trials for hits, trials in counts])

    def average(self, column: str) -> float:
        """Return the mean of a column."""
        return float(np.mean([row[column] for row in self.rows]))


def write(directory: Path, output: Path) -> dict[str, Any]:
    """Write table, figures, CSV and JSON of whatever units are finished.

    Args:
        directory: What `comparison.units` was given.
        output: Receives `comparison.md`, `.csv`, `.json` and two figures; they stay as
            they are where no planner is finished.

    Returns:
        What `comparison.json` holds; nothing if there is none.
    """
    results = read(directory)
    published = output / SUMMARY
    if not results:
        text = published.read_text(encoding="utf-8") if published.exists() else "{}"
        found: dict[str, Any] = json.loads(text)
        return found
    summary = summarise(results, directory)
    output.mkdir(parents=True, exist_ok=True)
    write_text(published, json.dumps(summary, indent=2) + "\n")
    rows = [
        {**row, "seed": int(row["seed"]), "planner": result.name}
        for result in results
        for row in result.rows
    ]
    write_csv(output / "comparison.csv", rows)
    write_text(output / TEXT, section(results, summary))
    save_figure(distance_figure(results), output / "comparison_distance.png")
    traces = [read_csv(path) for path in sorted(directory.glob("seed_*/trace/*.csv"))]
    if traces:
        figure = optimization_figure(traces)
        save_figure(figure, output / "comparison_optimization.png")
    return summary


def read(directory: Path) -> list[Result]:
    """Return the results of all planners, LatCo first."""
    results = []
    for name in NAMES:
        folders = sorted(
            path.parent for path in directory.glob(f"seed_*/{name}/{DONE}")
        )
        if not folders:
            continue
        done = json.loads((folders[0] / DONE).read_text(encoding="utf-8"))["settings"]
        settings = ComparisonConfig().settings(name).replaced(**done["settings"])
        rows = [
            {key: float(value) for key, value in row.items() if key != "planner"}
            for folder in folders
            for row in read_csv(folder / "results.csv")
        ]
        results.append(
            Result(
                name=name,
                task=done["task"],
                rows=rows,
                settings=words(settings),
                evaluations=counted(settings, done["evaluation"]["horizon"]),
                far=done["evaluation"]["far"],
                budget=_budget(settings),
            )
        )
    return results


def summarise(results: Sequence[Result], directory: Path) -> dict[str, Any]:
    """Return everything that the table says as numbers, and whether it is as hoped."""
    planners = {result.name: _numbers(result) for result in results}
    rates = {
        name: found["success"]
        for name, found in planners.items()
        if name != "latco_native"  # the same planner once more
    }
    latco, others = rates.pop("latco", None), list(rates.values())
    heads = {
        path.parent.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(directory.glob("seed_*/model/reward_head.json"))
    }
    return {
        "task": results[0].task,
        "planners": planners,
        "latco_at_least_80_percent": None if latco is None else latco >= 0.8,
        "latco_above_all_others": None
        if latco is None
        else latco > max(others, default=0),
        "solved_at_start": results[0].average("solved_at_start"),
        "differences": _differences(results),
        "models": heads,
    }


def paired(first: Result, second: Result) -> Estimate | None:
    """Return how much more often the first succeeds, from the same starts.

    With the models that both planned with; None if there is none.
    """
    seeds = sorted({*first.seeds} & {*second.seeds})
    tables = []
    for result in (first, second):
        found = {(int(r["seed"]), int(r["start"])): r["success"] for r in result.rows}
        starts = sorted({start for _, start in found})
        tables.append([[found[seed, start] for start in starts] for seed in seeds])
    if not seeds:
        return None
    return paired_difference(*map(np.array, tables))


def _differences(results: Sequence[Result]) -> dict[str, Any]:
    """Return LatCo's success less that of each other planner, with its interval."""
    latco = next((result for result in results if result.name == "latco"), None)
    found = {}
    for result in results:
        gap = None if latco in (None, result) else paired(latco, result)
        if gap is not None:
            seeds = sorted({*latco.seeds} & {*result.seeds})
            found[result.name] = {
                "seeds": seeds,
                "episodes": gap.count,
                "difference": gap.value,
                "interval": [gap.low, gap.high],
                "verdict": gap.verdict(),
            }
    return found


def _numbers(result: Result) -> dict[str, Any]:
    overall, far = result.success(), result.success(far=True)
    assert overall is not None  # every planner has episodes
    return {
        "settings": result.settings,
        "seeds": result.seeds,
        "successes_and_episodes": result.counts(),
        "success": overall.value,
        "interval": [overall.low, overall.high],
        "far_successes_and_episodes": result.counts(far=True),
        "far_success": None if far is None else far.value,
        "mean_return": result.average("episode_return"),
        "plan_seconds": result.average("plan_seconds"),
        "plan_cpu_seconds": result.average("plan_cpu_seconds"),
        "model_evaluations": result.evaluations,
        "paper": paper_number(result.task, result.name),
    }


def paper_number(task: str, planner: str) -> str | None:
    """Return what the paper reports for a task, with its table; or None."""
    number = paper_numbers.find(task, PAPER.get(planner, ""))
    return None if number is None else number.text()


def title(task: str) -> str:
    """Return the task in words.

    Example:
        >>> title("metaworld/button-press")
        'sparse button-press'
    """
    return f"sparse {task.rpartition('/')[2]}"


def section(results: Sequence[Result], summary: Mapping[str, Any]) -> str:
    """Return the table with what must be known to read it."""
    header = [
        "planner",
        "settings",
        "success",
        "each seed",
        "far starts",
        "mean return",
        "s per plan",
        "model evaluations per plan",
        "paper",
    ]
    first = results[0]
    several = len(first.seeds) > 1
    interval = (
        f"Mean over {len(first.seeds)} training seeds with Student's 95 % interval;\n"
        "the starts are the same for all seeds."
        if several
        else "One training seed: the 95 % interval (Wilson) is about these starts only."
    )
    parameters = {str(head["parameters"]) for head in summary["models"].values()}
    episodes = {str(head["episodes"]) for head in summary["models"].values()}
    known = paper_numbers.find(first.task, "latco")
    differences = DIFFERENCES.format(
        table=known.reference if known else "tables",
        parameters=" or ".join(f"{int(number):,}" for number in sorted(parameters)),
        episodes=" or ".join(sorted(episodes)),
        budgets=_budgets(results),
    )
    starts = first.counts()[0][1]
    reading = READING.format(
        success=SUCCESS.get(
            first.task, "any step with reward 1, as in the paper's code"
        ),
        measure=MEASURES.get(first.task, "the task's own measure"),
        interval=interval,
        far=first.far,
        starts=starts,
    )
    table = markdown_table(header, [_line(result) for result in results])
    return f"{table}\n{reading}\n{differences}\n{_reward_heads(summary['models'])}"


def _budget(settings: Settings) -> str:
    if settings.kind not in (CEM, MPPI):
        return ""
    return f"{settings.num_samples:,} samples × {settings.iterations} refits"


def _budgets(results: Sequence[Result]) -> str:
    """Return what CEM and MPPI had here, where the paper has them too."""
    names: dict[str, list[str]] = {}
    for result in results:
        if result.budget and result.name in PAPER:
            names.setdefault(result.budget, []).append(NAMES[result.name])
    texts = [
        f"{' and '.join(each)} {'have' if len(each) > 1 else 'has'} {budget}"
        for budget, each in names.items()
    ]
    return "".join(f"; {text}" for text in texts) + (
        f", {RELEASED_BUDGET}" if texts else ""
    )


def _line(result: Result) -> list[str]:
    overall, far = result.success(), result.success(far=True)
    assert overall is not None  # every planner has episodes
    seconds, cpu = result.average("plan_seconds"), result.average("plan_cpu_seconds")
    return [
        NAMES[result.name],
        result.settings,
        overall.percent(),
        ", ".join(f"{hits}/{trials}" for hits, trials in result.counts()),
        "–" if far is None else far.percent(),
        f"{result.average('episode_return'):.1f}",
        f"{seconds:.2f} ({cpu:.2f})" if seconds else "0",
        result.evaluations,
        paper_number(result.task, result.name) or "–",
    ]


def _reward_heads(models: Mapping[str, Any]) -> str:
    lines = [
        f"- {name.replace('_', ' ')}: {head['accuracy']:.4f} of {head['steps']} "
        f"held-out steps; {head['accuracy_near_changes']:.3f} of those within 5 steps "
        f"of one of {head['changes']} changes."
        for name, head in models.items()
    ]
    return "Reward head, 0 told from 1:\n\n" + "\n".join(lines) + "\n"


def distance_figure(results: Sequence[Result]) -> Any:
    """Draw success against initial distance; of reach that is LatCo's Fig. 4."""
    figure, axes = new_figure(size=(7.6, 4.0))
    axis, drawn = axes[0, 0], [item for item in results if item.name != "random"]
    for index, result in enumerate(drawn):
        x = np.array([row["initial_distance"] for row in result.rows])
        y = np.array([row["success"] for row in result.rows])
        places, rates, errors = [], [], []
        for low, high in pairwise(DISTANCE_BINS):
            inside = (x >= low) & (x < high)
            if inside.any():
                rate = proportion(int(y[inside].sum()), int(inside.sum()))
                places.append((low + high) / 2 + 0.008 * (index - len(drawn) / 2))
                rates.append(rate.value)
                errors.append((rate.value - rate.low, rate.high - rate.value))
        axis.errorbar(
            places,
            rates,
            np.transpose(errors).clip(min=0.0),
            color=COLOURS[index % len(COLOURS)],
            linestyle="-" if index < len(COLOURS) else "--",
            linewidth=2.5 if result.name == "latco" else 1.2,
            marker="o",
            markersize=4,
            elinewidth=0.8,
            label=NAMES[result.name],
        )
    axis.set(
        xlabel="initial distance, m",
        ylabel="success (95 % Wilson, seeds pooled)",
        ylim=(-0.03, 1.03),
        title=f"{title(results[0].task)} from state vectors",
    )
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def optimization_figure(traces: Sequence[Sequence[Mapping[str, str]]]) -> Any:
    """Draw LatCo's planned return and dynamics violation, as LatCo's Fig. 6."""
    figure, axes = new_figure(columns=2, size=(4.2, 3.2))
    for index, trace in enumerate(traces):
        table = {key: np.array([float(row[key]) for row in trace]) for key in trace[0]}
        colour = COLOURS[index % len(COLOURS)]
        for axis, name in zip(
            axes[0], ("predicted_return", "dynamics_violation"), strict=True
        ):
            low, high = table[f"{name}_low"], table[f"{name}_high"]
            x = table["iteration"]
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(
                x, table[f"{name}_mean"], color=colour, label=f"seed {trace[0]['seed']}"
            )
            axis.set_xlabel("iteration")
    axes[0, 0].set_title("reward of the planned states (sum)")
    axes[0, 0].legend(fontsize=7)
    axes[0, 1].set_title("dynamics violation (mean ‖x - f(x, u)‖²)")
    axes[0, 1].set_yscale("log")
    return figure
