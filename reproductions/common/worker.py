"""The process of one unit: it works, everything it says goes to its log, it reports."""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from typing import Any

from diffplan._files import write_atomically
from diffplan._outside import source_version
from diffplan.training._lock import exclusive
from diffplan.training._run_record import hardware, package_versions
from reproductions.common.units import (
    DONE,
    ERROR,
    LOG,
    SESSIONS,
    Unit,
    damage,
    fingerprints,
    list_files,
    write_json,
)

ENDED, FAILED, UNWRITABLE = 0, 1, 74
"""Exit codes; 74 stands for a disk that is full or read-only, as in sysexits.h."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
INTERRUPTIONS = tuple(128 + number for number in _SIGNALS)
"""Exit codes after a signal, as shells have them: the unit saved what it could."""

TOLD_TO_REQUEUE = 128 + signal.SIGUSR2
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES)
_PATIENCE = 10.0
"""Seconds that a process of an earlier, killed start may take to end."""
_REFRESH = 10.0
"""Seconds between two writings of the time: at most so many are lost by a kill."""


def work(unit: Unit, needs: Mapping[str, dict[str, Any]], threads: int) -> int:
    """Make a unit in this process, which takes no other; return the exit code.

    Args:
        unit: Made from what an earlier attempt left, and not at all if that ended well.
        needs: The record of each unit that it reads, by name.
        threads: That torch uses.
    """
    interruption = _Interruption()
    try:
        unit.directory.mkdir(parents=True, exist_ok=True)
        with (unit.directory / LOG).open("a", encoding="utf-8") as log:
            for stream in (1, 2, sys.stdout.fileno(), sys.stderr.fileno()):
                os.dup2(log.fileno(), stream)
        with exclusive(unit.directory, patience=_PATIENCE):
            (unit.directory / ERROR).unlink(missing_ok=True)
            if not (unit.is_made_from(needs) and not damage(unit.directory)):
                unit.begin(needs)
                _run(unit, threads)
                write_done(unit, fingerprints(needs))
    except KeyboardInterrupt:
        return interruption.code
    except Exception as error:
        # Where the disk is full, this cannot be written either: the code tells it.
        with suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        with suppress(OSError):
            text = f"{type(error).__name__}: {error}"
            (unit.directory / ERROR).write_text(text, encoding="utf-8")
        disk = isinstance(error, OSError) and error.errno in _DISK
        return UNWRITABLE if disk else FAILED
    return ENDED


def run_in_process(
    unit: Unit, needs: Mapping[str, dict[str, Any]], threads: int
) -> None:
    """Make a unit in a process that ends with its parent."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    raise SystemExit(work(unit, needs, threads))


@contextmanager
def thread_variables(threads: int) -> Iterator[None]:
    """Let processes that start in the block use so many threads.

    Numerical libraries read these variables when they are imported.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run(unit: Unit, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    try:
        with _timed(unit.directory / SESSIONS):
            unit.run()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@contextmanager
def _timed(path: Path) -> Iterator[None]:
    """Keep in the last line of a file how long the block takes, killed or not."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    start, ended = time.monotonic(), threading.Event()

    def write() -> None:
        text = f"{before}{time.monotonic() - start:.3f}\n"
        write_atomically(path, lambda file: file.write(text.encode()))

    def follow() -> None:
        while not ended.wait(_REFRESH):
            with suppress(OSError):  # what the unit writes itself tells of a full disk
                write()

    write()
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
        write()


def write_done(unit: Unit, inputs: Mapping[str, str]) -> None:
    """Write the record of a unit that has just ended; see `units`."""
    # Of all sessions: one that was interrupted and resumed took as long as both.
    sessions = (unit.directory / SESSIONS).read_text(encoding="utf-8").split()
    content = {
        "name": unit.name,
        "settings": unit.settings(),
        "wall_seconds": round(sum(map(float, sessions)), 3),
        "sessions": len(sessions),
        "versions": package_versions(),
        "source": source_version(),
        "hardware": hardware(),
        "inputs": dict(inputs),
        "files": list_files(unit.directory),
    }
    write_json(unit.directory / DONE, content)


class _Interruption:
    """Turns the first signal into KeyboardInterrupt; later ones disturb no saving.

    Set for SIGINT too, because a shell starts background programs with it ignored.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        for number in _SIGNALS:
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) == 1:
            raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """The exit code; being queued again outweighs SIGTERM, which comes first."""
        if signal.SIGUSR2 in self._received:
            return TOLD_TO_REQUEUE
        return 128 + (self._received or [signal.SIGINT])[0]


def _follow_parent() -> None:
    """End this process when its parent is gone, killed without a word."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
