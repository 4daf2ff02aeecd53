"""Tables and figures of stage (c), made from its run folders."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.training.logging import read_metrics
from reproductions.common.figures import COLOURS, new_figure, save_figure
from reproductions.common.stages import DONE, SETTINGS
from reproductions.common.statistics import mean
from reproductions.common.tables import markdown_table, read_csv, write_csv
from reproductions.dcem import paper_numbers
from reproductions.dcem.locomotion import PHASES
from reproductions.dcem.locomotion_config import TASKS
from reproductions.dcem.locomotion_evaluation import COST, RETURNS

TITLES = {
    "random": "random actions",
    "initial": "CEM (phase 1)",
    "embedded": "DCEM (phase 2)",
    "policy": "DCEM + PPO (phase 3)",
}
EPISODE_STEPS = 1000


@dataclass(frozen=True)
class Tested:
    """The episodes after one phase of one task, those of all seeds together.

    Attributes:
        task: Its name.
        phase: One of `PHASES`, or random.
        seeds: How many were trained.
        returns: Of the episodes.
        steps: Simulated steps that the phase was trained on, mean over seeds.
        evaluations: Transitions that were evaluated for an action; None for random.
        seconds: Wall time of an action, environment included; None for random.
        time_limit: Simulated steps of an episode.
    """

    task: str
    phase: str
    seeds: int
    returns: np.ndarray
    steps: float
    evaluations: float | None
    seconds: float | None
    time_limit: int

    def quartiles(self) -> tuple[float, float, float]:
        """Return first quartile, median and third quartile."""
        low, middle, high = np.percentile(self.returns, (25, 50, 75)).tolist()
        return low, middle, high


def write(directory: Path, output: Path) -> str:
    """Write what the finished units allow; return Markdown.

    Args:
        directory: Of the stage's runs.
        output: Receives `locomotion.csv`, `locomotion_curves.csv` and figures.
    """
    found = list(_tested(directory))
    if not found:
        return ""
    write_csv(output / "locomotion.csv", [row for each in found for row in _rows(each)])
    _draw_boxes(found, output / "locomotion_returns.png")
    parts = [_returns_section(found), _cost_section(found)]
    curves = list(_curves(directory))
    if curves:
        write_csv(output / "locomotion_curves.csv", curves)
        _draw_curves(curves, output / "locomotion_curves.png")
        parts.append(_curves_section())
    parts += [_chosen_section(directory), _policy_section(directory)]
    return "\n".join(part for part in parts if part)


# Reading


def _tested(directory: Path) -> Iterator[Tested]:
    for task in TASKS:
        for phase in ("random", *PHASES):
            pattern = "random" if phase == "random" else f"seed_*/{phase}_tests"
            folders = [
                folder
                for folder in sorted((directory / task).glob(pattern))
                if (folder / DONE).exists()
            ]
            if folders:
                yield _read(task, phase, folders)


def _read(task: str, phase: str, folders: Sequence[Path]) -> Tested:
    rows = [row for folder in folders for row in read_csv(folder / RETURNS)]
    costs = [
        json.loads((folder / COST).read_text(encoding="utf-8"))
        for folder in folders
        if (folder / COST).exists()
    ]
    trained = [folder.with_name(phase) / "metrics.csv" for folder in folders]
    steps = [int(read_metrics(p)[-1]["environment_step"]) for p in trained if costs]
    settings = json.loads((folders[0] / SETTINGS).read_text(encoding="utf-8"))

    def average(name: str) -> float | None:
        return float(np.mean([cost[name] for cost in costs])) if costs else None

    return Tested(
        task,
        phase,
        len(folders),
        np.array([float(row["return"]) for row in rows]),
        float(np.mean(steps)) if steps else 0.0,
        average("evaluations_per_action"),
        average("seconds_per_action"),
        settings["place"]["world"]["time_limit"],
    )


def _rows(tested: Tested) -> list[dict[str, object]]:
    return [
        {
            "task": tested.task,
            "phase": tested.phase,
            "episode": index,
            "return": value,
        }
        for index, value in enumerate(tested.returns.tolist())
    ]


def _curves(directory: Path) -> Iterator[dict[str, object]]:
    """Yield the returns of each round of each phase, finished or not."""
    for task in TASKS:
        for seed in sorted((directory / task).glob("seed_*")):
            for phase in PHASES:
                path = seed / phase / "metrics.csv"
                rounds: dict[tuple[int, int], dict[str, str]] = {}
                for row in read_metrics(path) if path.exists() else ():
                    key = int(row["round"]), int(row["environment_step"])
                    rounds.setdefault(key, {})[row["name"]] = row["value"]
                for (index, step), values in rounds.items():
                    yield {
                        "task": task,
                        "seed": seed.name.removeprefix("seed_"),
                        "phase": phase,
                        "round": index,
                        "environment_step": step,
                        "collect_return": values.get("collect/return", ""),
                        "test_return": values.get("test/return", ""),
                        "predicted_cost": values.get("train/decoder_cost", ""),
                    }


# Text


def _returns_section(found: Sequence[Tested]) -> str:
    rows = []
    for each in found:
        low, middle, high = each.quartiles()
        paper = "–"
        share = ""
        if each.phase != "random":
            box = paper_numbers.locomotion_box(each.task, each.phase)
            paper = f"{box[2]:.0f} [{box[1]:.0f}, {box[3]:.0f}]"
            steps = paper_numbers.locomotion_steps(each.task, each.phase)
            share = f"{each.steps:,.0f} of {steps:,}"
        rows.append(
            [
                each.task,
                TITLES[each.phase],
                paper,
                f"{middle:.0f} [{low:.0f}, {high:.0f}]",
                mean(each.returns.tolist()).number(),
                f"{each.returns.min():.0f} … {each.returns.max():.0f}",
                f"{len(each.returns)} of {each.seeds}" if share else len(each.returns),
                share or "–",
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
        if each.evaluations is None or each.seconds is None:
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
                TITLES[each.phase],
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


def _curves_section() -> str:
    return (
        "### Training\n\n"
        "![Learning curves](locomotion_curves.png)\n\n"
        "*Returns while training, phase after phase (thin: episodes with exploration "
        "noise; dots: noise-free tests).*\n"
    )


def _chosen_section(directory: Path) -> str:
    """Say which round of phase 2 goes on."""
    texts = []
    for folder in sorted(directory.glob("*/seed_*/embedded")):
        if not (folder / DONE).exists():
            continue
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tests = {
            int(row["round"]): float(row["value"])
            for row in read_metrics(folder / "metrics.csv")
            if row["name"] == "test/return"
        }
        if settings["training"]["keep_best"] and tests:
            # Of equals the first, as the trainer keeps it.
            best = max(tests, key=lambda index: tests[index])
            texts.append(
                f"{folder.parts[-3]}, {folder.parts[-2].replace('_', ' ')}: round "
                f"{best} of {settings['training']['rounds']} ({tests[best]:.0f}; the "
                f"last one {tests[max(tests)]:.0f})"
            )
    if not texts:
        return ""
    return (
        f"What goes on from phase 2 is what was evaluated best, in {'; '.join(texts)}. "
        "That is the highest of several noisy means; the tests above are of other "
        "episodes.\n"
    )


def _policy_section(directory: Path) -> str:
    """Say what phase 3 tuned, from its settings."""
    paths = sorted(directory.glob(f"*/seed_*/policy/{SETTINGS}"))
    texts = []
    for path in paths:
        policy = json.loads(path.read_text(encoding="utf-8"))["policy"]
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


# Figures


def _draw_boxes(found: Sequence[Tested], path: Path) -> None:
    tasks = list(dict.fromkeys(each.task for each in found))
    figure, (axes,) = new_figure(1, len(tasks), size=(4.4, 3.4))
    for axis, task in zip(axes, tasks, strict=True):
        chosen = [each for each in found if each.task == task]
        for place, each in enumerate(chosen):
            colour = COLOURS[place % len(COLOURS)]
            axis.boxplot(
                each.returns,
                positions=[place - 0.18],
                widths=0.3,
                patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.6},
                medianprops={"color": "black"},
                flierprops={"markersize": 3},
                manage_ticks=False,
            )
            if each.phase != "random":
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


def _draw_curves(curves: Sequence[dict[str, Any]], path: Path) -> None:
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
                steps = [(before + row["environment_step"]) / 1000 for row in rows]
                values = [float(row["collect_return"]) for row in rows]
                axis.plot(steps, values, color=colour, linewidth=1, label=label)
                tests = [
                    (step, float(row["test_return"]))
                    for step, row in zip(steps, rows, strict=True)
                    if row["test_return"]
                ]
                if tests:
                    axis.plot(*zip(*tests, strict=True), "o", color=colour, ms=3)
                before += rows[-1]["environment_step"]
        axis.set(title=task, xlabel="simulated steps, thousands", ylim=(0, None))
        axis.legend(fontsize=7)
    axes[0].set(ylabel="return")
    save_figure(figure, path)
