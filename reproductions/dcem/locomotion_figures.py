"""Figures of stage (c): boxes of returns beside the paper's, and learning curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffplan._runs.figures import COLOURS, new_figure, save_figure
from reproductions.dcem import paper_numbers
from reproductions.dcem.locomotion import IDLE, PHASES

if TYPE_CHECKING:
    from reproductions.dcem.locomotion_results import Tested

TITLES = {
    "random": "random actions",
    "still": "no action",
    "initial": "CEM (phase 1)",
    "embedded": "DCEM (phase 2)",
    "policy": "DCEM + PPO (phase 3)",
}


def draw_boxes(found: Sequence["Tested"], path: Path) -> None:
    """Draw the returns after each phase of each task."""
    tasks = list(dict.fromkeys(each.task for each in found))
    figure, (axes,) = new_figure(1, len(tasks), size=(4.4, 3.4))
    for axis, task in zip(axes, tasks, strict=True):
        chosen = [each for each in found if each.task == task]
        for place, each in enumerate(chosen):
            colour = COLOURS[place % len(COLOURS)]
            axis.boxplot(
                each.returns.flatten(),
                positions=[place - 0.18],
                widths=0.3,
                patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.6},
                medianprops={"color": "black"},
                flierprops={"markersize": 3},
                manage_ticks=False,
            )
            if each.phase not in IDLE:
                box = paper_numbers.locomotion_box(task, each.phase)
                names = ("whislo", "q1", "med", "q3", "whishi")
                axis.bxp(
                    [dict(zip(names, box, strict=True))],
                    positions=[place + 0.18],
                    widths=0.3,
                    showfliers=False,
                    patch_artist=True,
                    boxprops={"facecolor": "lightgrey"},
                    medianprops={"color": "black"},
                    manage_ticks=False,
                )
        labels = [TITLES[each.phase].replace(" (", "\n(") for each in chosen]
        axis.set_xticks(range(len(chosen)), labels, fontsize=7)
        axis.set(title=task, ylim=(0, None))
    axes[0].set(ylabel="return")
    save_figure(figure, path)


def draw_curves(curves: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw the returns while training, phase after phase."""
    tasks = list(dict.fromkeys(row["task"] for row in curves))
    figure, (axes,) = new_figure(1, len(tasks), size=(4.4, 3.2))
    for axis, task in zip(axes, tasks, strict=True):
        seeds = dict.fromkeys(row["seed"] for row in curves if row["task"] == task)
        for number, seed in enumerate(seeds):
            before = 0
            for colour, phase in zip(COLOURS[1:], PHASES, strict=False):
                rows = [
                    row
                    for row in curves
                    if (row["task"], row["seed"], row["phase"]) == (task, seed, phase)
                ]
                if not rows:
                    continue
                label = TITLES[phase] if number == 0 else None
                steps = [(before + int(row["environment_step"])) / 1000 for row in rows]
                values = [float(row["collect_return"]) for row in rows]
                axis.plot(steps, values, color=colour, linewidth=1, label=label)
                tests = [
                    (step, float(row["test_return"]))
                    for step, row in zip(steps, rows, strict=True)
                    if row["test_return"]
                ]
                if tests:
                    axis.plot(*zip(*tests, strict=True), "o", color=colour, ms=3)
                before += int(rows[-1]["environment_step"])
        axis.set(title=task, xlabel="simulated steps, thousands", ylim=(0, None))
        axis.legend(fontsize=7)
    axes[0].set(ylabel="return")
    save_figure(figure, path)
