"""Every number on a page is the ledgers'; one that is typed is found."""

import gzip
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffplan.errors import FileError
from reproductions import numbers
from reproductions.common import ledger
from reproductions.common.experiment import papers
from reproductions.pages import made_again

RESULTS = sorted((numbers.ROOT / "reproductions").glob("*/results/*/README.md"))


def title(path: Path) -> str:
    return path.relative_to(numbers.ROOT).as_posix()


@pytest.mark.parametrize("path", numbers.PAGES, ids=title)
def test_a_page_quotes_the_ledgers_and_states_nothing_else(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert numbers.page_with_numbers(page) == page, (
        "run python -m reproductions.numbers"
    )
    assert numbers.typed(page) == []


def rewritten(path: Path, folder: Path) -> Path:
    """Make a page of published results again, in a copy of its folder."""
    pytest.importorskip("matplotlib")
    (paper,) = [each for each in papers() if each.name == path.parents[2].name]
    return made_again(paper, path.parent, folder)


@pytest.mark.parametrize("path", RESULTS, ids=title)
def test_published_results_are_computed_from_their_ledger(
    path: Path, tmp_path: Path
) -> None:
    page, told = rewritten(path, tmp_path / "copy"), "run python -m reproductions.pages"
    assert page.read_text("utf-8") == path.read_text("utf-8"), told
    for file in path.parent.glob("*.json"):
        after = json.loads((page.parent / file.name).read_text("utf-8"))
        assert same(json.loads(file.read_text("utf-8")), after), file.name


def same(first: Any, second: Any) -> bool:
    """Compare two JSON values, numbers up to rounding."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same(first[key], second[key]) for key in first
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float):
        return math.isclose(first, second, rel_tol=1e-9)
    return bool(first == second)


def test_a_number_that_is_changed_by_hand_is_found(tmp_path: Path) -> None:
    page = numbers.PAGES[0].read_text(encoding="utf-8")
    assert "| LatCo" in page
    (line,) = [x for x in page.splitlines() if x.startswith("| LatCo |")]
    changed = page.replace(line, line.replace(" %", "1 %", 1))
    assert numbers.page_with_numbers(changed) == page != changed
    for said in (
        "LatCo reaches 97 % of them.",
        "It wins by 18 points.",
        "In 28 of 30.",
    ):
        assert numbers.typed(page + said) != []
    # In a page of results, and in the ledger behind it.
    path = next(path for path in RESULTS if "latco" in title(path))
    again = rewritten(path, tmp_path / "page")
    wrong = path.read_text("utf-8").replace("| LatCo |", "| LatCo 2 |")
    assert again.read_text("utf-8") != wrong
    folder = tmp_path / "ledger"
    folder.mkdir()
    rows = ledger.read(path.parent)
    for row in rows:
        row["outcome"] = row["outcome"] and "1"
    ledger.add(folder, rows)
    shutil.copy(folder / ledger.NAME, tmp_path / "page" / ledger.NAME)
    again = rewritten(path, tmp_path / "page")
    assert again.read_text("utf-8") != path.read_text("utf-8")


def test_rows_of_a_unit_are_replaced_together(tmp_path: Path) -> None:
    def rows(unit: str, values: list[int]) -> list[dict[str, object]]:
        return [
            {"experiment": "a", "unit": unit, "episode": i, "outcome": v, "more": 0.1}
            for i, v in enumerate(values)
        ]

    ledger.add(tmp_path, rows("two", [1, 1]))
    ledger.add(tmp_path, rows("one", [0, 1, 1]))
    first = (tmp_path / ledger.NAME).read_bytes()
    ledger.add(tmp_path, rows("two", [0]))
    found = [(row["unit"], row["outcome"]) for row in ledger.read(tmp_path, "a")]
    assert found == [("one", "0"), ("one", "1"), ("one", "1"), ("two", "0")]
    assert ledger.read(tmp_path, "b") == []
    # Equal rows are equal bytes, whenever and in whatever order they came.
    (tmp_path / ledger.NAME).unlink()
    ledger.add(tmp_path, [*rows("one", [0, 1, 1]), *rows("two", [1, 1])])
    assert (tmp_path / ledger.NAME).read_bytes() == first
    assert first[4:8] == bytes(4)  # the time in gzip's header
    header = gzip.decompress(first).decode().splitlines()[0].split(",")
    assert header == [*ledger.COLUMNS, "more"]


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    ledger.add(tmp_path, [{"experiment": "a", "unit": "b", "outcome": 1}])
    path = tmp_path / ledger.NAME
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(FileError, match=r"ledger.csv.gz: expected a ledger"):
        ledger.read(tmp_path)
