"""One process at a time in a folder."""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffplan._files import write_atomically
from diffplan.errors import ArgumentError

LOCK, HOLDER = ".lock", ".lock.json"


@contextmanager
def exclusive(
    directory: Path,
    *,
    patience: float = 0.0,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs.

    The operating system releases the lock when this process ends, in whatever way. Who
    holds it stands in `.lock.json`, which an earlier process that was killed leaves
    behind: that is said, and is no obstacle.

    Args:
        directory: Made if needed.
        patience: Seconds to wait for another process.
        say: Receives a sentence about a process that was killed in this folder.

    Raises:
        ArgumentError: another process is in it; names that process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(directory / LOCK), directory / HOLDER
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise ArgumentError(
            f"directory: {directory} is in use by {_described(holder)}; wait until it "
            "ends, stop it, or choose another folder. If it lives no more, which "
            "this machine cannot tell on some network disks, delete "
            f"{directory / LOCK}"
        ) from None
    try:
        if holder.exists():
            say(
                f"{_described(holder)} was in {directory} and ended without a word, "
                "as a killed one does; going on from what it left"
            )
        content = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        text = json.dumps(content) + "\n"
        write_atomically(holder, lambda file: file.write(text.encode()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def held(directory: Path) -> dict[str, Any] | None:
    """Return who is in a folder now: process, host, start, command; None if nobody."""
    holder = _read(directory / HOLDER)
    if holder is None:
        return None
    try:
        # Only for a moment: who comes now waits, or had a process before it.
        with FileLock(directory / LOCK, timeout=0):
            return None
    except Timeout:
        return holder


def _read(holder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _described(holder: Path) -> str:
    found = _read(holder) or {}
    try:
        return (
            f"process {found['process']} on {found['host']} (since {found['start']}: "
            f"{found['command']})"
        )
    except KeyError:
        return "another process"
