"""Units as tasks of Ray, on this machine or on a cluster.

Ray decides where and when a unit runs. If its machine dies, or its process is killed or
told to leave, Ray starts it again elsewhere, and it goes on from its last checkpoint.
An error of the unit itself is final.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffplan._checks import missing
from diffplan.errors import ArgumentError
from reproductions.common.engines.base import (
    GRACE_SECONDS,
    Engine,
    python_path,
    reason,
)
from reproductions.common.units import Unit
from reproductions.common.worker import INTERRUPTIONS, work

RETRIES = 8


class Ray(Engine):
    """Makes units as tasks of Ray.

    Args:
        address: Of a cluster that runs; None starts one on this machine, which ends
            with the command.
        cpus: Of each unit; also the threads that torch uses in it.
        gpus: Of each unit; parts such as 0.5 let units share one.
        workers: Units at the same time where there is no address; None stands for as
            many as the machine has room for.

    Raises:
        MissingDependencyError: Ray is not installed.
        ArgumentError: there is no cluster at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int = 1,
        gpus: float = 0.0,
        workers: int | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise missing("--engine ray needs Ray", "ray") from error
        self.ray, self.cpus = ray, cpus
        local = {"num_cpus": workers * cpus} if workers and not address else {}
        try:
            ray.init(
                address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,  # each unit has its log.txt
                runtime_env={"env_vars": {"PYTHONPATH": python_path()}},
                **local,
            )
        except (ConnectionError, RuntimeError) as error:
            raise ArgumentError(
                f"--address: expected the address of a Ray cluster, got {address!r} "
                f"({error})"
            ) from error
        # A process takes one unit, so that what it prints can go to the unit's log.
        self.task = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_calls=1,
            max_retries=RETRIES,
            retry_exceptions=[Interrupted],
        )(_attempt)

    def start(self, unit: Unit, needs: Mapping[str, dict[str, Any]]) -> object:
        """Hand the unit to Ray."""
        return self.task.options(name=unit.name).remote(
            unit, dict(needs), self.cpus, Path.cwd()
        )

    def ended(self, job: Any, unit: Unit) -> str | None:
        """Return None while Ray has the task, then why there is no result."""
        if not self.ray.wait([job], timeout=0)[0]:
            return None
        try:
            return reason(unit.directory, self.ray.get(job))
        except self.ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"{type(error).__name__}: {lines[-1]}"

    def stop(self, jobs: Sequence[Any]) -> None:
        """Cancel the tasks, and leave the cluster."""
        for job in jobs:
            self.ray.cancel(job)
        if jobs:
            self.ray.wait(list(jobs), num_returns=len(jobs), timeout=GRACE_SECONDS)
        self.ray.shutdown()


class Interrupted(Exception):
    """A unit was told to leave its machine, and saved."""


def _attempt(
    unit: Unit, needs: Mapping[str, dict[str, Any]], cpus: int, place: Path
) -> int:
    os.chdir(place)  # paths of units may be relative to where the command was given
    code = work(unit, needs, cpus)
    if code in INTERRUPTIONS:
        raise Interrupted
    return code
