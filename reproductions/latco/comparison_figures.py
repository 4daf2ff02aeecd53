"""Figures of stage (a): success against distance, and LatCo's plans as they improve."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from diffplan._runs.figures import COLOURS, new_figure
from reproductions.common.statistics import proportion
from reproductions.common.styles import planner_styles
from reproductions.latco.comparison_result import IDLE, NAMES, Result, title

DISTANCE_BINS = np.linspace(0.0, 0.75, 6)
"""Metres; the corners of the hand's box are up to 0.72 m away."""


def distance_figure(results: Sequence[Result], seen: str = "state vectors") -> Any:
    """Draw success against initial distance; of reach that is LatCo's Fig. 4.

    Args:
        results: Of the planners.
        seen: What the model sees, for the title.
    """
    figure, axes = new_figure(size=(7.6, 4.0))
    axis, drawn = axes[0, 0], [item for item in results if item.name not in IDLE]
    styles = planner_styles(*(NAMES[result.name] for result in drawn))
    for index, (result, (colour, dashes)) in enumerate(zip(drawn, styles, strict=True)):
        x = np.array([row["initial_distance"] for row in result.rows])
        y = np.array([row["outcome"] for row in result.rows])
        places, rates, errors = [], [], []
        for low, high in pairwise(DISTANCE_BINS):
            inside = (x >= low) & (x < high)
            if inside.any():
                rate = proportion(int(y[inside].sum()), int(inside.sum()))
                places.append((low + high) / 2 + 0.008 * (index - len(drawn) / 2))
                rates.append(rate.value)
                errors.append((rate.value - rate.low, rate.high - rate.value))
        axis.errorbar(
            places,
            rates,
            np.transpose(errors).clip(min=0.0),
            color=colour,
            linestyle=dashes,
            linewidth=2.5 if result.name == "latco" else 1.2,
            marker="o",
            markersize=4,
            elinewidth=0.8,
            label=NAMES[result.name],
        )
    axis.set(
        xlabel="initial distance, m",
        ylabel="success (95 % Wilson, seeds pooled)",
        ylim=(-0.03, 1.03),
        title=f"{title(results[0].task)} from {seen}",
    )
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def optimization_figure(traces: Sequence[Sequence[Mapping[str, str]]]) -> Any:
    """Draw LatCo's planned return and dynamics violation, as LatCo's Fig. 6."""
    figure, axes = new_figure(columns=2, size=(4.2, 3.2))
    for index, trace in enumerate(traces):
        table = {key: np.array([float(row[key]) for row in trace]) for key in trace[0]}
        colour = COLOURS[index % len(COLOURS)]
        for axis, name in zip(
            axes[0], ("predicted_return", "dynamics_violation"), strict=True
        ):
            low, high = table[f"{name}_low"], table[f"{name}_high"]
            x = table["iteration"]
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(
                x, table[f"{name}_mean"], color=colour, label=f"seed {trace[0]['seed']}"
            )
            axis.set_xlabel("iteration")
    axes[0, 0].set_title("reward of the planned states (sum)")
    axes[0, 0].legend(fontsize=7)
    axes[0, 1].set_title("dynamics violation (mean ‖x - f(x, u)‖²)")
    axes[0, 1].set_yscale("log")
    return figure
