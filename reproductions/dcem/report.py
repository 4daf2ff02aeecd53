"""The results of a preset: a page with tables and figures, made from run folders."""

import json
from pathlib import Path

from reproductions.common.provenance import gather, summary
from reproductions.common.tables import write_text
from reproductions.dcem import (
    cartpole_report,
    locomotion_report,
    regression_report,
)

READING = """\
"Ours" is a mean over training seeds with Student's 95 % interval. The paper's numbers
were read off its figures; what they mean stands in `reproductions/dcem/paper.toml`.
Deviations are numbered in `reproductions/dcem/README.md`.
"""


def write(directory: Path, output: Path, preset: str) -> Path:
    """Write everything that the finished units allow.

    Args:
        directory: The run folder of the preset.
        output: Receives `README.md`, tables, figures and `run.json`.
        preset: Its name.

    Returns:
        The page.
    """
    output.mkdir(parents=True, exist_ok=True)
    records = gather(directory)
    regression = regression_report.write(directory / "regression", output)
    body = []
    if regression:
        body += ["## (a) Regression through an energy\n", regression]
    cartpole = cartpole_report.write(directory / "cartpole", output)
    if cartpole:
        body += ["## (b) Cartpole with a learned embedding of actions\n", cartpole]
    locomotion = locomotion_report.write(directory / "locomotion", output)
    if locomotion:
        body += ["## (c) Cheetah run and walker walk\n", locomotion]
    page = [
        f"# DCEM, preset `{preset}`\n",
        READING if body else "No finished unit yet.\n",
        *body,
        "## Provenance\n",
        summary(records.values()),
        "Settings, seeds, versions, commit, hardware and time of every unit are in "
        "`run.json`; this page is written by\n"
        f"`python -m reproductions.dcem report --preset {preset}`.\n",
    ]
    path = output / "README.md"
    write_text(path, "\n".join(page))
    write_text(output / "run.json", json.dumps(records, indent=1) + "\n")
    return path
