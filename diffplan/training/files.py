"""Files that are either the old or the new one, never half of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that appears complete or not at all, even if the power fails.

    Args:
        path: Where; an existing file is replaced. Its folder is made if needed.
        write: Receives the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lives in the folder.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files that a killed process left in `directory`."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)
