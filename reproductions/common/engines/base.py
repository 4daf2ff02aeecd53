"""What an engine does for `stages.run_units`: it makes units, wherever it has room."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproductions.common.units import ERROR, LOG, Unit
from reproductions.common.worker import INTERRUPTIONS, UNWRITABLE

GRACE_SECONDS = 10.0
"""What interrupted units have to save."""


class Engine(ABC):
    """Makes units. Each works in a process of its own and writes into its folder.

    The folder must be the same on every machine of the engine, such as on a network
    disk: what a unit saved is how it goes on elsewhere, and how it tells that it ended.

    Attributes:
        workers: Units that are made at the same time; None stands for as many as the
            engine finds room for.
        poll_seconds: Between two looks at what became of them.
    """

    workers: int | None = None
    poll_seconds: float = 1.0

    def found(self, unit: Unit) -> object | None:
        """Return the job of an earlier command that still makes the unit, or None."""
        return None

    @abstractmethod
    def start(self, unit: Unit, needs: Mapping[str, dict[str, Any]]) -> object:
        """Begin to make a unit whose needs are done; return its job.

        Args:
            unit: Its folder is ready.
            needs: The records of what it reads, by name.
        """

    @abstractmethod
    def ended(self, job: Any, unit: Unit) -> str | None:
        """Return None while the job lives, then why there is no result.

        Whether there is one, the unit's folder tells.
        """

    @abstractmethod
    def stop(self, jobs: Sequence[Any]) -> None:
        """Interrupt jobs, give them time to save, and leave nothing behind."""


def python_path() -> str:
    """Return the `PYTHONPATH` with which another process finds what this one finds."""
    return os.pathsep.join([os.getcwd(), *filter(None, sys.path)])


def reason(folder: Path, code: int) -> str:
    """Return why a unit ended without a result, in words.

    Args:
        folder: Of the unit.
        code: That `worker.work` returned.
    """
    if code == UNWRITABLE:
        return f"cannot write to {folder}: the disk is full or read-only"
    if code in INTERRUPTIONS:
        return "interrupted from outside; the same command goes on from what it saved"
    error = folder / ERROR
    said = error.read_text(encoding="utf-8") if error.exists() else f"exit code {code}"
    return f"{said} (see {folder / LOG})"
