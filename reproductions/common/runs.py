"""What a run folder holds: which units are done, and which have no result, and why."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffplan._runs.tables import markdown_table
from reproductions.common.units import (
    DONE,
    ERROR,
    INPUTS,
    SETTINGS,
    damage,
    fingerprint,
    read_json_or_none,
    read_record,
    unreadable,
)

FINISHED, FAILED, UNFINISHED = "done", "failed", "unfinished"
BROKEN, STALE, BLOCKED = "broken", "stale", "not started"


@dataclass(frozen=True)
class Found:
    """A unit that has a folder.

    Attributes:
        name: Of the unit.
        place: Its folder, relative to the run folder.
        state: done, failed, unfinished, broken or stale.
        reason: Why it is not done, in words.
        record: What it wrote when it ended; empty if it did not.
    """

    name: str
    place: Path
    state: str
    reason: str
    record: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The first part of its name."""
        return self.name.partition("/")[0]


def folders(directory: Path) -> Iterator[Path]:
    """Yield the folders of units below a folder, in order; links are followed."""
    for path, inside, files in os.walk(directory, followlinks=True):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        if DONE in files or SETTINGS in files:
            inside.clear()
            yield Path(path)


def scan(directory: Path) -> list[Found]:
    """Return all units that have a folder below a run folder, by name."""
    found = [_look(directory, folder) for folder in folders(directory)]
    records = {unit.name: unit for unit in found}
    return [_judge(unit, records) for unit in sorted(found, key=lambda u: u.name)]


def view(directory: Path, units: Iterable[Found], target: Path) -> None:
    """Make a folder that looks like a run folder with these units alone.

    Args:
        directory: The run folder.
        units: Some of `scan`.
        target: An empty folder; receives links.
    """
    for unit in units:
        link = target / unit.place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((directory / unit.place).resolve(), target_is_directory=True)


def shown(units: Iterable[Found]) -> list[Found]:
    """Return the units that a report can read: done, or as far as they are."""
    return [unit for unit in units if unit.state not in (BROKEN, STALE)]


def missing_section(units: Sequence[Found], blocked: Mapping[str, str]) -> str:
    """Return a table of the units without a result, empty if all have one.

    Args:
        units: Of `scan`.
        blocked: Units that were not started, with the unit that they waited for.
    """
    rows = [(u.name, u.state, u.reason) for u in units if u.state != FINISHED]
    named = {name for name, _, _ in rows}
    rows += [
        (name, BLOCKED, f"{need} failed")
        for name, need in blocked.items()
        if name not in named
    ]
    if not rows:
        return ""
    return (
        "## Units without a result\n\n"
        + markdown_table(["unit", "state", "why"], sorted(rows))
        + "\nThe command, run again, makes these and nothing else.\n"
    )


def _look(directory: Path, folder: Path) -> Found:
    place = folder.relative_to(directory)
    record, begun = read_record(folder), read_json_or_none(folder / INPUTS)
    named = record or begun or {}
    name = str(named.get("name", place.as_posix()))
    if (folder / DONE).exists():
        reason = damage(folder)
        state = BROKEN if reason else FINISHED
        return Found(name, place, state, reason, record or {})
    reasons = filter(None, map(unreadable, sorted(folder.iterdir())))
    reason = next(reasons, "")
    if reason:
        return Found(name, place, BROKEN, reason, {})
    error = folder / ERROR
    if error.exists():
        said = " ".join(error.read_text(encoding="utf-8", errors="replace").split())
        return Found(name, place, FAILED, said, {})
    return Found(name, place, UNFINISHED, "it was interrupted, or runs now", {})


def _judge(unit: Found, units: Mapping[str, Found]) -> Found:
    """Return the unit, as stale if what it was made from is another one now."""
    for name, before in unit.record.get("inputs", {}).items():
        need = units.get(name)
        if unit.state != FINISHED or need is None:
            continue
        if need.state in (UNFINISHED, FAILED):
            reason = f"{name}, which it was made from, is made anew"
        elif need.state == FINISHED and fingerprint(need.record) != before:
            reason = f"it was made from another {name}"
        else:
            continue
        return Found(unit.name, unit.place, STALE, reason, {})
    return unit
