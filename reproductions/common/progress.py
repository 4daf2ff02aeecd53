"""How far a grid of units is, from its run folder alone, at any moment."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from diffplan.errors import FileError
from diffplan.training._files import read_json
from diffplan.training._lock import held
from reproductions.common.schedule import duration, schedule
from reproductions.common.units import (
    ERROR,
    LOG,
    SESSIONS,
    Unit,
    read_record,
    write_json,
)

GRID = "grid.json"
"""In the run folder: the units of the last command, and how long they once took."""

FAILED, RUNNING, WAITING, BLOCKED, DONE = (
    *("failed", "running", "waiting"),
    *("not started", "done"),
)
_STATES = (FAILED, RUNNING, WAITING, BLOCKED, DONE)
_FRACTION = re.compile(r"\b(\d[\d,]*)\s*(?:/|of)\s*(\d[\d,]*)\b")
_TAIL_BYTES, _WIDTH = 4096, 60


@dataclass(frozen=True)
class Row:
    """What is known of a unit.

    Attributes:
        name: Of the unit.
        state: failed, running, waiting, not started (what it needs failed) or done.
        progress: What it said last, such as "3 of 16".
        seconds: That it has taken, in all its sessions.
        left: Seconds that are left, None if that is not known.
        note: The machine that it runs on, or its error and where its log is.
    """

    name: str
    state: str
    progress: str
    seconds: float
    left: float | None
    note: str


@dataclass(frozen=True)
class Grid:
    """The units of a command.

    Args:
        units: In order.
        seconds: That they once took, by name, as far as known.
        workers: How many run at the same time; None if an engine decides.
    """

    units: Sequence[Unit]
    seconds: Mapping[str, float]
    workers: int | None

    def save(self, directory: Path) -> None:
        """Write what `load` reads into the run folder."""
        listed = [
            {
                "name": unit.name,
                "folder": str(unit.directory.absolute()),
                "needs": unit.needs,
                "seconds": self.seconds.get(unit.name),
            }
            for unit in self.units
        ]
        write_json(directory / GRID, {"workers": self.workers, "units": listed})

    @classmethod
    def load(cls, directory: Path) -> "Grid":
        """Return the grid of the last command in a run folder; it can be looked at.

        Raises:
            FileError: there was none.
        """
        path = directory / GRID
        if not path.exists():
            raise FileError(f"{directory}: no command has run here, there is no {GRID}")
        content = read_json(path, "the units of a command")
        try:
            listed = content["units"]
            units = [
                Unit(each["name"], _nothing, Path(each["folder"]), tuple(each["needs"]))
                for each in listed
            ]
            seconds = {each["name"]: each["seconds"] for each in listed}
            known = {name: value for name, value in seconds.items() if value}
            return cls(units, known, content["workers"])
        except (KeyError, TypeError) as error:
            raise FileError(
                f"{path}: expected the units of a command, {error} is wrong"
            ) from error

    def rows(self) -> list[Row]:
        """Look at the units' folders."""
        records: dict[str, dict[str, Any]] = {}
        states: dict[str, str] = {}
        rows: dict[str, Row] = {}
        for unit in _after_their_needs(self.units):
            record = read_record(unit.directory)
            ready = records.keys() >= set(unit.needs)
            if record is not None and ready:
                needs = {name: records[name] for name in unit.needs}
                if unit.is_made_from(needs):
                    records[unit.name] = record
            lost = any(states[name] in (FAILED, BLOCKED) for name in unit.needs)
            row = self._row(unit, records.get(unit.name), lost)
            states[unit.name], rows[unit.name] = row.state, row
        return [rows[unit.name] for unit in self.units]

    def left(self, rows: Sequence[Row]) -> float | None:
        """Return the seconds until all is done, None if that is not known."""
        open_rows = {row.name: row for row in rows if row.state in (RUNNING, WAITING)}
        times = {name: row.left for name, row in open_rows.items()}
        known = {name: left for name, left in times.items() if left is not None}
        if len(known) < len(times):
            return None
        units = [unit for unit in self.units if unit.name in open_rows]
        # What runs goes first: it has its place already.
        units.sort(key=lambda unit: open_rows[unit.name].state != RUNNING)
        outside = [row.name for row in rows if row.name not in open_rows]
        workers = self.workers or max(len(units), 1)
        return schedule(units, known, workers, outside)

    def _row(self, unit: Unit, record: dict[str, Any] | None, lost: bool) -> Row:
        folder, name = unit.directory, unit.name
        if record is not None:
            return Row(name, DONE, "", float(record.get("wall_seconds", 0)), 0.0, "")
        seconds, said = _seconds(folder), _last_line(folder / LOG)
        found = _FRACTION.search(said)
        part = f"{found[1]} of {found[2]}" if found else said[:_WIDTH]
        holder = held(folder)
        if holder is not None:
            left = self._left(name, seconds, found)
            return Row(name, RUNNING, part, seconds, left, str(holder.get("host", "")))
        error = _text(folder / ERROR)
        if error:
            log = folder / LOG
            note = error if str(log) in error else f"{error} (see {log})"
            return Row(name, FAILED, part, seconds, None, note)
        if lost:
            return Row(name, BLOCKED, "", seconds, None, "what it needs failed")
        return Row(name, WAITING, part, seconds, self._left(name, seconds, found), "")

    def _left(
        self, name: str, seconds: float, found: re.Match[str] | None
    ) -> float | None:
        if name in self.seconds:
            return max(self.seconds[name] - seconds, 0.0)
        if found is None:
            return None
        done, total = (int(part.replace(",", "")) for part in found.groups())
        return seconds * (total - done) / done if 0 < done <= total else None


