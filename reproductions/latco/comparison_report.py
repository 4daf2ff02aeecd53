"""The tables of stage (a), computed from the ledger."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import save_figure
from diffplan._runs.tables import markdown_table, read_csv, write_text
from reproductions.common import ledger
from reproductions.common.experiment import Results
from reproductions.common.provenance import LEGEND, published
from reproductions.common.statistics import Estimate, paired_outcomes
from reproductions.latco import paper_numbers
from reproductions.latco.comparison_figures import distance_figure, optimization_figure
from reproductions.latco.comparison_result import (
    EXPERIMENT,
    IDLE,
    NAMES,
    Result,
    entries,
    gathered,
    heads,
    reward_heads,
)

SUMMARY = "comparison.json"
PUBLISHED = Path(__file__).parent / "results"
PAPER = {"latco": "latco", "gd_one": "gd", "cem": "cem", "mppi": "mppi"}
"""Planners that are in the paper's tables too, by their names in `paper.toml`."""
RIVALS = ("gd_many", "cem")
"""The strongest shooting baseline, and one of the paper's."""

DIFFERENCES = """\
What differs from the paper's {table}, whose numbers stand beside ours: the model sees
18 numbers (hand, gripper, objects; not the goal) instead of images; it has {parameters}
parameters instead of 5.3 million; it is trained once, offline, on {episodes} episodes
of noise, wandering and noisy scripted experts, where the paper trains online with each
planner's own data; it is frozen, and the same for all planners; actions have no noise,
where the paper's table script reads training episodes with noise 0.3{budgets}.
So the paper compares whole agents, and this table planning alone.
"""
_TRACE = re.compile(rf"{EXPERIMENT}/seed_\d+/trace")
RELEASED_BUDGET = "the released code on these tasks 10,000 × 100"

READING = """\
Success: {success}. {interval} n: training seeds × starts. Solved: of the starts, before
anything was done. Far starts: {far} m or more by {measure}. Time: one thread, all
{starts} starts planned together, wall-clock seconds divided by the number of plans
(processor seconds in brackets).{missing}
"""

PAIRED = """\
{marks} LatCo less each other planner

{table}
Success of LatCo less that of the other, with the same models from the same starts, and
its 95 % interval by Student's t over training seeds and starts together (with one seed:
over starts alone, and about this model alone). The claim is that LatCo succeeds more
often: *held* where the whole interval is above zero, *contradicted* where it is below,
else *not seen*.{native}
"""

REACH = "metaworld/reach"
SUCCESS = {REACH: "any of 150 steps within 5 cm of the goal, as in the paper"}
"""By task; of others the environment says what counts."""
MEASURES = {REACH: "the measure of the paper's Fig. 4"}


