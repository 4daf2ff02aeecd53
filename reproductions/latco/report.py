"""What each of LatCo's experiments adds to the results page."""

from collections.abc import Mapping
from typing import Any

from diffplan._runs.tables import picture
from diffplan._runs.tasks import DENSE
from reproductions.common import online_report
from reproductions.common.experiment import Results, Section
from reproductions.latco import (
    comparison_report,
    comparison_result,
    paper_numbers,
    pixels_report,
)
from reproductions.latco.online_config import PLANNERS

FINAL_EPISODES = {"online": 8, "paper": 100}
"""Most recent training episodes of a run that a table's number is the mean of."""
DEVIATIONS = {
    "comparison": "1, 2, 3, 4, 6, 7, 10, 18",
    "online": "1, 2, 5, 6, 7, 8, 10, 18",
    "paper": "7, 8, 9, 10",
}
"""Numbers of the list in `reproductions/latco/README.md`."""
FAST_IMAGES = ", 11"
"""Added where images were drawn without shadows."""
DENSE_REWARD = ", 15"
"""Added where the reward is dense."""

_READING = """\
"Ours" is a mean over training seeds with Student's interval (with one seed: Wilson's,
about that seed's episodes). The numbers under "deviations" are those of the list in
`reproductions/latco/README.md`: no row repeats the whole protocol of the paper, so the
two columns stand side by side and are no test. What the paper's numbers are:
"""


def _definitions() -> str:
    found = paper_numbers.load()["definitions"]
    lines = [f"- {name}: {' '.join(text.split())}" for name, text in found.items()]
    return "\n" + "\n".join(lines) + "\n"


READING = _READING + _definitions()
"""Below the table at the head of the page."""


def comparison(results: Results) -> Section | None:
    """Report on planners on one frozen model."""
    found, body = comparison_report.write(results)
    if not found:
        return None
    task = comparison_result.title(found["task"])
    fig_4 = " (Fig. 4)" if found["task"] == comparison_report.REACH else ""
    text = [
        body,
        picture("comparison_distance.png", f"Success against distance{fig_4}"),
    ]
    name = "comparison_optimization.png"
    if (results.output / name).exists():
        text.append(picture(name, "Plan optimisation (Fig. 6)"))
    title = f"(a) Planners on one frozen model: {task}"
    return Section("\n".join(text), _comparison_rows(found, results.preset), title)


def online(results: Results) -> Section | None:
    """Report on the runs of stage (b)."""
    return _online(results, "online", "(b) ")


def pixels(results: Results) -> Section | None:
    """Report on plans from images."""
    text = pixels_report.write(results.runs, results.output)
    return Section(text) if text else None


def paper(results: Results) -> Section | None:
    """Report on the runs with the paper's protocol."""
    return _online(results, "paper", "")


def _online(results: Results, name: str, label: str) -> Section | None:
    return online_report.section(
        results,
        name,
        PLANNERS,
        FINAL_EPISODES[name],
        lambda row: _online_row(row, results.preset, name, label),
    )


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


def _online_row(
    row: online_report.Row, preset: str, kind: str, label: str
) -> list[str]:
    known = paper_numbers.find(row.task, row.planner)
    return online_report.line(
        row,
        f"{label}{row.task}",
        paper_numbers.load()["planners"][row.planner],
        known.text() if known else "–",
        preset,
        deviations(kind, row.task) + (FAST_IMAGES if row.fast_images else ""),
    )


def deviations(kind: str, task: str, more: str = "") -> str:
    """Return the numbers of the deviations of an online run's task."""
    return DEVIATIONS[kind] + more + (DENSE_REWARD if f"/{DENSE}" in task else "")
