"""The results of a preset: a page with tables and figures, made from run folders."""

from pathlib import Path

from reproductions.common.page import write_page
from reproductions.common.provenance import gather
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
    start = READING if body else "No finished unit yet.\n"
    return write_page(output, "DCEM", "dcem", preset, [start, *body], records)
