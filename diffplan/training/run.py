"""The loop of every long run: rounds, metrics, checkpoints, and going on after a stop.

A job plays one round after the other. After each round its metrics are on the disk;
after a checkpoint the run can be killed at any moment, and the next start repeats what
came after that checkpoint, with the same numbers, bit for bit.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from diffplan._checks import require_count, require_seed
from diffplan._files import reading
from diffplan.errors import ArgumentError, NonFiniteError
from diffplan.training._description import changes
from diffplan.training._lock import exclusive
from diffplan.training._run_record import RunRecord, plain
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.logging import MetricWriter, Progress, RunLogger


@runtime_checkable
class Job(Protocol):
    """Work that is done in rounds and can be saved between them."""

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Do round `index`; return the step to plot against, and metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next rounds depend on: tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        ...


def run_rounds(
    job: Job,
    directory: Path | str,
    *,
    config: Any,
    seed: int,
    rounds: int,
    checkpoint_every: int = 1,
    keep: int = 2,
    extensible: tuple[str, ...] = (),
    tensorboard: bool = True,
    quiet: bool = False,
    writers: Sequence[MetricWriter] = (),
) -> None:
    """Play the rounds of a job that are still to be played.

    The folder then holds `run.json`, `metrics.csv`, `checkpoints/` and, where it is
    installed, TensorBoard events. If it already holds checkpoints, the run goes on.

    Args:
        job: The work, as it is before round 0.
        directory: The run's folder.
        config: All settings; recorded, and compared when a run goes on.
        seed: Of the run; recorded and compared too.
        rounds: In all, those of earlier starts included.
        checkpoint_every: Rounds between two checkpoints.
        keep: Checkpoints that are kept.
        extensible: Names of settings that may differ when a run goes on.
        tensorboard: Whether to write TensorBoard events.
        quiet: Whether to show no progress.
        writers: Of metrics, beside these files; they are closed at the end.

    Raises:
        ArgumentError: a number is out of range, the folder holds a run with other
            settings, or another process trains in it, which is named.
        FileError: what it holds is damaged, or does not fit this job.
        NonFiniteError: a round met NaN or infinity, such as a loss; it names the last
            good checkpoint, which stays as it is.
    """
    seed, rounds = require_seed(seed), require_count("rounds", rounds, 0)
    require_count("checkpoint_every", checkpoint_every)
    checkpoints = Checkpoints(Path(directory) / "checkpoints", keep)
    settings = {"seed": seed, **plain(config)}
    with exclusive(checkpoints.directory):
        first, rows = _resume(job, checkpoints, settings, extensible)
        record = RunRecord(directory, config, seed)
        record.begin(first)
        status = "interrupted"
        make = partial(RunLogger, directory, first, tensorboard=tensorboard)
        try:
            with (
                closing(make(rows=rows, writers=writers)) as logger,
                Progress(rounds, quiet=quiet) as progress,
            ):
                for index in range(first, rounds):
                    step, metrics = _played(job, index, checkpoints)
                    logger.write(index, step, metrics)
                    done = index + 1
                    if done % checkpoint_every == 0 or done == rounds:
                        # With the metrics: a lost or cut file is written again.
                        content = {
                            "settings": settings,
                            "job": job.state_dict(),
                            "metrics": logger.text(),
                        }
                        checkpoints.save(done, content)
                    progress.update(done, metrics)
            status = "completed"
        finally:
            record.end(status)


def _played(
    job: Job, index: int, checkpoints: Checkpoints
) -> tuple[int, dict[str, float]]:
    """Play a round; an error about numbers says where the last good state is."""
    try:
        return job.play_round(index)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"round {index}: {error}; {_last_good(checkpoints)}"
        ) from error


def _last_good(checkpoints: Checkpoints) -> str:
    """Say where the state before a failure is; what failed was not saved."""
    found = checkpoints.latest()
    if found is None:
        return "there is no checkpoint from before"
    done, path = found
    return f"the last good checkpoint, after round {done - 1}, is {path}"


def _resume(
    job: Job,
    checkpoints: Checkpoints,
    settings: dict[str, Any],
    extensible: tuple[str, ...],
) -> tuple[int, str | None]:
    """Load the latest checkpoint, if any.

    Returns:
        The first round to play, and the `metrics.csv` of those before; None where the
        checkpoint is of a version that did not keep it.
    """
    found = checkpoints.load_latest()
    if found is None:
        return 0, None
    first, content = found
    path, expected = checkpoints.directory, "a checkpoint of this run"
    with reading(path, expected):
        saved, state = dict(content["settings"]), content["job"]
        metrics = content.get("metrics")
    changed = changes(saved, settings, extensible)
    if changed:
        described = ", ".join(changed)
        raise ArgumentError(
            f"directory: {checkpoints.directory.parent} holds a run with other "
            f"settings ({described}); choose another folder"
        )
    # Of another model, for example, whose size is no setting of the run.
    with reading(path, expected):
        job.load_state_dict(state)
    return first, metrics
