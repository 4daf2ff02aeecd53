"""Table 3 on frozen models: LatCo without one part at a time, and more baselines."""

import json
from collections.abc import Sequence
from typing import Any

from diffplan._runs.tables import markdown_table, write_text
from reproductions.common import ledger
from reproductions.common.experiment import Results, Section
from reproductions.common.provenance import LEGEND, published
from reproductions.common.statistics import Estimate
from reproductions.latco import paper_numbers
from reproductions.latco.comparison_report import PUBLISHED, differences, head_line
from reproductions.latco.comparison_result import (
    ABLATIONS,
    MODEL_NO_BELIEF,
    Result,
    entries,
    gathered,
    heads,
    reward_heads,
    title,
)

SUMMARY = "ablations.json"
PAPER = {
    "latco": "latco",
    "latco_no_relaxation": "no_relaxation",
    "latco_no_constraints": "no_constrained_optimisation",
    "latco_no_belief": "no_deterministic_latent",
    "latco_first_order": "no_second_order",
    "image_collocation": "image_collocation",
}
"""Planners that are in the paper's Table 3 too, by their names in `paper.toml`."""
DEVIATIONS = "1, 2, 3, 6, 7, 10, 12, 17, 18"
STAGE_A, WORST = range(10), {2, 5, 8}
"""Training seeds of stage (a), and those of them that LatCo did worst on."""

READING = """\
All planners plan with the same models from the same starts; *no deterministic latent*
has models of its own, fitted to the same data. The claim is that LatCo
succeeds more often than each: *held* where the whole 95 % interval of the paired
difference (Student's t over training seeds and starts) is above zero, *contradicted*
where it is below, else *not seen*. Decisions per second: planning and filtering of one
thread, {starts} episodes side by side, without simulator and training; the paper's
frames per second contain both, on one GPU. The paper's successes are of Button from
images, each planner with a model of its own.
"""

CHOSEN = """\
These training seeds are no sample: {seeds} were added because LatCo had done worst on
them in stage (a). A difference that is measured on them is biased against LatCo: *held*
and *contradicted* speak of these models alone, and are no test of the paper's claim
over all training seeds.
"""


def write(results: Results) -> Section | None:
    """Put the finished units into the ledger; make table, JSON and section from it."""
    ledger.add(results.output, entries(results.runs))
    found = gathered(ledger.read(results.output, ABLATIONS), results.records)
    if not found:
        return None
    gaps = {other.name: gap for _, other, gap in differences(found)}
    numbers = {each.name: _numbers(each, gaps.get(each.name)) for each in found}
    models = heads(results.runs, results.output / SUMMARY, MODEL_NO_BELIEF)
    summary = {"task": found[0].task, "planners": numbers, "models": models}
    write_text(results.output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    task = title(found[0].task)
    rows = [
        head_line(
            each,
            f"(d) {task}, success",
            paper_number(each.name),
            results.preset,
            DEVIATIONS,
        )
        for each in found
    ]
    text = _text(found, gaps)
    if models:
        text += f"\n### Models without a deterministic latent\n\n{reward_heads(models)}"
    return Section(text, rows, f"(d) Ablations (Table 3): {task}")


def relaxation(preset: str = "cpu") -> str:
    """Return the published rows of LatCo with light and heavy first multipliers."""
    home = PUBLISHED / preset
    found = gathered(ledger.read(home, ABLATIONS), published(home))
    rows = [
        [each.label, _success(each).percent(), _counts(each)]
        for each in found
        if each.name in ("latco", "latco_no_relaxation")
    ]
    return markdown_table(["planner", "success [95 %]", "each model"], rows)


def paper_number(planner: str) -> str | None:
    """Return success and frames per second of the paper, as text; None if neither.

    Example:
        >>> paper_number("latco_no_relaxation")
        '38 %, 1.6 per second (Table 3)'
    """
    known = paper_numbers.load()["table_3"].get(PAPER.get(planner, ""))
    return known and f"{known[0]:g} %, {known[1]:g} per second (Table 3)"


def _rate(result: Result) -> float:
    """Return decisions per second."""
    return 1 / max(result.average("decision_seconds"), 1e-9)


def _success(result: Result) -> Estimate:
    rate = result.success()
    assert rate is not None  # every planner has episodes
    return rate


def _counts(result: Result) -> str:
    return ", ".join(f"{hits}/{trials}" for hits, trials in result.counts())


def _numbers(result: Result, gap: Estimate | None) -> dict[str, Any]:
    rate = _success(result)
    numbers = {
        "settings": result.settings,
        "successes_and_episodes": result.counts(),
        "success": rate.value,
        "interval": [rate.low, rate.high],
        "decisions_per_second": _rate(result),
        "plan_seconds": result.average("milliseconds") / 1000,
        "paper": paper_number(result.name),
    }
    if gap is not None:
        interval = [gap.low, gap.high]
        numbers |= {"latco_less": gap.value, "less_interval": interval}
        numbers["verdict"] = gap.verdict()
    return numbers


def _text(found: Sequence[Result], gaps: dict[str, Estimate]) -> str:
    header = [
        "planner",
        "settings",
        "success",
        "n",
        "each seed",
        "LatCo's less it",
        "claim",
        "s per plan",
        "decisions per second",
        "paper",
    ]
    lines = []
    for result in found:
        gap = gaps.get(result.name)
        lines.append(
            [
                result.label,
                result.settings,
                _success(result).percent(),
                result.size(),
                _counts(result),
                gap.points() if gap else "–",
                gap.verdict() if gap else "–",
                f"{result.average('milliseconds') / 1000:.2f}",
                f"{_rate(result):.3g}",
                paper_number(result.name) or "–",
            ]
        )
    legend = [LEGEND + "\n"] if any(result.mark for result in found) else []
    starts = found[0].counts()[0][1]
    reading = READING.format(starts=starts) + _how_chosen(found)
    return "\n".join([markdown_table(header, lines), *legend, reading])


def _how_chosen(found: Sequence[Result]) -> str:
    """Return what has to be said of the training seeds, unless they are all."""
    seeds = {seed for result in found for seed in result.seeds}
    worst = sorted(seeds & WORST)
    if not worst or seeds.issuperset(STAGE_A):
        return ""
    return "\n" + CHOSEN.format(seeds=", ".join(map(str, worst)))
