"""Plots without global state: same data, same file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._checks import missing
from diffplan._files import write_atomically

COLOURS = ("#0060a8", "#d1495b", "#3a8f5c", "#8d6cab", "#e08e28", "#5d6d7e")
DOTS_PER_INCH = 150


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> Any:
    """Return a matplotlib figure and its axes.

    Args:
        rows: Of axes.
        columns: Of axes.
        size: Of one of the axes, inches.

    Returns:
        The figure and an array of axes `[rows, columns]`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("figures need matplotlib", "suite") from error
    width, height = size
    figure = Figure((width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, replaced as a whole, without dates and versions inside."""

    def write(file: Any) -> None:
        figure.savefig(
            file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None}
        )

    write_atomically(path, write)


def draw_runs(
    axis: Any,
    steps: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    label: str,
    colour: str,
    dashes: Any = "-",
) -> None:
    """Draw the curves of several seeds thinly and, where all have it, their mean.

    Args:
        axis: Of `new_figure`.
        steps: One array per seed, increasing.
        values: As many numbers as steps.
        label: In the legend, for the mean.
        colour: Of all of them.
        dashes: Of the mean.
    """
    for seed_steps, seed_values in zip(steps, values, strict=True):
        axis.plot(seed_steps, seed_values, color=colour, alpha=0.35, linewidth=1)
    common = sorted(set.intersection(*(set(map(float, array)) for array in steps)))
    rows = [
        [float(v) for s, v in zip(seed_steps, seed_values, strict=True) if s in common]
        for seed_steps, seed_values in zip(steps, values, strict=True)
    ]
    drawn = {"color": colour, "linestyle": dashes, "linewidth": 2, "label": label}
    axis.plot(common, np.mean(rows, axis=0), **drawn)


def as_png(picture: np.ndarray) -> bytes:
    """Return an image, uint8 `[H, W, 3]`, as PNG.

    Raises:
        MissingDependencyError: imageio is not installed.
    """
    try:
        import imageio.v3 as imageio
    except ImportError as error:
        raise missing("pictures need imageio", "suite") from error
    content: bytes = imageio.imwrite("<bytes>", picture, extension=".png")
    return content
