"""Markdown tables and small CSV files."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffplan._files import write_atomically


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table that is also readable as plain text.

    Args:
        header: Names of the columns.
        rows: One value per column; converted with `str`.

    Example:
        >>> print(markdown_table(["planner", "success"], [["LatCo", "91 %"]]), end="")
        | planner | success |
        | --- | --- |
        | LatCo | 91 % |
    """
    lines = [list(header), ["---"] * len(header)]
    lines += [[str(value).replace("|", "\\|") for value in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV; the columns are the keys of the first row.

    Args:
        path: Where; replaced as a whole.
        rows: At least one, all with the same keys. Floats keep all their digits.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read what `write_csv` wrote; all values are texts."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_text(path: Path, text: str) -> None:
    """Write a text file, which is replaced as a whole."""
    write_atomically(path, lambda file: file.write(text.encode()))


def picture(name: str, title: str) -> str:
    """Return a figure of the results folder in Markdown, with its title below."""
    return f"![{title}]({name})\n\n*{title}.*\n"
