"""Write how long each command takes into `README.md`, from the records of its runs.

    python -m reproductions.durations

The only place with such numbers: other pages link to it. A test fails when the page is
not what this script writes.
"""

import re
from collections.abc import Iterator
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
    rows = [row for paper in papers() for row in _rows(paper)]
    header = ["paper", "command", "on two cores", "summed over published units"]
    return markdown_table(header, rows)


def _rows(paper: Paper) -> Iterator[list[str]]:
    """Yield a row for what a first command runs, and one for each stage on request."""
    facts, command = paper.facts, f"nox -s reproduce_{paper.name}"
    title = f"{facts['title']} ({facts['authors']}; {facts['venue']})"
    asked = [each.name for each in paper.experiments if "cpu" in each.on_request]
    chosen = {command: Selection()} | {
        f"{command} -- stage={name}": Selection([name]) for name in asked
    }
    records = published(paper.committed("cpu"))
    for words, selection in chosen.items():
        units = paper.units("cpu", selection, Path("runs"))
        seconds = {
            unit.name: records[unit.name]["wall_seconds"]
            for unit in units
            if unit.name in records
        }
        own = {name.partition("/")[0] for name in seconds}
        if {unit.name.partition("/")[0] for unit in units} <= own:
            known = [unit for unit in units if unit.name in seconds]
            yield [
                title,
                f"`{words}`",
                f"{schedule(known, seconds, WORKERS) / MINUTE:.0f} minutes",
                f"{sum(seconds.values()) / MINUTE:.0f} minutes, "
                f"{len(known)} of {len(units)} units",
            ]
            title = ""


def page_with_table(page: str) -> str:
    """Return the page with the table of today."""
    return BLOCK.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
