"""Pictures of stage (c): what LatCo planned above what happened (LatCo, Fig. 5)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffplan._files import write_atomically
from diffplan._runs.figures import as_png
from diffplan._runs.tables import markdown_table, read_csv
from diffplan.training.video import film_strip, side_by_side, write_video
from reproductions.common import ledger
from reproductions.common.units import read_record

EXPERIMENT = "pixels"
SHOWN = {
    "start": "episode",
    "initial_distance": "initial_distance",
    "least_distance": "least_distance",
    "planned_return": "episode_return",
    "predicted_return": "predicted_return",
    "dynamics_violation": "dynamics_violation",
}
"""Columns of the table, and of the ledger: what was earned is called return there."""
COLUMNS = 11
SCALE = 2
FRAMES_PER_SECOND = 5


def write(directory: Path, output: Path) -> str:
    """Write film strip, video and table; return the Markdown that shows them.

    Args:
        directory: What `pixels.units` was given.
        output: Receives `film_strip.png`, `plan.gif` and rows of the ledger; they stay
            as they are where no plan is finished.
    """
    folder = directory / "plans"
    paths, record = sorted(folder.glob("plan_*.npz")), read_record(folder)
    if paths and record is not None:
        seed = record["settings"]["config"]["seed"]
        ledger.add(output, entries(read_csv(folder / "plans.csv"), seed))
        plans = [dict(np.load(path)) for path in paths]
        save_strip(plans, output / "film_strip.png")
        write_film(plans[0], output / "plan.gif")
    rows = ledger.read(output, EXPERIMENT)
    if not rows:
        return ""
    values = [[f"{float(row[name]):.3g}" for name in SHOWN.values()] for row in rows]
    return (
        "![film strip](film_strip.png)\n\n"
        "Time runs to the right; for each start, above: the images that LatCo's plan "
        "expects (its optimised states, decoded), below: what executing it looked "
        "like. Video of the first one (`plan.gif`): executed left, planned right. The "
        f"starts are the first {len(rows)}, none is picked. So few plans measure no "
        "success: this shows that all parts work together.\n\n"
        + markdown_table([name.replace("_", " ") for name in SHOWN], values)
    )


def entries(
    plans: Iterable[Mapping[str, str]], seed: int
) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of `plans.csv`.

    Args:
        plans: Its rows.
        seed: Of the model.
    """
    shared = {"experiment": EXPERIMENT, "unit": f"{EXPERIMENT}/plans"}
    for row in plans:
        told = {column: row[name] for name, column in SHOWN.items()}
        yield {**shared, "planner": "latco", "seed": seed, **told}


def write_film(plan: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a video of what was executed, left, beside what was planned."""
    video = side_by_side(*(plan[name] for name in ("executed", "planned")))
    enlarged = video[::2].repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    write_video(path, enlarged, FRAMES_PER_SECOND)


def strip(plans: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Return one picture, two rows per plan."""
    rows = [plan[name] for plan in plans for name in ("planned", "executed")]
    every = max(1, (len(rows[0]) - 1) // (COLUMNS - 1))
    return film_strip(rows, every=every)


def save_strip(plans: Sequence[dict[str, np.ndarray]], path: Path) -> None:
    """Write the strip of plans as PNG, with larger pixels."""
    content = as_png(strip(plans).repeat(SCALE, axis=0).repeat(SCALE, axis=1))
    write_atomically(path, lambda file: file.write(content))
