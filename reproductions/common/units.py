"""A unit of work, and what it leaves in its folder.

`settings.json` and `inputs.json` are written when a unit begins, `done.json` when it
ends. The last names every file that the unit made, with its SHA-256, and what it was
made from: a fingerprint of each unit that it read. So a damaged file is noticed, and
so is a result whose model was trained anew since.
"""

import csv
import functools
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffplan._files import write_atomically
from diffplan.errors import ArgumentError, FileError
from diffplan.training._files import read_json
from diffplan.training._run_record import plain

DONE, SETTINGS, LOG, ERROR = "done.json", "settings.json", "log.txt", "error.txt"
INPUTS, SESSIONS = "inputs.json", "seconds.txt"
DAMAGED = ".damaged"
"""Appended to the name of a file that is not what the unit wrote."""

_OWN = (DONE, SETTINGS, LOG, ERROR, INPUTS, SESSIONS)
_UNLISTED = ("tensorboard", "videos")
_TIMED = ("run.json", "metrics.csv")
"""Records of a run: they hold wall-clock times, and no other unit reads them."""

_COMPARED_BYTES = 2**20
"""Larger files are compared by their size; diffplan seals its own with a checksum."""


@dataclass(frozen=True)
class Unit:
    """One piece of work that is either done or not.

    Args:
        name: Unique, for example `comparison/seed_0/model`.
        run: A top-level function of some module, or a `functools.partial` of one with
            everything bound; it must be picklable. It is called without arguments in a
            new process, possibly again after it was killed, and then resumes from its
            folder. Keywords of the partial that are not paths are its *settings*.
        directory: Its own folder, made before `run` is called.
        needs: Names of the units that must be done before.

    Example:
        >>> import functools
        >>> work = functools.partial(print, "trained")
        >>> Unit("model", work, Path("runs/model")).is_done()
        False
    """

    name: str
    run: Callable[[], object]
    directory: Path
    needs: tuple[str, ...] = ()

    def is_done(self) -> bool:
        """Return whether the unit ended, with the settings that it has now.

        Raises:
            ArgumentError: the folder holds work that was done with other settings.
            FileError: the settings of the work in the folder cannot be read.
        """
        before = self._settings_before()
        if before is not None and before != self.settings():
            raise ArgumentError(
                f"{self.directory}: expected the settings of this run, got those "
                f"of another ({difference(before, self.settings())}); choose "
                "another --directory, or delete this folder: then what was made from "
                "it is made again too"
            )
        return (self.directory / DONE).exists() and not damage(self.directory)

    def settings(self) -> dict[str, Any]:
        """Return what the unit is called with, as JSON knows it, without paths."""
        if not isinstance(self.run, functools.partial):
            return {}
        kept = {
            name: value
            for name, value in self.run.keywords.items()
            if not isinstance(value, Path)
        }
        settings: dict[str, Any] = json.loads(json.dumps(plain(kept)))
        return settings

    def is_made_from(self, needs: Mapping[str, dict[str, Any]]) -> bool:
        """Return whether the finished unit read what its needs hold now.

        Args:
            needs: The record of each, by name.
        """
        record = read_record(self.directory)
        if record is None:
            return False
        if "inputs" not in record:  # of a version that did not write them
            return not any("files" in need for need in needs.values())
        return bool(record["inputs"] == fingerprints(needs))

    def begin(self, needs: Mapping[str, dict[str, Any]]) -> str:
        """Make the folder ready; return why work in it is made again, if it is.

        What was made from other inputs is deleted, so that nothing resumes from it. A
        damaged file is renamed; the unit resumes from the rest.

        Args:
            needs: The record of each unit that this one reads, by name.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.rglob(".*.tmp"):  # of processes that were killed
            path.unlink(missing_ok=True)
        why = self._changed(needs)
        if why:
            _clear(self.directory)
        else:
            damaged = damaged_files(self.directory)
            why = "; ".join(damaged.values())
            for name in damaged:
                path = self.directory / name
                if path.exists():
                    path.replace(path.with_name(path.name + DAMAGED))
        (self.directory / DONE).unlink(missing_ok=True)
        inputs = fingerprints(needs)
        begun = {"name": self.name, "settings": self.settings(), "needs": inputs}
        write_json(self.directory / SETTINGS, self.settings())
        write_json(self.directory / INPUTS, begun)
        return why

    def _settings_before(self) -> dict[str, Any] | None:
        """Return the settings of the work in the folder, None if there is none."""
        paths = [self.directory / name for name in (SETTINGS, INPUTS, DONE)]
        if not any(path.exists() for path in paths):
            return None
        settings = read_json_or_none(paths[0])
        if settings is not None:
            return settings
        for path in paths[1:]:
            content = read_json_or_none(path)
            if content is not None and isinstance(content.get("settings"), dict):
                found: dict[str, Any] = content["settings"]
                return found
        raise FileError(
            f"{self.directory}: expected {SETTINGS}, {INPUTS} or {DONE} to tell the "
            "settings of the work in it, none can be read; delete this folder to make "
            "the unit again"
        )

    def _changed(self, needs: Mapping[str, dict[str, Any]]) -> str:
        """Return which inputs are others than those of the work in the folder."""
        if not needs or not (self.directory / SETTINGS).exists():
            return ""
        if (self.directory / DONE).exists() and self.is_made_from(needs):
            return ""
        begun, now = read_json_or_none(self.directory / INPUTS), fingerprints(needs)
        before: object = None if begun is None else begun.get("needs")
        if not isinstance(before, dict):
            # Without a record of its inputs, from a version that wrote none, it may go
            # on only with what that version made.
            if not any("files" in need for need in needs.values()):
                return ""
            before = {}
        changed = [name for name in now if before.get(name) != now[name]]
        return f"{', '.join(changed)} changed since" if changed else ""


def difference(before: Any, now: Any, path: str = "") -> str:
    """Return the first setting that differs, in words."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in (*before, *(key for key in now if key not in before)):
            if before.get(key) != now.get(key):
                inner = f"{path}.{key}" if path else str(key)
                return difference(before.get(key), now.get(key), inner)
    return f"{path or 'settings'} was {before!r} and is {now!r}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_record(directory: Path) -> dict[str, Any] | None:
    """Return what a finished unit wrote down, None if it did not or is unreadable."""
    record = read_json_or_none(directory / DONE)
    if record is None or not isinstance(record.get("settings"), dict):
        return None
    return record


