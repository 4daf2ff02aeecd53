"""The ledger: a row per episode, of which every number on a page is made.

A folder of results has one, `ledger.csv.gz`. Rows belong to the unit that made them and
are replaced together when this unit is made again. All experiments have the columns of
`COLUMNS`; what one knows beyond them stands behind.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffplan._files import write_atomically
from diffplan.errors import FileError

NAME = "ledger.csv.gz"
COLUMNS = (
    "experiment",
    "unit",
    "planner",
    "seed",
    "episode",
    "outcome",
    "episode_return",
    "initial_distance",
    "solved_at_start",
    "model_evaluations",
    "milliseconds",
)
"""Training seed; start or other key of the episode, the same for all planners that met
it; 1 for success, or what the experiment measures instead; model evaluations and wall
time of one plan. Empty where it is not known."""

Row = dict[str, str]


def read(output: Path, experiment: str | None = None) -> list[Row]:
    """Return the rows of a folder of results, all or those of one experiment.

    Raises:
        FileError: the ledger cannot be read.
    """
    path = output / NAME
    if not path.exists():
        return []
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FileError(f"{path}: expected a ledger, cannot read it: {error}") from None
    rows = csv.DictReader(text.splitlines())
    return [r for r in rows if experiment in (None, r["experiment"])]


def add(output: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Put rows into the ledger of a folder, in place of their units' earlier ones.

    Equal rows make an equal file, byte for byte.

    Args:
        output: The folder of results.
        rows: Any columns; those of `COLUMNS` that are missing are empty.
    """
    added = [{name: _text(value) for name, value in row.items()} for row in rows]
    units = {row["unit"] for row in added}
    kept = [row for row in read(output) if row["unit"] not in units]
    if added:
        _write(output / NAME, [*kept, *added])


def _write(path: Path, rows: Sequence[Row]) -> None:
    # Units in the order of their names; of one unit as it wrote them.
    ordered = sorted(rows, key=lambda row: (row["experiment"], row["unit"]))
    more = dict.fromkeys(name for row in ordered for name in row)
    columns = [*COLUMNS, *(name for name in more if name not in COLUMNS)]
    text, packed = io.StringIO(), io.BytesIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(ordered)
    # No name and no time in the header: the file says nothing but its rows.
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:
        file.write(text.getvalue().encode())
    write_atomically(path, lambda file: file.write(packed.getvalue()))


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)
