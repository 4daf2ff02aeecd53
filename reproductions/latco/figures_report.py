"""The section with the paper's Figures 1, 11 and 12, from `figures.npz` alone."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffplan._files import write_atomically
from diffplan._runs.figures import COLOURS, new_figure, save_figure
from diffplan._runs.tables import markdown_table, picture
from reproductions.common.experiment import Results, Section
from reproductions.common.provenance import LEGEND, Records, mark
from reproductions.common.runs import folders
from reproductions.common.styles import planner_styles
from reproductions.common.units import read_record
from reproductions.latco.comparison_config import FOLLOWED
from reproductions.latco.comparison_result import NAMES, REACHED
from reproductions.latco.figures import EXPERIMENT, MAP, PLAN, SIDES

DATA = "figures.npz"
FIGURES = {
    "figure_1.png": "A plan at several iterations (Fig. 1)",
    "figure_11.png": "Multipliers, violation and reward over iterations (Fig. 11)",
    "figure_12.png": "What the reward head says of each place of the hand (Fig. 12)",
}
COLLOCATION = [name for name in FOLLOWED if name.startswith("latco")]
"""Planners that have multipliers."""
BAND = (10, 90)
"""Percentiles over starts and training seeds."""
DISTANCES = np.linspace(0.0, 0.5, 26)
"""Metres from the goal, of the profile's bins."""

Arrays = Mapping[str, np.ndarray]

TRACES = {
    "multiplier": "multiplier λ, mean over the plan",
    "violation": "dynamics violation, mean ‖x − f(x, u)‖²",
    "reward": "reward of the planned states (sum)",
}
READING = """\
Figure 1: the planned hand, seen from above, of the first start that is at least 0.35 m
away, with the model of the first training seed; above each plan the sum of its
predicted rewards. The cross is the start, the circle the goal. LatCo's states are
variables and may be anywhere at first; those of shooting follow from its actions.

Figure 11 and the table (its last iteration): median, and middle 80 %, over the starts
of all training seeds. *No relaxation* begins with λ = 1e8, which the released rule lets
fall by a tenth per step. n: training seeds × starts.

Figure 12: predicted reward where the hand rests at the goal's height, and its mean and
range against the distance from the goal. The true reward is 1 within 5 cm, the circle
and the dotted line, else 0. The paper's map is of the puck, on Pushing, from images.
"""


def report(results: Results) -> Section | None:
    """Keep what the finished units found; draw the figures and write the section."""
    found = _kept(results)
    if not found:
        return None
    plans = {name: own for name in FOLLOWED if (own := _by_seed(found, name))}
    maps, drawn = _by_seed(found, "map"), {}
    if plans:
        drawn["figure_1.png"] = plan_figure(plans)
    relaxed = {name: own for name, own in plans.items() if name in COLLOCATION}
    if relaxed:
        drawn["figure_11.png"] = multiplier_figure(relaxed)
    if maps:
        drawn["figure_12.png"] = map_figure(maps)
    for name, figure in drawn.items():
        save_figure(figure, results.output / name)
    text = [picture(name, FIGURES[name]) for name in drawn]
    if plans:
        text.append(_table(plans, results.records))
    return Section("\n".join([*text, READING]))


def _kept(results: Results) -> dict[str, Arrays]:
    """Return the arrays of each unit, published or new, by its name.

    In the file they are called `<unit>:<array>`; what is new takes the place of what
    the same unit had.
    """
    path, found = results.output / DATA, dict[str, dict[str, np.ndarray]]()
    for key, array in np.load(path).items() if path.exists() else ():
        unit, _, name = key.partition(":")
        found.setdefault(unit, {})[name] = array
    for folder in folders(results.runs):
        record = read_record(folder)
        for name in (PLAN, MAP) if record is not None else ():
            if (folder / name).exists():
                found[record["name"]] = dict(np.load(folder / name))
    arrays = {f"{u}:{name}": a for u in sorted(found) for name, a in found[u].items()}
    if arrays:
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
    return dict(found)


def _by_seed(found: Mapping[str, Arrays], name: str) -> dict[int, Arrays]:
    """Return what the units of that name found, by training seed in order."""
    own = {unit: arrays for unit, arrays in found.items() if unit.endswith(f"/{name}")}
    seeds = {int(unit.split("/")[1].removeprefix("seed_")): own[unit] for unit in own}
    return dict(sorted(seeds.items()))


def plan_figure(plans: Mapping[str, Mapping[int, Arrays]]) -> Any:
    """Draw the planned hand after some iterations, a row for each planner."""
    names = [name for name in plans if name != "latco_no_relaxation"]
    first = {name: next(iter(plans[name].values())) for name in names}
    columns = max(len(arrays["iterations"]) for arrays in first.values())
    figure, axes = new_figure(len(names), columns, size=(2.3, 1.7))
    for row, (name, arrays) in zip(axes, first.items(), strict=True):
        row[0].set_ylabel(f"{NAMES[name]}\ny, m")
        for axis in row[len(arrays["iterations"]) :]:
            axis.set_axis_off()
        for index, iteration in enumerate(arrays["iterations"]):
            drawn = _draw_plan(row[index], arrays, index)
            total = arrays["rewards"][index].sum()
            row[index].set_title(f"iteration {iteration}: {total:.1f}", fontsize=8)
    figure.colorbar(drawn, ax=axes, label="predicted reward", shrink=0.8)
    return figure


