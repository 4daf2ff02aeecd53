"""Draws the README's moving picture: LatCo plans a swing-up, iteration by iteration.

`python docs/optimisation.py` writes docs/pictures/optimisation.webp. The ground is
transparent and every colour is seen on white and on black.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffplan as dp  # noqa: E402
from diffplan._colours import PLANNERS  # noqa: E402
from diffplan._runs.figures import new_figure  # noqa: E402

GREY, REAL = "#808a94", "#d9702b"
SHOWN = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 60)
"""Iterations, of which the first ones change most."""
BETWEEN, LENGTH = 0.62, 0.95  # of the poles, as they are drawn


def swing_up() -> dp.training.PlanRecord:
    """Return a plan through its iterations."""
    angle = 2.84
    problem = dp.PlanningProblem(
        dp.models.analytic.Cartpole(),
        dp.objectives.GoalDistance(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), 0.0, 10.0),
        dp.Box([-20.0], [20.0]),
    )
    state = torch.tensor([0.0, 0.0, math.cos(angle), math.sin(angle), 0.0])
    planner = dp.LatCo(30, iterations=60)
    return dp.training.record_plan(planner, problem, state)


def between(light: str, dark: str) -> str:
    """Return a shade that is seen on white and on black."""
    pairs = [(int(light[i : i + 2], 16), int(dark[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{sum(pair) // 2:02x}" for pair in pairs)


def frame(record: dp.training.PlanRecord, iteration: int) -> Image.Image:
    """Draw the poles of all steps, side by side in time, and the violation so far."""
    figure, axes = new_figure(1, 1, size=(7.6, 2.15))
    axis, colour = axes[0, 0], between(*PLANNERS["LatCo"])
    figure.patch.set_alpha(0)
    axis.patch.set_alpha(0)
    axis.grid(visible=False)
    axis.set_axis_off()
    last = len(record.cost) - 1
    for at, shade, width in ((last, GREY, 1.2), (iteration, colour, 2.4)):
        for step, (place, _, cos, sin, _) in enumerate(record.states[at, ::2]):
            left = BETWEEN * step + 0.4 * place
            xs = (left, left + LENGTH * sin)
            axis.plot(xs, (0, LENGTH * cos), color=shade, linewidth=width, alpha=0.85)
            axis.plot(left, 0, "s", color=shade, markersize=width + 1.5)
    axis.set_xlim(-0.5, 10.1)
    axis.set_ylim(-1.5, 1.45)
    axis.set_aspect("equal")
    told = "answer" if iteration == last else f"iteration {iteration}"
    axis.text(-0.4, 1.2, f"LatCo, {told}", color=colour, fontsize=12)
    violated = f"violation of the dynamics {record.violation[iteration]:.0e}"
    axis.text(10.0, 1.2, violated, color=REAL, fontsize=11, ha="right")
    axis.text(-0.4, -1.45, "time →   (grey: the answer)", color=GREY, fontsize=9)
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy())


def main() -> None:
    """Draw all frames and write the picture."""
    record = swing_up()
    frames = [frame(record, iteration) for iteration in SHOWN]
    last = len(frames) - 1
    times = [1400 if i in (0, last) else 350 for i in range(len(frames))]
    path = ROOT / "docs" / "pictures" / "optimisation.webp"
    first, *others = frames
    options = {"duration": times, "loop": 0, "quality": 80, "method": 6}
    first.save(path, save_all=True, append_images=others, **options)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main()
