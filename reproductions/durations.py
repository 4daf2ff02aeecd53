"""Write how long each command takes into `README.md`, from the records of its runs.

    python -m reproductions.durations

The only place with such numbers: other pages link to it. A test fails when the page is
not what this script writes.
"""

import re
from pathlib import Path

from diffplan._runs.tables import markdown_table
from reproductions.common.engines import WORKERS
from reproductions.common.experiment import Paper, Selection, papers
from reproductions.common.provenance import published
from reproductions.common.schedule import schedule

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
MINUTE = 60.0


def table() -> str:
    """Return the table in Markdown, a line per paper that has results."""
    rows = [_row(paper) for paper in papers() if published(paper.committed("cpu"))]
    header = ["paper", "command", "on two cores", "summed over its units"]
    return markdown_table(header, rows)


def _row(paper: Paper) -> list[str]:
    facts, records = paper.facts, published(paper.committed("cpu"))
    units = paper.units("cpu", Selection(), Path("runs"))
    units = [unit for unit in units if unit.name in records]  # others are newer
    seconds = {unit.name: records[unit.name]["wall_seconds"] for unit in units}
    return [
        f"{facts['title']} ({facts['authors']}; {facts['venue']})",
        f"`nox -s reproduce_{paper.name}`",
        f"{schedule(units, seconds, WORKERS) / MINUTE:.0f} minutes",
        f"{sum(seconds.values()) / MINUTE:.0f} minutes",
    ]


def page_with_table(page: str) -> str:
    """Return the page with the table of today."""
    return BLOCK.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