def write(results: Results) -> tuple[dict[str, Any], str]:
    """Put the finished units into the ledger; write figures and JSON from all of it.

    Args:
        results: Whose output receives `comparison.json`, two figures and rows of the
            ledger; what it holds of units that have no run stays. The page says how
            it compares with what is published of the preset.

    Returns:
        What `comparison.json` holds, and the section of the page; both empty if there
        are no rows.
    """
    directory, output = results.runs, results.output
    ledger.add(output, entries(directory))
    found = gathered(ledger.read(output, EXPERIMENT), results.records)
    if not found:
        return {}, ""
    summary = summarise(found, heads(directory, output / SUMMARY, "model"))
    write_text(output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    save_figure(distance_figure(found), output / "comparison_distance.png")
    traces = [read_csv(path) for path in sorted(directory.glob("seed_*/trace/*.csv"))]
    all_traces = [n for n in results.records if _TRACE.fullmatch(n)]
    if traces and len(traces) >= len(all_traces):  # else the published picture has more
        figure = optimization_figure(traces)
        save_figure(figure, output / "comparison_optimization.png")
    return summary, section(found, summary) + beside(found, PUBLISHED / results.preset)


def summarise(found: Sequence[Result], heads: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the tables say as numbers, and whether it is as hoped.

    Args:
        found: Of each planner.
        heads: How well each model knows the reward, by training seed.
    """
    planners = {result.name: _numbers(result) for result in found}
    rates = {
        name: numbers["success"]
        for name, numbers in planners.items()
        if name != "latco_native"  # the same planner once more
    }
    latco, others = rates.pop("latco", None), list(rates.values())
    return {
        "task": found[0].task,
        "planners": planners,
        "latco_at_least_80_percent": None if latco is None else latco >= 0.8,
        "latco_above_all_others": None
        if latco is None
        else latco > max(others, default=0),
        "solved_at_start": _known(found[0].average("solved_at_start")),
        "differences": {
            other.name: {
                "seeds": sorted({*latco.seeds} & {*other.seeds}),
                "episodes": gap.count,
                "difference": gap.value,
                "interval": [gap.low, gap.high],
                "verdict": gap.verdict(),
            }
            for latco, other, gap in differences(found)
        },
        "models": dict(heads),
    }


def differences(found: Sequence[Result]) -> list[tuple[Result, Result, Estimate]]:
    """Return LatCo, each other planner, and LatCo's success less the other's."""
    latco = next((result for result in found if result.name == "latco"), None)
    if latco is None:
        return []
    pairs = [
        (latco, other, paired_outcomes(latco.outcomes, other.outcomes))
        for other in found
        if other != latco
    ]
    return [(one, other, gap) for one, other, gap in pairs if gap is not None]


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
        "plan_seconds": result.average("milliseconds") / 1000,
        "plan_cpu_seconds": result.average("cpu_milliseconds") / 1000,
        "model_evaluations": result.evaluations,
        "paper": paper_number(result.task, result.name),
    }


def paper_number(task: str, planner: str) -> str | None:
    """Return what the paper reports for a task, with its table; or None."""
    number = paper_numbers.find(task, PAPER.get(planner, ""))
    return None if number is None else number.text()


# The page


def head_line(
    result: Result, measured: str, paper: str | None, preset: str, deviations: str
) -> list[str]:
    """Return a planner's line of the table at the head of the page.

    Args:
        result: Of the planner.
        measured: Stage, task and measure, in words.
        paper: What the paper reports; None if nothing.
        preset: Of the run.
        deviations: Their numbers.
    """
    rate = result.success()
    assert rate is not None  # every planner has episodes
    return [
        measured,
        NAMES[result.name],
        paper or "–",
        f"{100 * rate.value:.0f} %",
        f"{100 * max(rate.low, 0):.0f} … {100 * min(rate.high, 1):.0f} %",
        "–",
        preset,
        deviations,
    ]


def section(found: Sequence[Result], summary: Mapping[str, Any]) -> str:
    """Return the tables with what must be known to read them."""
    parts = [
        table(found),
        reading(found),
        paired_section(found),
        _deviations(found, summary),
    ]
    return "\n".join([*parts, reward_heads(summary["models"])])


def table(found: Sequence[Result]) -> str:
    """Return a line for each planner, and what a mark says if there is one."""
    header = [
        "planner",
        "settings",
        "success",
        "n",
        "each seed",
        "solved",
        "far starts",
        "mean return",
        "s per plan",
        "model evaluations per plan",
        "paper",
    ]
    legend = f"\n{LEGEND}\n" if any(result.mark for result in found) else ""
    return markdown_table(header, [_line(result) for result in found]) + legend


def beside(found: Sequence[Result], folder: Path) -> str:
    """Return how LatCo's differences compare with the published ones, in a sentence.

    Args:
        found: Of the page.
        folder: Of published results; where the page has all their training seeds
            there is nothing to compare.
    """
    before = gathered(ledger.read(folder, EXPERIMENT), published(folder))
    ours, theirs = _rival_text(found), _rival_text(before)
    latco = {r.name: (r.task, r.seeds) for r in found}.get("latco")
    reference = {r.name: (r.task, r.seeds) for r in before}.get("latco")
    if latco is None or reference is None or not ours or not theirs:
        return ""
    if latco[0] != reference[0] or {*latco[1]} >= {*reference[1]}:
        return ""
    return (
        f"\nBeside the published runs: LatCo's success is here, {_seeds(latco[1])}, "
        f"{ours}; published, {_seeds(reference[1])}, {theirs}.\n"
    )


def headline(preset: str = "cpu") -> str:
    """Return the table of the published comparison for pages that link to it."""
    home = PUBLISHED / preset
    found = gathered(ledger.read(home, EXPERIMENT), published(home))
    gaps = {other.name: gap for _, other, gap in differences(found)}
    rows = []
    for result in found:
        if result.name == "latco_native":
            continue  # the same planner once more
        gap, rate = gaps.get(result.name), result.success()
        assert rate is not None  # every planner has episodes
        less = f"{gap.points()}: {gap.verdict()}" if gap else "–"
        rows.append([result.label, rate.percent(), result.size(), less])
    header = ["planner", "success [95 %]", "seeds × starts", "LatCo's less it [95 %]"]
    legend = f"\n{LEGEND}\n" if any(result.mark for result in found) else ""
    return f"{markdown_table(header, rows)}{legend}"


def _rival_text(found: Sequence[Result]) -> str:
    texts = [
        f"{gap.points()} against {NAMES[other.name]}"
        for _, other, gap in differences(found)
        if other.name in RIVALS
    ]
    return " and ".join(texts)


def _seeds(seeds: Sequence[int]) -> str:
    return f"of training seed{'s' if len(seeds) > 1 else ''} {str(list(seeds))[1:-1]}"


def reading(found: Sequence[Result]) -> str:
    """Return what must be known to read the table."""
    first = found[0]
    interval = (
        f"Mean over {len(first.seeds)} training seeds with Student's 95 % interval;\n"
        "the starts are the same for all seeds."
        if len(first.seeds) > 1
        else "One training seed: the 95 % interval (Wilson) is about these starts only."
    )
    absent = [NAMES[n] for n in IDLE if n not in {result.name for result in found}]
    return READING.format(
        success=SUCCESS.get(
            first.task, "any step with reward 1, as in the paper's code"
        ),
        measure=MEASURES.get(first.task, "the task's own measure"),
        interval=interval,
        far=first.far,
        starts=first.counts()[0][1],
        missing=f" Not run: {', '.join(absent)}." if absent else "",
    )


def paired_section(found: Sequence[Result], level: int = 3) -> str:
    """Return a table of LatCo's success less that of each other planner.

    Args:
        found: Of each planner.
        level: Of its heading.
    """
    gaps = differences(found)
    if not gaps:
        return ""
    rows, native = [], ""
    for latco, other, gap in gaps:
        seeds = sorted({*latco.seeds} & {*other.seeds})
        verdict = gap.verdict()
        if other.name == "latco_native":
            shared = latco.outcomes.keys() & other.outcomes.keys()
            equal = sum(latco.outcomes[k] == other.outcomes[k] for k in shared)
            verdict = f"equal in {equal} of {len(shared)} episodes"
            native = " Of the native engine nothing is claimed but equality."
        count = f"{len(seeds)} × {gap.count // len(seeds)}"
        mark = latco.mark if latco.mark and not other.mark else ""
        rows.append([other.label + mark, gap.points(), count, verdict])
    header = ["LatCo less", "difference [95 %]", "n", "LatCo succeeds more often"]
    shown = markdown_table(header, rows)
    return PAIRED.format(marks=level * "#", table=shown, native=native)


def _deviations(found: Sequence[Result], summary: Mapping[str, Any]) -> str:
    parameters = {head["parameters"] for head in summary["models"].values()}
    episodes = {str(head["episodes"]) for head in summary["models"].values()}
    paper = paper_numbers.find(found[0].task, "latco")
    return DIFFERENCES.format(
        table=paper.reference if paper else "tables",
        parameters=" or ".join(f"{number:,}" for number in sorted(parameters)),
        episodes=" or ".join(sorted(episodes)),
        budgets=_budgets(found),
    )


def _budgets(found: Sequence[Result]) -> str:
    """Return what CEM and MPPI had here, where the paper has them too."""
    names: dict[str, list[str]] = {}
    for result in found:
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
    seconds = result.average("milliseconds") / 1000
    cpu = result.average("cpu_milliseconds") / 1000
    solved = result.average("solved_at_start")
    return [
        result.label,
        result.settings,
        overall.percent(),
        result.size(),
        ", ".join(f"{hits}/{trials}" for hits, trials in result.counts()),
        "–" if np.isnan(solved) else f"{100 * solved:.0f} %",
        "–" if far is None else far.percent(),
        f"{result.average('episode_return'):.1f}",
        f"{seconds:.2f} ({cpu:.2f})" if seconds else "0",
        result.evaluations,
        paper_number(result.task, result.name) or "–",
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