def fingerprints(needs: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Return the fingerprint of each unit, from the records by name."""
    return {name: fingerprint(record) for name, record in needs.items()}


def fingerprint(record: Mapping[str, Any]) -> str:
    """Return a hash of what a finished unit offers to others: settings and files.

    Equal work, made again, has an equal fingerprint; times do not count.
    """
    files = {
        name: entry["sha256"]
        for name, entry in record.get("files", {}).items()
        if name not in _TIMED
    }
    content = {"settings": record["settings"], "files": files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file that a unit made, by its path inside."""
    found = {}
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        hidden = any(part.startswith(".") for part in parts)
        unlisted = parts[0] in (*_OWN, *_UNLISTED) or path.suffix == DAMAGED
        if path.is_file() and not hidden and not unlisted:
            entry = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            found["/".join(parts)] = entry
    return found


def damage(directory: Path) -> str:
    """Return what is wrong with the files of a finished unit, empty if nothing is."""
    if read_record(directory) is None:
        return f"{DONE} cannot be read"
    return "; ".join(damaged_files(directory).values())


def damaged_files(directory: Path) -> dict[str, str]:
    """Return what is wrong with each file of a unit that is not as it was written."""
    record = read_record(directory)
    listed = None if record is None else record.get("files")
    found = {}
    if not isinstance(listed, dict):
        for path in sorted(directory.iterdir()):
            reason = "" if path.name in _OWN else unreadable(path)
            if reason:
                found[path.name] = reason
        return found
    for name, entry in listed.items():
        path = directory / name
        if name.startswith("checkpoints/"):
            continue  # sealed, and the one before is used
        if not path.exists():
            found[name] = f"{name} is missing"
            continue
        size = path.stat().st_size
        small = size <= _COMPARED_BYTES
        if size != entry["bytes"] or (small and sha256(path) != entry["sha256"]):
            found[name] = f"{name} is not what was written"
    return found


def unreadable(path: Path) -> str:
    """Return what is wrong with a JSON, CSV or npz file, empty if nothing is seen.

    A `metrics.csv` may be in the middle of being written: its last line counts nothing.
    """
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            _check_csv(path)
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a member is damaged")
    except (OSError, ValueError, zipfile.BadZipFile, csv.Error) as error:
        return f"{path.name} cannot be read ({' '.join(str(error).split())[:80]})"
    return ""


def _check_csv(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "metrics.csv":
        text = text[: text.rfind("\n") + 1]
    if not text.endswith("\n") or "\0" in text:
        raise ValueError("it was cut short, or overwritten")
    header, *rows = csv.reader(text.splitlines(), strict=True)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} of {len(header)} values")


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, None if there is none to read."""
    try:
        return read_json(path, "a record of a unit")
    except FileError:
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clear(directory: Path) -> None:
    """Delete what is in a unit's folder, but for its log."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOG and not path.name.startswith(".lock"):
            path.unlink()
