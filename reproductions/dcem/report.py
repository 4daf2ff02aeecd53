"""The results of a preset: a page with tables and figures, made from run folders."""

from pathlib import Path

from reproductions.common.page import write_page
from reproductions.common.provenance import known
from reproductions.dcem import (
    cartpole_report,
    locomotion_report,
    regression_report,
    verdict,
)

READING = """\
"Ours" is a mean over training seeds with Student's 95 % interval. The paper's numbers
were read off its figures; what they mean stands in `reproductions/dcem/paper.toml`.
Deviations are numbered in `reproductions/dcem/README.md`. A source is the commit that a
unit was run from; a star marks one with changed files that no commit holds.
"""


def write(directory: Path, output: Path, preset: str) -> Path:
    """Write everything that the finished units allow, and what was published before.

    What is published (CSV, JSON and figures in `output`) is replaced unit by unit and
    never deleted; the page is made from it alone.

    Args:
        directory: The run folder of the preset.
        output: Receives `README.md`, tables, figures and `run.json`.
        preset: Its name.

    Returns:
        The page.
    """
    output.mkdir(parents=True, exist_ok=True)
    records = known(directory, output)
    regression = regression_report.write(directory / "regression", output, records)
    body = []
    if regression:
        body += ["## (a) Regression through an energy\n", regression]
    cartpole = cartpole_report.write(directory / "cartpole", output, records)
    if cartpole:
        body += ["## (b) Cartpole with a learned embedding of actions\n", cartpole]
    locomotion = locomotion_report.write(directory / "locomotion", output, records)
    if locomotion:
        body += ["## (c) Cheetah run and walker walk\n", locomotion]
    if body:
        body = [READING, verdict.section(output, records), *body]
    body = body or ["No finished unit yet.\n"]
    return write_page(output, "DCEM", "dcem", preset, body, records)
