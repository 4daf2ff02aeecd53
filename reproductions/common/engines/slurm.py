"""Units as jobs of Slurm, through submitit.

Slurm decides where and when a unit runs. Before its time is over, or when it has to
give way, a job is told so: the unit saves and the job is queued again. Jobs outlive a
command that was killed; the next command finds them again.
"""

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffplan._checks import missing
from diffplan.errors import ArgumentError
from reproductions.common.engines.base import (
    GRACE_SECONDS,
    Engine,
    python_path,
    reason,
)
from reproductions.common.units import Unit, read_record
from reproductions.common.worker import (
    INTERRUPTIONS,
    THREAD_VARIABLES,
    TOLD_TO_REQUEUE,
    work,
)

JOBS, JOB = ".submitit", "job.txt"
REQUEUES = 100
MINUTES = 240
CHECK_SECONDS = 60.0
"""Between two questions to Slurm, which others ask too, about a job without a word."""

_GENERIC = ("timeout_min", "mem_gb")


class Slurm(Engine):
    """Makes units as jobs of Slurm.

    Args:
        cpus: Of each unit; also the threads that torch uses in it.
        gpus: Of each unit.
        options: Of each job, by submitit's names: `partition`, `timeout_min`, `mem_gb`,
            `account`, …; `cluster=local` simulates Slurm with processes on this
            machine.

    Raises:
        MissingDependencyError: submitit is not installed.
        ArgumentError: there is no Slurm here, or it knows no such option.
    """

    def __init__(
        self, cpus: int = 1, gpus: int = 0, options: Mapping[str, str] | None = None
    ) -> None:
        given = dict(options or {})
        self.cluster = given.pop("cluster", "slurm")
        if self.cluster not in ("slurm", "local"):
            raise ArgumentError(
                f"--slurm cluster=: expected slurm or local, got {self.cluster}"
            )
        try:
            import submitit
        except ImportError as error:
            raise missing("--engine slurm needs submitit", "slurm") from error
        self.submitit, self.cpus = submitit, cpus
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ArgumentError(
                "--engine slurm: expected a machine with `sbatch`, this one has none; "
                "`--slurm cluster=local` simulates it with processes"
            )
        self.parameters: dict[str, Any] = {
            "timeout_min": MINUTES,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus or None,
        }
        for name, text in given.items():
            key = name if name in _GENERIC else f"slurm_{name}"
            self.parameters[key] = int(text) if text.isdigit() else text
        self._asked = dict[str, float]()

    def found(self, unit: Unit) -> object | None:
        """Return the job of an earlier command that Slurm still has."""
        path = unit.directory / JOBS / JOB
        if not path.exists():
            return None
        kind = self.submitit.SlurmJob if self.cluster == "slurm" else None
        job = kind and kind(unit.directory / JOBS, path.read_text(encoding="utf-8"))
        return None if job is None or job.done(force_check=True) else job

    def start(self, unit: Unit, needs: Mapping[str, dict[str, Any]]) -> object:
        """Submit a job."""
        folder = unit.directory / JOBS
        shutil.rmtree(folder, ignore_errors=True)
        try:
            executor = self.submitit.AutoExecutor(
                folder,
                cluster=self.cluster,
                **{f"{self.cluster}_max_num_timeout": REQUEUES},
            )
            name = unit.name.replace("/", "_")
            executor.update_parameters(name=name, **self.parameters)
            threads = dict.fromkeys(THREAD_VARIABLES, self.cpus)
            environment = self.submitit.helpers.environment_variables
            with environment(PYTHONPATH=python_path(), **threads):
                job = executor.submit(Attempt(unit, dict(needs), self.cpus))
        except (NameError, AssertionError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"--slurm: {error}") from error
        (folder / JOB).write_text(job.job_id, encoding="utf-8")
        return job

    def ended(self, job: Any, unit: Unit) -> str | None:
        """Return None while Slurm has the job, then why there is no result."""
        now = time.monotonic()
        ask = now - self._asked.setdefault(job.job_id, now) >= CHECK_SECONDS
        if ask:
            self._asked[job.job_id] = now
        if not job.done(force_check=ask):
            return None
        if read_record(unit.directory) is not None:
            return ""
        try:
            return reason(unit.directory, job.result())
        except self.submitit.core.utils.UncompletedJobError:
            return f"ended without a word, {job.state} (see {job.paths.stderr})"
        except self.submitit.core.utils.FailedJobError as error:
            return str(error).strip().splitlines()[-1]

    def stop(self, jobs: Sequence[Any]) -> None:
        """Cancel the jobs; each saves before it ends."""
        for job in (job for job in jobs if not job.done()):
            if self.cluster == "slurm":
                job.cancel(check=False)
            else:
                # submitit's own cancelling leaves a second for saving, and none at all
                # to a program that a shell started in the background.
                os.kill(int(job.job_id), signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for job in jobs:
            while not job.done() and time.monotonic() < deadline:
                time.sleep(0.1)


@dataclass(frozen=True)
class Attempt:
    """A job: makes the unit, from what it finds in the unit's folder."""

    unit: Unit
    needs: dict[str, dict[str, Any]]
    cpus: int

    def __call__(self) -> int:
        """Make the unit; when told to give way, save and be queued again."""
        requeue = signal.getsignal(signal.SIGUSR2)  # of submitit
        code = work(self.unit, self.needs, self.cpus)
        if code == TOLD_TO_REQUEUE and callable(requeue):
            requeue(signal.SIGUSR2, None)
        if code in INTERRUPTIONS:
            # Without a result: Slurm may start this job again, as it is.
            raise SystemExit(code)
        return code

    def checkpoint(self) -> Any:
        """Return what is queued again: the same, for all that counts is on the disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
