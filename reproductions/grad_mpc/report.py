"""What each experiment of Grad-MPC adds to the results page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import COLOURS, new_figure, save_figure
from diffplan._runs.tables import markdown_table, picture
from reproductions.common import ledger, online_report, paper_numbers
from reproductions.common.experiment import Results, Section
from reproductions.common.provenance import LEGEND, mark
from reproductions.common.runs import folders
from reproductions.common.statistics import Estimate, mean, paired_outcomes
from reproductions.common.units import read_record
from reproductions.grad_mpc.contest import entries
from reproductions.grad_mpc.settings import PLANNERS

HERE = Path(__file__).parent
NAMES = {"grad_mpc": "Grad-MPC", "cem": "PlaNet (CEM)", "policy": "Dreamer"}
QUOTED = {"grad_mpc": "grad_mpc", "cem": "planet", "policy": "dreamer"}
"""Columns of Table 1 by planner."""
OF_PRESETS = {"cpu": (1, 2, 3), "smoke": (1, 2, 3), "gpu-short": (3,), "paper": ()}
OF_STAGES = {"planet": (4, 5), "pixels": (4, 5), "dreamer": (4, 6, 7)}
OF_BOTH = {
    ("cpu", "planet"): (10,),
    ("cpu", "pixels"): (9, 10),
    ("gpu-short", "planet"): (9,),
}
"""Numbers of the deviations in README.md."""
REFINED = re.compile(r"policy_grad_mpc_h(\d+)_i(\d+)_s([\d.e-]+)")
"""Contenders that `contest.refined` makes, by the first critic."""
FINAL_EPISODES = 8
"""Most recent training episodes of a run that a line of the table is about."""

READING = """\
"Ours" is a mean over training seeds with Student's 95 % interval, of the last training
episodes with exploration noise. The numbers under "deviations" are those of the list in
`reproductions/grad_mpc/README.md`; at a share of the paper's training no line is a test
of the paper's own numbers.
"""


def planet(results: Results) -> Section | None:
    """Report on online runs with Grad-MPC and with CEM."""
    section = _online(results, "planet", PLANNERS)
    if section is None:
        return None
    text = f"{section.text}\n{published('table_1', 'published_100k')}"
    return Section(text, section.rows)


def pixels(results: Results) -> Section | None:
    """Report on learning from images at small size."""
    return _online(results, "pixels", PLANNERS)


def dreamer(results: Results) -> Section | None:
    """Report on Dreamer's runs."""
    return _online(results, "dreamer", ("policy",))


def refinement(results: Results) -> Section | None:
    """Report on what refines Dreamer's policy."""
    rows = _contests(results, "refinement")
    if not rows:
        return None
    save_figure(_refinement_figure(rows), results.output / "refinement.png")
    title = "Return of the refined policy against the step size of its refinement"
    numbers = published("table_2", "published_500k")
    parts = [picture("refinement.png", title), _contest_tables(rows, "policy"), numbers]
    return Section("\n".join(parts))


def candidates(results: Results) -> Section | None:
    """Report on the number of candidates."""
    rows = _contests(results, "candidates")
    if not rows:
        return None
    save_figure(_candidates_figure(rows), results.output / "candidates.png")
    title = "Return against candidates (Fig. 4)"
    text = picture("candidates.png", title) + _contest_tables(rows, "cem_*")
    return Section(text)


def sweep(results: Results) -> Section | None:
    """Report on what the paper leaves open."""
    rows = _contests(results, "sweep")
    return Section(_contest_tables(rows, "sgd_0.1")) if rows else None


# Online runs


def _online(results: Results, name: str, planners: Sequence[str]) -> Section | None:
    def shown(row: online_report.Row) -> list[str]:
        task = row.task.rpartition("/")[2]
        agent, number = NAMES[row.planner], paper_number(task, row.planner)
        both = OF_BOTH.get((results.preset, name), ())
        numbers = OF_PRESETS[results.preset] + OF_STAGES[name] + both
        deviations = ", ".join(map(str, numbers))
        return online_report.line(row, task, agent, number, results.preset, deviations)

    return online_report.section(results, name, planners, FINAL_EPISODES, shown)


def paper_number(task: str, planner: str) -> str:
    """Return what the paper reports at 100,000 environment steps from pixels."""
    table = paper_numbers.load(HERE)["table_1"]
    pair = table[QUOTED[planner]].get(task)
    return f"{pair[0]} ± {pair[1]} ({table['reference']})" if pair else "–"


def published(*tables: str) -> str:
    """Return what paper and later work report, with deviations over seeds."""
    facts = paper_numbers.load(HERE)
    found = {
        f"{source.replace('_', ' ')} ({facts[table]['reference']})": numbers
        for table in tables
        for source, numbers in facts[table].items()
        if source != "reference"
    }
    tasks = list(dict.fromkeys(task for each in found.values() for task in each))
    rows = [
        [source, *("{} ± {}".format(*numbers[task]) for task in tasks)]
        for source, numbers in found.items()
    ]
    what = " ".join(facts["definitions"]["return"].split())
    return f"Published. {what}\n\n{markdown_table(['', *tasks], rows)}"


# Contests


@dataclass(frozen=True)
class Outcome:
    """What a contender earned on a task.

    Attributes:
        task: Its name.
        name: Of the contender.
        returns: By training seed and start.
        evaluations: Of the model, for a plan.
        milliseconds: For a plan, of several that are made together.
        mark: `*` if what made it is in no commit.
    """

    task: str
    name: str
    returns: Mapping[tuple[str, str], float]
    evaluations: int
    milliseconds: float
    mark: str

    @property
    def seeds(self) -> list[str]:
        """The training seeds."""
        return sorted({seed for seed, _ in self.returns})

    def estimate(self) -> Estimate:
        """Return the mean over seeds, or over the starts of a single one."""
        rows: dict[str, list[float]] = {}
        for (seed, _), value in sorted(self.returns.items()):
            rows.setdefault(seed, []).append(value)
        if len(rows) == 1:
            return mean(*rows.values())
        return mean([float(np.mean(row)) for row in rows.values()])