def _draw_plan(axis: Any, arrays: Arrays, index: int) -> Any:
    x, y, _ = arrays["hands"][index].T
    rewards = arrays["rewards"][index]
    axis.plot(x, y, color="0.7", linewidth=0.7, zorder=1)
    drawn = axis.scatter(x[1:], y[1:], 9, rewards, vmin=0, vmax=1, zorder=2)
    axis.plot(x[0], y[0], "x", color=COLOURS[1], zorder=3)
    _draw_goal(axis, arrays["goal"])
    axis.set(xlim=SIDES[0], ylim=SIDES[1], aspect="equal")
    axis.tick_params(labelsize=6)
    return drawn


def _draw_goal(axis: Any, goal: np.ndarray) -> None:
    angle = np.linspace(0, 2 * np.pi, 60)
    x, y = goal[0] + REACHED * np.cos(angle), goal[1] + REACHED * np.sin(angle)
    axis.plot(x, y, color=COLOURS[1], linewidth=1, zorder=3)


def multiplier_figure(plans: Mapping[str, Mapping[int, Arrays]]) -> Any:
    """Draw λ, violation and reward over the iterations, as LatCo's Fig. 11."""
    figure, axes = new_figure(columns=len(TRACES), size=(3.4, 3.0))
    styles = planner_styles(*(NAMES[name] for name in plans))
    for (colour, dashes), (name, seeds) in zip(styles, plans.items(), strict=True):
        for axis, trace in zip(axes[0], TRACES, strict=True):
            low, middle, high = _percentiles(seeds, trace)
            steps = np.arange(1, len(middle) + 1)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            drawn = {"color": colour, "linestyle": dashes, "label": NAMES[name]}
            axis.plot(steps, middle, **drawn)
    for axis, (trace, title) in zip(axes[0], TRACES.items(), strict=True):
        axis.set(xlabel="iteration", yscale="linear" if trace == "reward" else "log")
        axis.set_title(title, fontsize=9)
    axes[0, 0].legend(fontsize=7)
    return figure


def _percentiles(seeds: Mapping[int, Arrays], trace: str) -> np.ndarray:
    """Return `[3, I]`: low, median and high over starts and training seeds."""
    pooled = np.concatenate([arrays[trace] for arrays in seeds.values()])
    return np.percentile(pooled, (BAND[0], 50, BAND[1]), axis=0)


def map_figure(maps: Mapping[int, Arrays]) -> Any:
    """Draw the first model's map, and all models' profiles around the goal."""
    figure, axes = new_figure(columns=2, size=(4.4, 3.2))
    plane, profile = axes[0]
    seed, first = next(iter(maps.items()))
    drawn = plane.pcolormesh(first["x"], first["y"], first["reward"], vmin=0, vmax=1)
    figure.colorbar(drawn, ax=plane, label="predicted reward")
    _draw_goal(plane, first["goal"])
    plane.grid(visible=False)
    plane.set(xlabel="x of the hand, m", ylabel="y, m", aspect="equal")
    plane.set_title(f"training seed {seed}", fontsize=9)
    for colour, (seed, each) in zip(itertools.cycle(COLOURS), maps.items()):
        places, (low, middle, high) = reward_profile(each)
        profile.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        profile.plot(places, middle, color=colour, label=f"seed {seed}")
    profile.axvline(REACHED, color="black", linestyle=":", linewidth=1)
    profile.set(xlabel="distance from the goal, m", ylabel="predicted reward")
    profile.legend(fontsize=7)
    return figure


def reward_profile(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return distances `[N]`, and `[3, N]` least, mean and largest reward there."""
    x, y = np.meshgrid(arrays["x"], arrays["y"])
    distance = np.hypot(x - arrays["goal"][0], y - arrays["goal"][1])
    bins = np.digitize(distance, DISTANCES) - 1
    inside = range(len(DISTANCES) - 1)
    rewards = {n: arrays["reward"][bins == n] for n in inside if (bins == n).any()}
    middles = (DISTANCES[:-1] + DISTANCES[1:]) / 2
    rows = [(each.min(), each.mean(), each.max()) for each in rewards.values()]
    return middles[list(rewards)], np.transpose(rows)


def _table(plans: Mapping[str, Mapping[int, Arrays]], records: Records) -> str:
    header = ["planner", "n", "reward", "violation", "multiplier"]
    lines = []
    for name, seeds in plans.items():
        units = [f"{EXPERIMENT}/seed_{seed}/{name}" for seed in seeds]
        starts = len(next(iter(seeds.values()))["reward"])
        line = [NAMES[name] + mark(records, *units), f"{len(seeds)} × {starts}"]
        for trace in ("reward", "violation", "multiplier"):
            known = trace in next(iter(seeds.values()))
            ends = _percentiles(seeds, trace)[:, -1] if known else ()
            line.append("{1:.2g} [{0:.2g}, {2:.2g}]".format(*ends) if known else "–")
        lines.append(line)
    legend = [LEGEND + "\n"] if any("*" in line[0] for line in lines) else []
    return "\n".join([markdown_table(header, lines), *legend])
