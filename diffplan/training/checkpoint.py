"""Checkpoints that survive a kill at any moment."""

import io
import pickle
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch

from diffplan.errors import ArgumentError, require_at_least
from diffplan.training.files import remove_leftovers, write_atomically

_NAME = re.compile(r"checkpoint_(\d{8})_([0-9a-f]{8})\.pt")


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged and an older one is used."""


class Checkpoints:
    """The last few checkpoints of a run, one file each.

    A file is written beside its place, flushed to the disk and renamed, so a file with
    the right name is complete. The name ends with a checksum of the content, since
    `torch.load` does not notice a flipped bit: a file that was damaged later is
    skipped with a warning. Only tensors and plain values are read (`weights_only`):
    a checkpoint of others cannot run code.

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
        require_at_least("keep", keep, 1)
        self.directory = Path(directory)
        self.keep = keep

    def save(self, index: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint called `index` (higher is newer).

        Args:
            index: 0 … 99,999,999, usually the round that is complete.
            state: Nested dictionaries and lists of tensors and plain values.

        Returns:
            The file.
        """
        content = io.BytesIO()
        torch.save(state, content)
        data = content.getvalue()
        name = f"checkpoint_{index:08d}_{zlib.crc32(data):08x}.pt"
        path = self.directory / name
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
            ArgumentError: there are checkpoints and all are damaged.
        """
        if not self.directory.is_dir():
            return None
        remove_leftovers(self.directory)
        for index, path in reversed(self._files()):
            try:
                return index, _read(path)
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                warnings.warn(
                    f"{path.name} is damaged and skipped: {error}",
                    CheckpointWarning,
                    stacklevel=2,
                )
        if self._files():
            raise ArgumentError(
                f"directory: expected a readable checkpoint, all in {self.directory} "
                "are damaged; delete them to start the run from the beginning"
            )
        return None

    def _files(self) -> list[tuple[int, Path]]:
        """Return number and file of each checkpoint, oldest first."""
        matches = [_NAME.fullmatch(path.name) for path in self.directory.iterdir()]
        return sorted((int(m[1]), self.directory / m[0]) for m in matches if m)


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint whose content has the checksum that its name tells."""
    data = path.read_bytes()
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[2], 16) != zlib.crc32(data):
        raise EOFError("its checksum is wrong")
    # On the CPU, so that states of CPU generators stay there.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