def _contests(results: Results, experiment: str) -> list[Outcome]:
    """Put the finished contests into the ledger; return all that it has."""
    fresh: list[dict[str, object]] = []
    for folder in folders(results.runs):
        name = (read_record(folder) or {}).get("name", "")
        if name.partition("/")[0] == experiment:
            fresh += entries(folder, name)
    ledger.add(results.output, fresh)
    return outcomes(results, experiment)


def outcomes(results: Results, experiment: str) -> list[Outcome]:
    """Return what the ledger has of an experiment's contests."""
    groups: dict[tuple[str, str], list[ledger.Row]] = {}
    for row in ledger.read(results.output, experiment):
        groups.setdefault((row["task"], row["planner"]), []).append(row)
    return [
        Outcome(
            task,
            name,
            {(r["seed"], r["episode"]): float(r["episode_return"]) for r in rows},
            int(rows[0]["model_evaluations"]),
            float(np.mean([float(row["milliseconds"]) for row in rows])),
            mark(results.records, *{row["unit"] for row in rows}),
        )
        for (task, name), rows in groups.items()
    ]


def _contest_tables(found: Sequence[Outcome], baseline: str) -> str:
    """Return a table for each task: returns, and the difference to a baseline.

    Args:
        found: All outcomes.
        baseline: The contender; `cem_*` stands for the one with the same number.
    """
    parts = []
    for task in dict.fromkeys(each.task for each in found):
        rows = {each.name: each for each in found if each.task == task}
        lines = [_contest_line(each, rows, baseline) for each in rows.values()]
        header = [
            "contender",
            "return [95 %]",
            "n",
            "less the baseline [95 %]",
            "model steps per plan",
            "ms per plan",
        ]
        parts += [f"**{task}**\n", markdown_table(header, lines)]
        if any(each.mark for each in rows.values()):
            parts.append(LEGEND + "\n")
    parts.append(
        f"Baseline: `{baseline}`. All contenders of a task act with the same frozen "
        "models from the same starts; a difference is paired, its interval Student's "
        "over training seeds and starts. n: seeds × starts. Of Grad-MPC the steps of "
        "the model are those with a gradient.\n"
    )
    return "\n".join(parts)


def _contest_line(
    each: Outcome, rows: Mapping[str, Outcome], baseline: str
) -> list[str]:
    other = rows.get(baseline.replace("*", each.name.rpartition("_")[2]))
    gap = None
    if other is not None and other != each:
        gap = paired_outcomes(each.returns, other.returns)
    seeds = len(each.seeds)
    return [
        each.name + each.mark,
        each.estimate().number(),
        f"{seeds} × {len(each.returns) // seeds}",
        gap.number() if gap else "–",
        f"{each.evaluations:,}",
        f"{each.milliseconds:.3g}",
    ]


def _candidates_figure(found: Sequence[Outcome]) -> object:
    """Draw returns against the number of candidates."""
    tasks = list(dict.fromkeys(each.task for each in found))
    figure, axes = new_figure(columns=len(tasks), size=(3.6, 3.0))
    for axis, task in zip(axes[0], tasks, strict=True):
        for colour, planner in zip(COLOURS, PLANNERS, strict=False):
            points = [
                (int(each.name.rpartition("_")[2]), each.estimate())
                for each in found
                if each.task == task and each.name.startswith(f"{planner}_")
            ]
            _draw_points(axis, points, NAMES[planner], color=colour)
        axis.set(title=task, xlabel="candidates of Grad-MPC", xscale="log")
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("return")
    return figure


def _refinement_figure(found: Sequence[Outcome]) -> object:
    """Draw returns against the step size, a line for each horizon and iterations."""
    tasks = list(dict.fromkeys(each.task for each in found))
    figure, axes = new_figure(columns=len(tasks), size=(3.6, 3.0))
    for axis, task in zip(axes[0], tasks, strict=True):
        lines: dict[tuple[int, int], list[tuple[float, Estimate]]] = {}
        for each in (one for one in found if one.task == task):
            if each.name == "policy":
                plain = each.estimate()
                axis.axhspan(plain.low, plain.high, color="0.85")
                axis.axhline(plain.value, color="0.4", label="the policy alone")
            elif match := REFINED.fullmatch(each.name):
                horizon, iterations, size = match.groups()
                line = lines.setdefault((int(horizon), int(iterations)), [])
                line.append((float(size), each.estimate()))
        colours = zip(COLOURS, sorted(lines.items()), strict=False)
        for colour, ((horizon, iterations), points) in colours:
            words = f"horizon {horizon}, iterations {iterations}"
            _draw_points(axis, points, words, color=colour, linewidth=1.0)
        axis.set(title=task, xlabel="step size", xscale="log")
    axes[0, -1].legend(fontsize=6)
    axes[0, 0].set_ylabel("return")
    return figure


def _draw_points(
    axis: Any, points: Sequence[tuple[float, Estimate]], label: str, **style: Any
) -> None:
    """Draw a line through estimates, and their intervals."""
    points = sorted(points, key=lambda point: point[0])
    values = [estimate.value for _, estimate in points]
    axis.plot([x for x, _ in points], values, "o-", label=label, **style)
    for x, estimate in points:
        axis.plot([x] * 2, [estimate.low, estimate.high], **style)
