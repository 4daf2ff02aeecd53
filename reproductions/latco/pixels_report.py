"""Pictures of stage (c): what LatCo planned above what happened (LatCo, Fig. 5)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffplan.training.video import film_strip, side_by_side, write_video
from reproductions.common.figures import save_picture
from reproductions.common.tables import markdown_table, read_csv, write_csv

TABLE = "pixels.csv"
COLUMNS = 11
SCALE = 2
FRAMES_PER_SECOND = 5


def write(directory: Path, output: Path) -> str:
    """Write film strip, video and table; return the Markdown that shows them.

    Args:
        directory: What `pixels.units` was given.
        output: Receives `film_strip.png`, `plan.gif`, `pixels.csv`; they stay as they
            are where no plan is finished.
    """
    paths = sorted((directory / "plans").glob("plan_*.npz"))
    table = directory / "plans" / "plans.csv"
    if paths and table.exists():
        output.mkdir(parents=True, exist_ok=True)
        write_csv(output / TABLE, read_csv(table))
        plans = [dict(np.load(path)) for path in paths]
        save_picture(strip(plans), output / "film_strip.png", SCALE)
        video = side_by_side(*(plans[0][name] for name in ("executed", "planned")))
        enlarged = video[::2].repeat(SCALE, axis=1).repeat(SCALE, axis=2)
        write_video(output / "plan.gif", enlarged, FRAMES_PER_SECOND)
    if not (output / TABLE).exists():
        return ""
    rows = read_csv(output / TABLE)
    header = list(rows[0])
    values = [[f"{float(row[name]):.3g}" for name in header] for row in rows]
    return (
        "![film strip](film_strip.png)\n\n"
        "Time runs to the right; for each start, above: the images that LatCo's plan "
        "expects (its optimised states, decoded), below: what executing it looked "
        "like. Video of the first one (`plan.gif`): executed left, planned right. The "
        f"starts are the first {len(rows)}, none is picked. So few plans measure no "
        "success: this shows that all parts work together.\n\n"
        + markdown_table([name.replace("_", " ") for name in header], values)
    )


def strip(plans: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Return one picture, two rows per plan."""
    rows = [plan[name] for plan in plans for name in ("planned", "executed")]
    every = max(1, (len(rows[0]) - 1) // (COLUMNS - 1))
    return film_strip(rows, every=every)