def table(grid: Grid, title: str = "") -> Group:
    """Return the table of a grid, for a terminal; failures and what runs come first."""
    rows = grid.rows()
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for header in ("unit", "state", "progress", "time", "left", ""):
        made.add_column(header, overflow="fold" if not header else "ellipsis")
    colours = {FAILED: "red", RUNNING: "cyan", DONE: "green"}
    for row in sorted(rows, key=lambda row: _STATES.index(row.state)):
        known = row.left is not None and row.state in (RUNNING, WAITING)
        made.add_row(
            row.name,
            f"[{colours.get(row.state, 'dim')}]{row.state}[/]",
            row.progress,
            duration(row.seconds) if row.seconds else "",
            duration(row.left) if known and row.left is not None else "",
            row.note.replace("[", r"\["),
        )
    return Group(made, summary(grid, rows))


def summary(grid: Grid, rows: Sequence[Row]) -> str:
    """Return "3 of 16 done, 2 running, 1 failed, about 2 h left"."""
    counts = {state: sum(row.state == state for row in rows) for state in _STATES}
    others = [f"{counts[state]} {state}" for state in _STATES[:-1] if counts[state]]
    left = grid.left(rows)
    about = [f"about {duration(left)} left"] if left else []
    return ", ".join([f"{counts[DONE]} of {len(rows)} done", *others, *about])


@contextmanager
def live(grid: Grid, wanted: bool) -> Iterator[None]:
    """Show the table below what is said, while the block runs, on a terminal only."""
    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield
        return
    with Live(
        get_renderable=lambda: table(grid), console=console, refresh_per_second=1
    ):
        yield


def show_status(directory: Path, say: Callable[[str], object]) -> None:
    """Print the table of the last command in a run folder.

    Raises:
        FileError: there was none.
    """
    grid, holder = Grid.load(directory), held(directory)
    who = "no command works in it"
    if holder is not None:
        who = f"process {holder['process']} on {holder['host']} works in it"
    say(f"{directory}: {who}")
    Console().print(table(grid))


def _nothing() -> None:
    """Stand for the work of a unit that is only looked at."""


def _after_their_needs(units: Sequence[Unit]) -> Iterator[Unit]:
    waiting, found = list(units), set[str]()
    while waiting:
        ready = [unit for unit in waiting if found >= set(unit.needs)]
        yield from ready or waiting
        found.update(unit.name for unit in ready or waiting)
        waiting = [unit for unit in waiting if unit.name not in found]


def _seconds(folder: Path) -> float:
    """Return the seconds of all sessions; one that runs writes them as it goes."""
    return sum(map(float, _text(folder / SESSIONS).split()))


def _last_line(path: Path) -> str:
    """Return the last line with a word on it."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            tail = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ""
