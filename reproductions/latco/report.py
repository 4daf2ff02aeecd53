"""The results of a preset: a page with tables and figures, made from run folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproductions.common.page import write_page
from reproductions.common.provenance import LEGEND, known
from reproductions.common.statistics import Estimate
from reproductions.common.tables import markdown_table
from reproductions.latco import (
    comparison_report,
    comparison_result,
    online_report,
    paper_numbers,
    pixels_report,
)

HEADER = (
    "experiment",
    "agent",
    "paper",
    "ours",
    "95 % interval",
    "baseline: random",
    "preset",
    "deviations",
)
DEVIATIONS = {
    "comparison": "1, 2, 3, 4, 6, 7, 10",
    "online": "1, 2, 5, 6, 7, 8, 10",
    "paper": "7, 8, 9, 10",
}
"""Numbers of the list in `reproductions/latco/README.md`."""
FAST_IMAGES = ", 11"
"""Added where images were drawn without shadows."""

READING = """\
"Ours" is a mean over training seeds with Student's interval (with one seed: Wilson's,
about that seed's episodes). The numbers under "deviations" are those of the list in
`reproductions/latco/README.md`: no row repeats the whole protocol of the paper, so the
two columns stand side by side and are no test. What the paper's numbers are:
"""


def write(directory: Path, output: Path, preset: str) -> Path:
    """Write everything that the finished units allow, and what was published before.

    What is published (CSV, JSON and figures in `output`) is never deleted; the page is
    made from it alone.

    Args:
        directory: The run folder of the preset.
        output: Receives `README.md`, tables, figures and `run.json`.
        preset: Its name.

    Returns:
        The page.
    """
    output.mkdir(parents=True, exist_ok=True)
    records = known(directory, output)
    if preset == "paper":
        rows, body = _paper(directory, output)
    else:
        rows, body = _stages(directory, output, preset)
    table = markdown_table(HEADER, rows) if rows else "No finished unit yet.\n"
    page = [table, READING + _definitions(), *body]
    return write_page(output, "LatCo", "latco", preset, page, records)


def _stages(
    directory: Path, output: Path, preset: str
) -> tuple[list[list[str]], list[str]]:
    """Return the table's lines and the sections of the presets of three stages."""
    rows: list[list[str]] = []
    body: list[str] = []
    found, text = comparison_report.write(directory / "comparison", output, preset)
    if found:
        rows += _comparison_rows(found, preset)
        task = comparison_result.title(found["task"])
        reach = found["task"] == comparison_report.REACH
        body += [
            f"## (a) Planners on one frozen model: {task}\n",
            text,
            _figure(
                "comparison_distance.png",
                f"Success against distance{' (Fig. 4)' if reach else ''}",
            ),
        ]
        if (output / "comparison_optimization.png").exists():
            name = "comparison_optimization.png"
            body.append(_figure(name, "Plan optimisation (Fig. 6)"))
    online = online_report.write(directory / "online", output, "online")
    if online:
        rows += [_online_row(row, preset, "online") for row in online]
        body += ["## (b) Learning online\n", *_online_body(online, "online")]
    pixels = pixels_report.write(directory / "pixels", output)
    if pixels:
        body += ["## (c) Planned and executed, from images (Fig. 5)\n", pixels]
    return rows, body


def _paper(directory: Path, output: Path) -> tuple[list[list[str]], list[str]]:
    found = online_report.write(directory, output, "paper")
    if not found:
        return [], []
    rows = [_online_row(row, "paper", "paper") for row in found]
    return rows, _online_body(found, "paper")


def _comparison_rows(found: Mapping[str, Any], preset: str) -> list[list[str]]:
    rows = []
    planners = found["planners"]
    random = planners.get("random", {}).get("success")
    for name, numbers in planners.items():
        if name in comparison_result.IDLE:
            continue
        low, high = numbers["interval"]
        rows.append(
            [
                f"(a) {comparison_result.title(found['task'])}, success",
                comparison_result.NAMES[name],
                numbers["paper"] or "–",
                f"{100 * numbers['success']:.0f} %",
                f"{100 * max(low, 0):.0f} … {100 * min(high, 1):.0f} %",
                "–" if random is None else f"{100 * random:.0f} %",
                preset,
                DEVIATIONS["comparison"],
            ]
        )
    return rows


def _online_row(row: online_report.Row, preset: str, kind: str) -> list[str]:
    known = paper_numbers.find(row.task, row.planner)
    ours = row.training  # With exploration noise, as the paper's tables.
    scale, unit = (100.0, " %") if row.measure == "success" else (1.0, "")
    interval = (
        "one seed"
        if ours.low != ours.low
        else f"{scale * ours.low:.0f} … {scale * ours.high:.0f}{unit}"
    )
    label = "" if kind == "paper" else "(b) "
    return [
        f"{label}{row.task}, {row.measure}, {row.steps:,} environment steps",
        paper_numbers.load()["planners"][row.planner],
        known.text() if known else "–",
        f"{scale * ours.value:.0f}{unit}",
        interval,
        f"{scale * row.random.value:.0f}{unit}",
        preset,
        DEVIATIONS[kind] + (FAST_IMAGES if row.fast_images else ""),
    ]


def _online_body(rows: list[online_report.Row], name: str) -> list[str]:
    """Return figures and the table of scores and of where the time went."""
    tasks = dict.fromkeys(row.task.rpartition("/")[2] for row in rows)
    names = list(rows[0].cost) if rows else []
    scores = ("random", "training", "test")
    columns = [name.replace("_", " ") for name in names]
    header = ["task", "planner", "seeds", "n", *scores, *columns]
    lines = [
        [
            *(row.task, row.planner + row.mark, row.seeds),
            f"{len(row.seeds)} × {online_report.FINAL_EPISODES[name]}",
            *(_score(getattr(row, name), row.measure) for name in scores),
            *(f"{row.cost[name]:.3g}" for name in names),
        ]
        for row in rows
    ]
    figures = [
        _figure(f"{name}_{task}.png", f"Learning curves, {task}") for task in tasks
    ]
    return [
        *figures,
        "Random: the seed episodes. Training: the collected episodes of each run, at "
        f"most its last {online_report.FINAL_EPISODES[name]}, with exploration "
        "noise; the table at the top has this number. Test: the last noise-free "
        "evaluation, of few episodes. Times are means over the later rounds. n: "
        "training seeds × episodes of the number under training. Each episode stands "
        "in `ledger.csv.gz`.\n",
        markdown_table(header, lines),
        *([LEGEND + "\n"] if any(row.mark for row in rows) else []),
    ]


def _score(estimate: Estimate | None, measure: str) -> str:
    if estimate is None:
        return "–"
    return estimate.percent() if measure == "success" else estimate.number()


def _definitions() -> str:
    found = paper_numbers.load()["definitions"]
    lines = [f"- {name}: {' '.join(text.split())}" for name, text in found.items()]
    return "\n" + "\n".join(lines) + "\n"


def _figure(name: str, title: str) -> str:
    return f"![{title}]({name})\n\n*{title}.*\n"
