"""The process of one unit: it works, everything it says goes to its log, it reports."""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import parent_process
from types import FrameType

from diffplan.training._run_record import (
    hardware,
    package_versions,
    source_version,
)
from reproductions.common.lock import exclusive
from reproductions.common.units import (
    DONE,
    ERROR,
    LOG,
    SESSIONS,
    Unit,
    list_files,
    write_json,
)

FAILED, UNWRITABLE, INTERRUPTED = 1, 74, 130
"""Exit codes; 74 stands for a disk that is full or read-only, as in sysexits.h."""

_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES)
_PATIENCE = 10.0
"""Seconds that a process of an earlier, killed start may take to end."""


def work(unit: Unit, inputs: Mapping[str, str], threads: int) -> None:
    """Run a unit in this process.

    Args:
        unit: Its folder is ready.
        inputs: Fingerprints of what it reads, by name.
        threads: That torch uses.
    """
    signal.signal(signal.SIGINT, _interrupt_once)
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        (unit.directory / ERROR).unlink(missing_ok=True)
        with (unit.directory / LOG).open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        with exclusive(unit.directory, patience=_PATIENCE):
            _run(unit, threads)
            write_done(unit, inputs)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        # Where the disk is full, this cannot be written either: the code tells it.
        with suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        with suppress(OSError):
            text = f"{type(error).__name__}: {error}"
            (unit.directory / ERROR).write_text(text, encoding="utf-8")
        disk = isinstance(error, OSError) and error.errno in _DISK
        raise SystemExit(UNWRITABLE if disk else FAILED) from None


def _run(unit: Unit, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    start = time.time()
    try:
        unit.run()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with (unit.directory / SESSIONS).open("a", encoding="utf-8") as file:
            file.write(f"{time.time() - start:.3f}\n")


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


def _interrupt_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Interrupt the unit; a second Ctrl-C must not disturb its saving.

    Set explicitly, because a shell starts background programs with Ctrl-C ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent() -> None:
    """End this process when its parent is gone, killed without a word."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
