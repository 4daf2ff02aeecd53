"""The section on the sparse tasks beside reach, computed from the ledger."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from diffplan._runs.tables import markdown_table, write_text
from reproductions.common import ledger
from reproductions.common.experiment import Results, Section
from reproductions.common.statistics import Estimate
from reproductions.latco.comparison_report import (
    differences,
    head_line,
    paired_section,
    paper_number,
    reading,
    table,
)
from reproductions.latco.comparison_result import (
    EXPERIMENT as STAGE_A,
)
from reproductions.latco.comparison_result import (
    HEADS,
    IDLE,
    NAMES,
    Result,
    entries,
    gathered,
    heads,
    open_loop,
    reward_heads,
    title,
)
from reproductions.latco.tasks import EXPERIMENT

SUMMARY = "tasks.json"
DEVIATIONS = "1, 2, 3, 4, 6, 7, 10, 16, 17, 18"
SHOOTING = ("gd_many", "gd_one", "cem_coloured", "cem", "mppi")

OVERVIEW = """\
Success by task; reach is stage (a). *Less the best of shooting*: LatCo's success less
that of the shooting planner that did best on the same starts, which favours shooting:
the paired difference, its 95 % interval (Student's t over seeds and starts), and
whether LatCo succeeds more often. Each task has data, models and starts of its own.
"""


def report(results: Results) -> Section | None:
    """Put the finished units into the ledger; return the section that is made of it."""
    output, runs = results.output, results.runs
    folders = sorted(path for path in runs.glob("*") if path.is_dir())
    ledger.add(output, chain.from_iterable(entries(folder) for folder in folders))
    rows = ledger.read(output, EXPERIMENT)
    names = list(dict.fromkeys(row["unit"].split("/")[1] for row in rows))
    if not names:
        return None
    found = {
        name: gathered(
            [row for row in rows if row["unit"].split("/")[1] == name], results.records
        )
        for name in names
    }
    summary = _summary(results, found)
    reach = gathered(ledger.read(output, STAGE_A), results.records)
    text = [_overview([*([reach] if reach else []), *found.values()]), OVERVIEW]
    for name, of_task in found.items():
        judged = summary[name]["models"]
        text += [
            f"### {title(of_task[0].task).capitalize()}\n",
            table(of_task),
            reading(of_task),
            paired_section(of_task, level=4),
            reward_heads(judged),
            reward_heads(summary[name][HEADS], "The least of several heads"),
            open_loop(judged),
        ]
    lines = [
        head_line(
            each,
            f"(i) {title(each.task)}, success",
            paper_number(each.task, each.name),
            results.preset,
            DEVIATIONS,
        )
        for of_task in found.values()
        for each in of_task
        if paper_number(each.task, each.name)
    ]
    return Section("\n".join(text), lines)


def _summary(
    results: Results, found: Mapping[str, Sequence[Result]]
) -> dict[str, dict[str, Any]]:
    """Write what the tables say as numbers; return it, published models included."""
    path = results.output / SUMMARY
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    summary = {
        name: {
            "successes_and_episodes": {each.name: each.counts() for each in of_task},
            **{
                kind: before.get(name, {}).get(kind, {})
                | heads(results.runs / name, results.runs / SUMMARY, unit)
                for kind, unit in (("models", "model"), (HEADS, HEADS))
            },
        }
        for name, of_task in found.items()
    }
    write_text(path, json.dumps(summary, indent=2, sort_keys=True) + "\n")
    return summary


def _overview(tasks: Sequence[Sequence[Result]]) -> str:
    """Return a line for each task, and a column for each planner of any of them."""
    run = {each.name for found in tasks for each in found}
    columns = [name for name in NAMES if name in run and name not in IDLE]
    header = [
        "task",
        "n",
        *(NAMES[name] for name in columns),
        "less the best of shooting",
    ]
    rows = []
    for found in tasks:
        by_name = {each.name: each for each in found}
        cells = [_percent(by_name.get(name)) for name in columns]
        latco = by_name.get("latco")
        size = latco.size() if latco else "–"
        rows.append([title(found[0].task), size, *cells, _less_best(found)])
    return markdown_table(header, rows)


def _percent(result: Result | None) -> str:
    rate = result and result.success()
    return rate.percent() if rate else "–"


def _less_best(found: Sequence[Result]) -> str:
    """Return LatCo's success less that of the best shooting planner, in words."""
    gaps: list[tuple[float, Result, Estimate]] = []
    for _, other, gap in differences(found):
        rate = other.success()
        if other.name in SHOOTING and rate is not None:
            gaps.append((rate.value, other, gap))
    if not gaps:
        return "–"
    _, best, gap = max(gaps, key=lambda each: each[0])
    return f"{NAMES[best.name]}: {gap.points()}, {gap.verdict()}"
