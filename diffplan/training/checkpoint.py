"""Checkpoints that survive a kill at any moment."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from diffplan.errors import ArgumentError, require_at_least
from diffplan.training.files import remove_leftovers, write_atomically

_NAME = re.compile(r"checkpoint_(\d{8})\.pt")


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged and an older one is used."""


class Checkpoints:
    """The last few checkpoints of a run, one file each.

    A file is written beside its place, flushed to the disk and renamed, so a file with
    the right name is complete; one that was damaged later is skipped with a warning.
    Only tensors and plain values are read (`weights_only`): a checkpoint of others
    cannot run code.

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
        path = self.directory / f"checkpoint_{index:08d}.pt"
        write_atomically(path, lambda file: torch.save(state, file))
        for old in self._indices()[: -self.keep]:
            (self.directory / f"checkpoint_{old:08d}.pt").unlink(missing_ok=True)
        return path

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest readable checkpoint, on the CPU; None if there is none.

        Raises:
            ArgumentError: there are checkpoints and all are damaged.
        """
        if not self.directory.is_dir():
            return None
        remove_leftovers(self.directory)
        for index in reversed(self._indices()):
            path = self.directory / f"checkpoint_{index:08d}.pt"
            try:
                # On the CPU, so that states of CPU generators stay there.
                return index, torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                warnings.warn(
                    f"{path.name} is damaged and skipped: {error}",
                    CheckpointWarning,
                    stacklevel=2,
                )
        if self._indices():
            raise ArgumentError(
                f"directory: expected a readable checkpoint, all in {self.directory} "
                "are damaged; delete them to start the run from the beginning"
            )
        return None

    def _indices(self) -> list[int]:
        matches = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)
