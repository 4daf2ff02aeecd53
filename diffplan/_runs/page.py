"""The page of some runs: their curves, their results, and where the time went."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffplan._runs.estimates import mean
from diffplan._runs.figures import COLOURS, draw_runs, new_figure, save_figure
from diffplan._runs.metrics import Rounds
from diffplan._runs.run import TaskRun, read_settings
from diffplan._runs.tables import markdown_table, picture, write_text
from diffplan.errors import ArgumentError, FileError

_CURVES = (
    ("test/return", "return without noise"),
    ("collect/return", "return while exploring"),
    ("train/loss", "loss of the model"),
)
_PAGE, _FIGURE = "report.md", "report.png"


class _Run(NamedTuple):
    directory: Path
    settings: TaskRun
    seed: int
    rounds: Rounds


def write_page(directories: Sequence[Path], output: Path) -> Path:
    """Write `report.md` and `report.png` from the metrics of runs.

    Args:
        directories: Their folders, at least one.
        output: Where; made if needed.

    Returns:
        The page.

    Raises:
        ArgumentError: two folders hold runs of equal settings and seeds.
        FileError: a folder holds no run, or one without a complete round.
    """
    groups = _read(directories)
    output.mkdir(parents=True, exist_ok=True)
    curves = {name: [each.rounds for each in runs] for name, runs in groups.items()}
    _draw(curves, output / _FIGURE)
    header = ["run", "task and planner", "seed", "rounds", "steps", "last return"]
    header += ["planning", "training"]
    rows = [_row(name, each) for name, runs in groups.items() for each in runs]
    title = "Learning curves; one line a run, the thick one their mean"
    notes = [_seeds(name, curve) for name, curve in curves.items() if curve[1:]]
    table, shown = markdown_table(header, rows), picture(_FIGURE, title)
    write_text(output / _PAGE, "\n".join(["# Runs\n", table, *notes, shown]))
    return output / _PAGE


def _read(directories: Sequence[Path]) -> dict[str, list[_Run]]:
    """Return the runs that differ in their seed alone, by their task and planner.

    Where several such groups share these, the first run of each tells them apart.
    """
    groups: dict[str, dict[int, _Run]] = {}
    for directory in {each.resolve(): each for each in directories}.values():
        settings, seed = read_settings(directory)
        rounds = Rounds.read(directory)
        if not rounds.steps:
            raise FileError(f"RUN: expected a complete round in {directory}, got none")
        group = groups.setdefault(json.dumps(settings.content()), {})
        if seed in group:
            raise ArgumentError(
                f"RUN: expected another seed or other settings in each, got "
                f"{group[seed].directory} and {directory}, both of seed {seed}"
            )
        group[seed] = _Run(directory, settings, seed, rounds)
    runs = [list(group.values()) for group in groups.values()]
    labels = [f"{r.settings.task}, {r.settings.planner_name}" for r, *_ in runs]
    names = [
        label if labels.count(label) == 1 else f"{label} ({first.directory})"
        for label, (first, *_) in zip(labels, runs, strict=True)
    ]
    return dict(zip(names, runs, strict=True))


def _row(name: str, run: _Run) -> list[object]:
    rounds, total = run.rounds, run.settings.training.rounds
    *_, last = rounds.series("test/return")[1].tolist() or [np.nan]
    done = f"{len(rounds.steps) - 1} of {total}"
    shares = [_share(rounds, part) for part in ("planning", "training")]
    steps = rounds.steps[-1]
    return [run.directory, name, run.seed, done, steps, f"{last:.4g}", *shares]


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
