"""The page of some runs: their curves, their results, and where the time went."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffplan._runs.estimates import mean
from diffplan._runs.figures import COLOURS, draw_runs, new_figure, save_figure
from diffplan._runs.metrics import Rounds
from diffplan._runs.run import TaskRun, read_settings
from diffplan._runs.tables import markdown_table, picture, write_text
from diffplan.errors import FileError

_CURVES = (
    ("test/return", "return without noise"),
    ("collect/return", "return while exploring"),
    ("train/loss", "loss of the model"),
)
_PAGE, _FIGURE = "report.md", "report.png"


def write_page(directories: Sequence[Path], output: Path) -> Path:
    """Write `report.md` and `report.png` from the metrics of runs.

    Args:
        directories: Their folders, at least one.
        output: Where; made if needed.

    Returns:
        The page.

    Raises:
        FileError: a folder holds no run, or one without a complete round.
    """
    found = []
    for directory in directories:
        run, seed = read_settings(directory)
        rounds = Rounds.read(directory)
        if not rounds.steps:
            raise FileError(f"RUN: expected a complete round in {directory}, got none")
        found.append((directory, run, seed, rounds))
    output.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Rounds]] = {}
    for _, run, _, rounds in found:
        groups.setdefault(_label(run), []).append(rounds)
    _draw(groups, output / _FIGURE)
    header = ["run", "task and planner", "seed", "rounds", "steps", "last return"]
    rows = []
    for directory, run, seed, rounds in found:
        *_, last = rounds.series("test/return")[1].tolist() or [np.nan]
        done = f"{len(rounds.steps)} of {1 + run.training.rounds}"
        rows.append(
            [directory, _label(run), seed, done, rounds.steps[-1], f"{last:.4g}"]
        )
        rows[-1] += [_share(rounds, name) for name in ("planning", "training")]
    table = markdown_table([*header, "planning", "training"], rows)
    title = "Learning curves; one line a run, the thick one their mean"
    notes = [_seeds(label, group) for label, group in groups.items() if group[1:]]
    page = "\n".join(["# Runs\n", table, *notes, picture(_FIGURE, title)])
    write_text(output / _PAGE, page)
    return output / _PAGE


def _label(run: TaskRun) -> str:
    return f"{run.task}, {run.planner_name}"


def _share(rounds: Rounds, name: str) -> str:
    """Return the share of the time that went there, in the rounds that had some."""
    _, values = rounds.series(f"time/{name}_share")
    return f"{100 * values.mean():.0f} %" if len(values) else "–"


def _seeds(label: str, group: Sequence[Rounds]) -> str:
    """Return the mean of several seeds' last evaluations."""
    series = [rounds.series("test/return")[1] for rounds in group]
    last = [float(values[-1]) for values in series if len(values)]
    told = mean(last).number(1) if last else "none"
    return (
        f"{label}: last return {told}, mean of {len(last)} runs with 95 % interval.\n"
    )


def _draw(groups: dict[str, list[Rounds]], path: Path) -> None:
    figure, axes = new_figure(columns=len(_CURVES), size=(3.6, 2.8))
    for (name, title), axis in zip(_CURVES, axes[0], strict=True):
        for number, (label, group) in enumerate(groups.items()):
            series = [rounds.series(name) for rounds in group]
            known = [each for each in series if len(each[0])]
            if known:
                steps, values = zip(*known, strict=True)
                colour = COLOURS[number % len(COLOURS)]
                draw_runs(axis, steps, values, label, colour)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("environment steps")
    axes[0][0].legend(fontsize=7)
    save_figure(figure, path)
