"""Checkpoints that survive a kill at any moment."""

import re
import warnings
from pathlib import Path
from typing import Any

from diffplan._checks import require_count
from diffplan._files import load_tensors, reading, seal_tensors, write_atomically
from diffplan.errors import ArgumentError, FileError
from diffplan.training._files import remove_leftovers

_NAME = re.compile(r"checkpoint_(\d{8})_[0-9a-f]{8}\.pt")
_HIGHEST = 99_999_999
_EXPECTED = "a checkpoint of diffplan.training"


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged and an older one is used."""


class Checkpoints:
    """The last few checkpoints of a run, one file each.

    A file is written beside its place, flushed to the disk and renamed, so a file with
    the right name is complete. It carries a checksum of its content and its number
    (see `diffplan._files`): one that was damaged or renamed later is skipped with a
    warning, and the one before is used. Only tensors and plain values are read: a
    checkpoint of others cannot run code.

    Args:
        directory: Made when the first checkpoint is saved.
        keep: How many to keep, at least 1; older ones are deleted after a save.

    Example:
        >>> checkpoints = Checkpoints("run/checkpoints")
        >>> checkpoints.save(3, {"updates": 300})  # doctest: +SKIP
        >>> checkpoints.load_latest()  # doctest: +SKIP
        (3, {'updates': 300})
    """

    def __init__(self, directory: Path | str, keep: int = 2) -> None:
        self.keep = require_count("keep", keep)
        self.directory = Path(directory)

    def save(self, index: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint called `index` (higher is newer).

        Args:
            index: 0 … 99,999,999, usually the round that is complete.
            state: Nested dictionaries and lists of tensors and plain values.

        Returns:
            The file.

        Raises:
            ArgumentError: the number is none of these.
        """
        if not 0 <= index <= _HIGHEST:
            raise ArgumentError(f"index: expected 0 … {_HIGHEST:,}, got {index}")
        data, checksum = seal_tensors(state, _kind(index))
        path = self.directory / f"checkpoint_{index:08d}_{checksum[:8]}.pt"
        write_atomically(path, lambda file: file.write(data))
        others = [old for old in self._files() if old[1] != path]
        replaced = [old for number, old in others if number == index]
        older = [old for number, old in others if number != index]
        surplus = older[: max(0, len(older) + 1 - self.keep)]
        for old in (*replaced, *surplus):
            old.unlink(missing_ok=True)
        return path

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest readable checkpoint, on the CPU; None if there is none.

        Raises:
            FileError: there are checkpoints and all are damaged.
        """
        if not self.directory.is_dir():
            return None
        remove_leftovers(self.directory)
        files = self._files()
        for index, path in reversed(files):
            try:
                return index, _read(path, index)
            except FileError as error:
                warnings.warn(
                    f"{path.name} is damaged and skipped: {error}",
                    CheckpointWarning,
                    stacklevel=2,
                )
        if files:
            raise FileError(
                f"directory: expected a readable checkpoint, all in {self.directory} "
                "are damaged; delete them to start the run from the beginning"
            )
        return None

    def latest(self) -> tuple[int, Path] | None:
        """Return number and file of the newest checkpoint, unread; None without one."""
        files = self._files() if self.directory.is_dir() else []
        return files[-1] if files else None

    def _files(self) -> list[tuple[int, Path]]:
        """Return number and file of each checkpoint, oldest first."""
        matches = [_NAME.fullmatch(path.name) for path in self.directory.iterdir()]
        return sorted((int(m[1]), self.directory / m[0]) for m in matches if m)


def _read(path: Path, index: int) -> dict[str, Any]:
    # On the CPU, so that states of CPU generators stay there.
    content = load_tensors(path, _kind(index), _EXPECTED)
    with reading(path, _EXPECTED):
        return dict(content)


def _kind(index: int) -> str:
    """Return the kind of file: its number is sealed, so that renaming is noticed."""
    return f"diffplan.checkpoint/2/{index}"
