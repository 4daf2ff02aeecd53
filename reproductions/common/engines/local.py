"""Units as processes of this machine, a few at a time.

They end with the command that started them, however that ended. submitit's own local
executor lets them live on, leaves one second for saving where we leave ten, and takes
two processes for each unit: it stands in for Slurm only (see `slurm`).
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from diffplan._checks import require_at_least
from reproductions.common.engines.base import GRACE_SECONDS, Engine, reason
from reproductions.common.units import Unit
from reproductions.common.worker import run_in_process, thread_variables

WORKERS = 2
"""Units at the same time, unless it is said otherwise."""


class Local(Engine):
    """Makes units in processes of this machine.

    Args:
        workers: How many at the same time.
        cpus: Threads that torch uses in each.
    """

    poll_seconds = 0.2

    def __init__(self, workers: int = WORKERS, cpus: int = 1) -> None:
        require_at_least("workers", workers, 1)
        self.workers: int = workers
        self.cpus = cpus

    def start(self, unit: Unit, needs: Mapping[str, dict[str, Any]]) -> BaseProcess:
        """Start a process."""
        process = get_context("spawn").Process(
            target=run_in_process, args=(unit, needs, self.cpus), name=unit.name
        )
        with thread_variables(self.cpus):
            process.start()
        return process

    def ended(self, job: BaseProcess, unit: Unit) -> str | None:
        """Return None while the process lives, then why there is no result."""
        if job.is_alive():
            return None
        job.join()
        code = job.exitcode or 0
        if code < 0:
            return f"killed by {_signal_name(-code)}"
        return reason(unit.directory, code)

    def stop(self, jobs: Sequence[BaseProcess]) -> None:
        """Interrupt what still runs, and kill what has not ended after a while."""
        for stop in (signal.SIGINT, signal.SIGKILL):
            alive = [process for process in jobs if process.is_alive()]
            for process in alive:
                if process.pid is not None:
                    os.kill(process.pid, stop)
            deadline = time.monotonic() + GRACE_SECONDS
            for process in alive:
                process.join(max(0.0, deadline - time.monotonic()))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals between the first and the last
        return f"signal {number}"
