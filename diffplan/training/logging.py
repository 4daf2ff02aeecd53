"""What a run leaves behind to read: `metrics.csv`, TensorBoard events, progress."""

import csv
import importlib
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from diffplan._checks import missing, require_known
from diffplan._files import reading, write_atomically
from diffplan._kinds import OrInfinite

_COLUMNS = ("round", "environment_step", "name", "value")


@runtime_checkable
class _Stream(Protocol):
    """Where progress is told, such as `sys.stderr`."""

    def write(self, text: str, /) -> object:
        """Write text."""
        ...

    def flush(self) -> None:
        """Show it now."""
        ...

    def isatty(self) -> bool:
        """Return whether somebody looks."""
        ...


@runtime_checkable
class MetricWriter(Protocol):
    """Receives the metrics of each round: a tracker, or a function of yours.

    A run that goes on repeats the rounds after its last checkpoint, with equal numbers;
    a tracker is told them once more.
    """

    def write(
        self, round_index: int, environment_step: int, metrics: Mapping[str, float]
    ) -> None:
        """Take the metrics of one round, by name."""
        ...

    def close(self) -> None:
        """End; there may have been an error."""
        ...


class RunLogger:
    """Writes metrics, one number per line, so that new names need no new columns.

    `metrics.csv` has the columns `round, environment_step, name, value`. Values have
    all their digits. Results of single episodes (names with `/episode_`) stay in the
    table and go nowhere else. Names that begin with `time/` are wall-clock times; all
    others are equal in an interrupted and an uninterrupted run. TensorBoard events
    are written beside it where that package is installed.

    Args:
        directory: The run's folder, made if needed.
        first_round: Rows of this and later rounds are removed: a resumed run plays
            these rounds again. 0 starts a new table.
        tensorboard: Whether to write events, if TensorBoard is installed.
        rows: The table as `text` returned it when the earlier rounds were complete;
            what the file has lost of them is written again. None trusts the file.
        writers: Further ones, which are given the same but single episodes.

    Example:
        >>> logger = RunLogger("run", first_round=0)  # doctest: +SKIP
        >>> logger.write(0, 1000, {"test/return": 12.5})  # doctest: +SKIP
    """

    def __init__(
        self,
        directory: Path | str,
        first_round: int = 0,
        *,
        tensorboard: bool = True,
        rows: str | None = None,
        writers: Sequence[MetricWriter] = (),
    ) -> None:
        self.directory = Path(directory)
        self.path = self.directory / "metrics.csv"
        self._truncate(first_round, rows)
        self._writers = list(writers)
        if tensorboard and find_spec("tensorboard") is not None:
            events = self.directory / "tensorboard"
            self._writers.append(_TensorBoard(events, first_round))

    def write(
        self, round_index: int, environment_step: int, metrics: Mapping[str, float]
    ) -> None:
        """Append the metrics of one round, and make sure that they are on the disk.

        Args:
            round_index: The round they belong to.
            environment_step: Simulated steps so far (updates, in offline training).
            metrics: By name.
        """
        with self.path.open("a", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            for name, value in metrics.items():
                number = repr(float(value))
                table.writerow([round_index, environment_step, name, number])
            file.flush()
            os.fsync(file.fileno())
        for writer in self._writers:
            writer.write(round_index, environment_step, _summary(metrics))

    def close(self) -> None:
        """Close all writers, also where one fails to."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    def text(self) -> str:
        """Return the whole table."""
        return self.path.read_text(encoding="utf-8")

    def _truncate(self, first_round: int, complete: str | None) -> None:
        """Keep complete rows of earlier rounds; a kill may have cut the last row."""
        # A new table replaces whatever is there.
        rows = read_metrics(self.path) if first_round and self.path.exists() else []
        if first_round and complete is not None:
            rows = _parsed(complete)
        kept = [row for row in rows if int(row["round"]) < first_round]
        text = io.StringIO()
        table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(kept)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))


class _TensorBoard:
    """Writes TensorBoard events."""

    def __init__(self, directory: Path, first_round: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(directory), purge_step=first_round)

    def write(
        self, round_index: int, environment_step: int, metrics: Mapping[str, float]
    ) -> None:
        for name, value in metrics.items():
            self._events.add_scalar(name, value, round_index)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class Tracker:
    """Writes metrics to Weights & Biases, or to trackio, which has the same functions.

    Args:
        package: "wandb" or "trackio".
        **settings: Of its `init`, such as `project`, `name`, `config`, or, of wandb,
            `mode="offline"`.

    Raises:
        UnknownNameError: it is another one.
        MissingDependencyError: it is not installed.

    Example:
        >>> tracker = Tracker("wandb", project="pendulum")  # doctest: +SKIP
        >>> trainer.run(writers=[tracker])  # doctest: +SKIP
    """

    def __init__(self, package: str, **settings: Any) -> None:
        require_known("package", package, ("wandb", "trackio"))
        try:
            self._package = importlib.import_module(package)
        except ImportError as error:
            raise missing(f"a tracker needs {package}", package) from error
        self._package.init(**settings)

    def write(
        self, round_index: int, environment_step: int, metrics: Mapping[str, float]
    ) -> None:
        """Log the metrics of a round, with their environment step beside them."""
        content = {**metrics, "environment_step": environment_step}
        self._package.log(content, step=round_index)

    def close(self) -> None:
        """End the tracker's run."""
        self._package.finish()


def read_metrics(path: Path | str) -> list[dict[str, str]]:
    """Read a `metrics.csv`; an incomplete last line is left out.

    Returns:
        One dictionary per row, all values as text, with the keys `_COLUMNS`.

    Raises:
        FileError: it is missing, or holds something else.
    """
    path = Path(path)
    with reading(path, "metrics of a run"):
        return _parsed(path.read_text(encoding="utf-8"))


def _parsed(text: str) -> list[dict[str, str]]:
    """Return the complete rows of a table; raises ValueError if it is none."""
    complete = text[: text.rfind("\n") + 1]
    header, *rows = csv.reader(complete.splitlines(), strict=True)
    if tuple(header) != _COLUMNS:
        raise ValueError(f"its first line is {header[:9]}, not {list(_COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(_COLUMNS) or not row[0].isdecimal():
            raise ValueError(f"line {number} is {row[:9]}")
        float(row[3])
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def _summary(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics without those of single episodes."""
    return {key: value for key, value in metrics.items() if "/episode_" not in key}


class Progress:
    """Says how far a run is: a bar on a terminal with `rich`, else a line at times.

    Args:
        total: Rounds in all.
        stream: Where lines go; None stands for standard error.
        interval: Least seconds between two lines.
        quiet: Whether to say nothing at all.

    Example:
        >>> with Progress(10, quiet=True) as progress:
        ...     progress.update(1, {"test/return": 12.5})
    """

    def __init__(
        self,
        total: int,
        *,
        stream: _Stream | None = None,
        interval: OrInfinite = 10.0,
        quiet: bool = False,
    ) -> None:
        self.total, self.interval, self.quiet = total, interval, quiet
        self.stream = sys.stderr if stream is None else stream
        self._last = -float("inf")
        self._bar = None if quiet else _rich_bar(self.stream)
        self._task = None

    def __enter__(self) -> "Progress":
        """Show the bar, if there is one."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total)
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Say that `done` rounds are complete, with the newest metrics."""
        if self.quiet:
            return
        text = "  ".join(
            f"{name} {value:.4g}"
            for name, value in _summary(metrics).items()
            if not name.startswith("time/")
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
            return
        now = time.monotonic()
        if now - self._last >= self.interval or done == self.total:
            self._last = now
            self.stream.write(f"round {done}/{self.total}  {text}\n")
            self.stream.flush()


def _rich_bar(stream: _Stream) -> Any:
    """Return a bar of `rich`, or None where it is absent or nobody looks."""
    if not stream.isatty() or find_spec("rich") is None:
        return None
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=Console(file=stream),  # type: ignore[arg-type]
    )
