"""Tables and figures of stage (c), made from its run folders."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffplan._runs.metrics import Rounds
from diffplan._runs.tables import markdown_table, read_csv, write_csv
from reproductions.common import ledger
from reproductions.common.provenance import (
    LEGEND,
    Records,
)
from reproductions.common.statistics import mean
from reproductions.dcem import paper_numbers
from reproductions.dcem.locomotion import IDLE, PHASES
from reproductions.dcem.locomotion_config import TASKS
from reproductions.dcem.locomotion_figures import draw_boxes, draw_curves
from reproductions.dcem.locomotion_results import (
    TESTED,
    Tested,
    entries,
    finished_tests,
    phase_row,
    read_tested,
)

CURVES = "locomotion_curves.csv"
EPISODE_STEPS = 1000
CURVES_SECTION = """\
### Training

![Learning curves](locomotion_curves.png)

*Returns while training, phase after phase (thin: episodes with exploration noise; \
dots: noise-free tests).*
"""


def write(directory: Path, output: Path, records: Records) -> str:
    """Publish the phases that are there; return Markdown of all that are published.

    Args:
        directory: Of the stage's runs.
        output: Receives rows of the ledger, `locomotion_*.csv` and figures. Its rows of
            phases that have no run stay.
        records: Of the units.
    """
    finished = finished_tests(directory)
    if finished:
        ledger.add(output, entries(finished))
        rows = [phase_row(*key, each, records) for key, each in finished.items()]
        _publish(rows, _merged_curves(directory, output), output)
    found = read_tested(output)
    return _section(found, output, records) if found else ""


def _place(row: Mapping[str, object]) -> tuple[int, int]:
    phases = (*IDLE, *PHASES)
    return TASKS.index(str(row["task"])), phases.index(str(row["phase"]))


def _publish(
    rows: Sequence[Mapping[str, object]],
    curves: Sequence[Mapping[str, str]],
    output: Path,
) -> None:
    published = read_csv(output / TESTED) if (output / TESTED).exists() else []
    merged = {_place(row): row for row in (*published, *rows)}
    write_csv(output / TESTED, [merged[place] for place in sorted(merged)])
    draw_boxes(read_tested(output), output / "locomotion_returns.png")
    if curves:
        write_csv(output / CURVES, curves)
        draw_curves(curves, output / "locomotion_curves.png")


# Reading


def _merged_curves(directory: Path, output: Path) -> list[dict[str, str]]:
    """Return the returns of each round, of published phases that have no run too."""
    found = list(_curves(directory))
    runs = {(row["task"], row["seed"], row["phase"]) for row in found}
    path = output / CURVES
    published = read_csv(path) if path.exists() else []
    kept = [r for r in published if (r["task"], r["seed"], r["phase"]) not in runs]
    return sorted(
        (*found, *kept),
        key=lambda row: (
            TASKS.index(row["task"]),
            int(row["seed"]),
            PHASES.index(row["phase"]),
        ),
    )


def _curves(directory: Path) -> Iterator[dict[str, str]]:
    """Yield the returns of each round of each phase, finished or not."""
    for task in TASKS:
        for seed in sorted((directory / task).glob("seed_*")):
            for phase in PHASES:
                found = Rounds.read(seed / phase)
                for index, values in enumerate(found.metrics):
                    wanted = {
                        "collect_return": "collect/return",
                        "test_return": "test/return",
                        "predicted_cost": "train/decoder_cost",
                    }
                    yield {
                        "task": task,
                        "seed": seed.name.removeprefix("seed_"),
                        "phase": phase,
                        "round": str(index),
                        "environment_step": str(found.steps[index]),
                    } | {
                        column: str(values.get(name, ""))
                        for column, name in wanted.items()
                    }


# Text


def _section(found: Sequence[Tested], output: Path, records: Records) -> str:
    curves = read_csv(output / CURVES) if (output / CURVES).exists() else []
    parts = [
        _returns_section(found),
        _cost_section(found),
        CURVES_SECTION if curves else "",
        _chosen_section(curves, records),
        _policy_section(records),
    ]
    return "\n".join(part for part in parts if part)


def _returns_section(found: Sequence[Tested]) -> str:
    rows = []
    for each in found:
        low, middle, high = each.quartiles()
        paper = "–"
        share = ""
        if each.phase not in IDLE:
            box = paper_numbers.locomotion_box(each.task, each.phase)
            paper = f"{box[2]:.0f} [{box[1]:.0f}, {box[3]:.0f}]"
            steps = paper_numbers.locomotion_steps(each.task, each.phase)
            share = f"{each.steps:,.0f} of {steps:,}"
        rows.append(
            [
                each.task,
                each.label,
                paper,
                f"{middle:.0f} [{low:.0f}, {high:.0f}]",
                mean(each.returns.flatten().tolist()).number(),
                f"{each.returns.min():.0f} … {each.returns.max():.0f}",
                f"{each.returns.size} of {each.models}" if share else each.returns.size,
                share or "–",
                each.source,
            ]
        )
    header = [
        "task",
        "controller",
        "paper (Fig. 4): median [quartiles]",
        "ours: median [quartiles]",
        "mean [95 %, over episodes]",
        "range",
        "episodes, of models",
        "simulated steps of the phase, ours of the paper's",
        "source",
    ]
    limits = {each.time_limit for each in found}
    short = (
        f" Episodes last {min(limits)} simulated steps here, {EPISODE_STEPS} in the "
        "paper: returns cannot be compared."
        if limits != {EPISODE_STEPS}
        else ""
    )
    return (
        "### Returns after each phase (Fig. 4)\n\n"
        + markdown_table(header, rows)
        + f"\n{LEGEND}\n"
        + "\nNoise-free episodes; boxes and intervals are about the episodes of the "
        "models that were trained, not about other trainings. A phase that had a share "
        "of the paper's steps says so: its numbers are then no test of the paper's, "
        "and the networks may be smaller too (see Provenance and "
        f"`README.md`).{short}\n\n"
        "![Returns](locomotion_returns.png)\n\n"
        "*Returns of noise-free episodes: ours (filled) beside the paper's (grey, "
        "without its outliers).*\n"
    )


def _cost_section(found: Sequence[Tested]) -> str:
    rows = []
    for each in found:
        if math.isnan(each.evaluations):
            continue
        full = next(
            (t for t in found if t.task == each.task and t.phase == "initial"), None
        )
        share = "–"
        if full is not None and full.evaluations:
            share = f"{100 * each.evaluations / full.evaluations:.2f} %"
        published = paper_numbers.locomotion_evaluations(each.phase)
        rows.append(
            [
                each.task,
                each.label,
                f"{published:,}",
                f"{each.evaluations:,.0f}",
                share,
                f"{1000 * each.seconds:.1f} ms",
            ]
        )
    if not rows:
        return ""
    header = [
        "task",
        "controller",
        "paper",
        "ours, counted",
        "of CEM",
        "wall time per action",
    ]
    return (
        "### Transitions evaluated for one action\n\n"
        + markdown_table(header, rows)
        + "\nCounted in the episodes above, by counting the rows of every call of the "
        "world model's step that a planner makes. CEM counts the rollout of its answer "
        "too. Wall time includes filtering and the simulator, with all test episodes "
        "side by side.\n"
    )


def _chosen_section(curves: Sequence[Mapping[str, str]], records: Records) -> str:
    """Say which round of phase 2 goes on."""
    tests: dict[tuple[str, str], dict[int, float]] = {}
    for row in curves:
        if row["phase"] == "embedded" and row["test_return"]:
            key = row["task"], row["seed"]
            tests.setdefault(key, {})[int(row["round"])] = float(row["test_return"])
    texts = []
    for (task, seed), found in tests.items():
        record = records.get(f"locomotion/{task}/seed_{seed}/embedded")
        if record is None or not record["settings"]["training"]["keep_best"]:
            continue
        # Of equals the first, as the trainer keeps it.
        best = max(found, key=lambda index: found[index])
        texts.append(
            f"{task}, seed {seed}: round {best} of "
            f"{record['settings']['training']['rounds']} ({found[best]:.0f}; the last "
            f"one {found[max(found)]:.0f})"
        )
    if not texts:
        return ""
    return (
        f"What goes on from phase 2 is what was evaluated best, in {'; '.join(texts)}. "
        "That is the highest of several noisy means; the tests above are of other "
        "episodes.\n"
    )


def _policy_section(records: Records) -> str:
    """Say what phase 3 tuned, from its settings."""
    texts = []
    for name, record in records.items():
        if not (name.startswith("locomotion/") and name.endswith("/policy")):
            continue
        policy = record["settings"]["policy"]
        spread = "learnt from" if policy["learn_std"] else "fixed at"
        texts.append(
            f"{' and '.join(policy['tuned'])} tuned, deviation {spread} "
            f"{policy['std']:g}, passes over the {policy['episodes']} episodes of each "
            f"step: {policy['ppo']['passes']}, learning rate "
            f"{policy['ppo']['learning_rate']:g}"
        )
    if not texts:
        return ""
    return f"Phase 3: {'; '.join(dict.fromkeys(texts))}.\n"
