"""Write how long each command takes into `README.md`, from the records of its runs.

    python -m reproductions.durations

The only place with such numbers: other pages link to it. A test fails when the page is
not what this script writes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reproductions.common.command import WORKERS, Reproduction
from reproductions.common.provenance import RECORDS
from reproductions.common.stages import Unit
from reproductions.common.tables import markdown_table
from reproductions.dcem.__main__ import COMMAND as DCEM
from reproductions.latco.__main__ import COMMAND as LATCO

PAGE = Path(__file__).with_name("README.md")
BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
REPRODUCTIONS = {
    LATCO: "[LatCo](latco/README.md), Rybkin et al., ICML 2021",
    DCEM: "[DCEM](dcem/README.md), Amos and Yarats, ICML 2020",
}
MINUTE = 60.0


def schedule(
    units: Sequence[Unit], seconds: Mapping[str, float], workers: int = WORKERS
) -> float:
    """Return when the last unit ends, if each takes as long as it once did.

    Units start as `stages.run_units` starts them: in the order of the list, each after
    what it needs.

    Args:
        units: The work.
        seconds: Of each unit, by name.
        workers: How many run at the same time.
    """
    ends: dict[str, float] = {}
    running: dict[str, float] = {}
    waiting, now = list(units), 0.0
    while waiting or running:
        for unit in list(waiting):
            if len(running) < workers and set(unit.needs) <= ends.keys():
                waiting.remove(unit)
                running[unit.name] = now + seconds[unit.name]
        name = min(running, key=lambda key: running[key])
        now = ends[name] = running.pop(name)
    return now


def table() -> str:
    """Return the table in Markdown."""
    rows = []
    for command, title in REPRODUCTIONS.items():
        units = command.work("cpu", []).units(None, None, Path("runs"))
        records = _records(command)
        seconds = {u.name: records[u.name]["wall_seconds"] for u in units}
        rows.append(
            [
                title,
                f"`nox -s reproduce_{command.name}`",
                f"{schedule(units, seconds) / MINUTE:.0f} minutes",
                f"{sum(seconds.values()) / MINUTE:.0f} minutes",
            ]
        )
    header = ["paper", "command", "on two cores", "summed over its units"]
    return markdown_table(header, rows)


def _records(command: Reproduction) -> dict[str, dict[str, float]]:
    path = PAGE.parent / command.name / "results" / "cpu" / RECORDS
    records: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def page_with_table(page: str) -> str:
    """Return the page with the table of today."""
    return BLOCK.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
