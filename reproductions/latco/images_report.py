"""The section on planning from images, computed from the ledger."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import save_figure
from diffplan._runs.tables import picture, write_text
from reproductions.common import ledger
from reproductions.common.experiment import Results, Section
from reproductions.latco import comparison_report, pixels_report
from reproductions.latco.comparison_figures import distance_figure
from reproductions.latco.comparison_result import (
    IDLE,
    REACHED,
    entries,
    gathered,
    open_loop,
    title,
)
from reproductions.latco.images import EXPERIMENT

MODELS = "images_models.json"
STRIP, FILM = "images_film_strip.png", "images_plan.gif"
DEVIATIONS = "2, 3, 4, 6, 7, 10, 11, 18"

READING = """\
Success: any of 150 steps within 5 cm of the goal. n: training seeds × starts, which are
those of stage (a). One model for all planners, trained offline on episodes of noise,
wandering and noisy scripted experts, drawn as images, and frozen. Time: wall-clock
seconds of a plan, all starts planned together, on the machine under "Provenance".
"""
SHOWN = """\
For each of the first starts, above: the images that LatCo's first plan expects, below:
what executing it looked like; time runs to the right. In {near} of {count} this one
plan, a fifth of an episode, came within 5 cm of the goal. Video of the first: `{film}`.
"""


def report(results: Results) -> Section | None:
    """Put the finished units into the ledger; return the section that is made of it."""
    output = results.output
    ledger.add(output, entries(results.runs))
    found = gathered(ledger.read(output, EXPERIMENT), results.records)
    if not found:
        return None
    save_figure(distance_figure(found, "images"), output / "images_distance.png")
    models = _models(results.runs, output / MODELS)
    text = [
        comparison_report.table(found),
        READING,
        picture("images_distance.png", "Success against distance (Fig. 4)"),
        comparison_report.paired_section(found),
        open_loop(models),
        _film(results.runs, output, models),
    ]
    measured = f"(g) {title(found[0].task)} from images, success"
    rows = [
        comparison_report.head_line(
            each,
            measured,
            comparison_report.paper_number(each.task, each.name),
            results.preset,
            DEVIATIONS,
        )
        for each in found
        if each.name not in IDLE
    ]
    return Section("\n".join(text), rows)


def _models(runs: Path, path: Path) -> dict[str, Any]:
    """Return what each model knows and how near its first plans came, old ones too."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for judged in sorted(runs.glob("seed_*/model/reward_head.json")):
        known[judged.parent.parent.name] = json.loads(judged.read_text("utf-8"))
    for plan in sorted(runs.glob("seed_*/film/plan_*.npz")):
        least = float(np.load(plan)["distances"].min())
        shown = known.setdefault(plan.parent.parent.name, {}).setdefault("shown", {})
        shown[plan.stem] = round(least, 4)
    write_text(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
    return known


def _film(runs: Path, output: Path, models: Mapping[str, Any]) -> str:
    paths = sorted(runs.glob("seed_*/film/plan_*.npz"))
    if paths:
        first = [path for path in paths if path.parent == paths[0].parent]
        plans = [dict(np.load(path)) for path in first]
        pixels_report.save_strip(plans, output / STRIP)
        pixels_report.write_film(plans[0], output / FILM)
    if not (output / STRIP).exists():
        return ""
    least = [v for each in models.values() for v in each.get("shown", {}).values()]
    near = sum(value <= REACHED for value in least)
    said = SHOWN.format(near=near, count=len(least), film=FILM)
    return picture(STRIP, "Planned and executed, from images (Fig. 5)") + "\n" + said
