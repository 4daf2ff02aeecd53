"""Units of work: what is done stays done, one failure costs only what needed it.

A reproduction is a list of units (make the data, train the model of seed 0, evaluate
one planner). Each has a folder of its own and ends with a `done.json` in it, written at
once or not at all. A second start of the program skips the units that are done and
calls the others again, which then resume from what they left in their folder. A unit
whose inputs were made anew since, and are others now, is made again.

Each unit runs in a process of its own, so that it can be killed, can run out of memory
and can use one core without disturbing the others. What it prints is in `log.txt`.
Where processes live is the matter of an engine; which unit is due, and which is stale,
is decided here for all engines.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from diffplan.errors import ArgumentError, FileError
from diffplan.training._lock import held
from reproductions.common.engines import Engine, Local
from reproductions.common.progress import Grid, live
from reproductions.common.schedule import duration
from reproductions.common.units import (
    DONE,
    ERROR,
    LOG,
    SETTINGS,
    Unit,
    difference,
    read_record,
)

__all__ = ["DONE", "LOG", "SETTINGS", "Outcome", "Unit", "difference", "run_units"]


@dataclass
class Outcome:
    """What became of the units, by name.

    Args:
        done: Units that are complete, in this or an earlier run.
        failed: Why the others failed: the last line of their error.
        blocked: Units that were not started, with the unit that they waited for.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything is done."""
        return not self.failed and not self.blocked


def run_units(
    units: Sequence[Unit],
    engine: Engine | None = None,
    *,
    report: Callable[[str], object] | None = None,
    seconds: Mapping[str, float] | None = None,
    directory: Path | None = None,
) -> Outcome:
    """Make the units that are not done, each after what it needs.

    Units that are ready start in the order of the list. An interruption (Ctrl-C or
    SIGTERM) is passed on to the running units, which get ten seconds to save.

    Args:
        units: In order of preference; names are unique.
        engine: Makes them; None stands for two at a time on this machine. It is stopped
            at the end.
        report: Receives a line of text whenever something happens, and a terminal shows
            a table of the units; None is silent.
        seconds: That units once took, by name, for the time that is left.
        directory: The run folder, for `progress.show_status`; None leaves no trace.

    Raises:
        ArgumentError: names repeat, a need is unknown or waits for itself, or a folder
            holds work of other settings.
        KeyboardInterrupt: the run was interrupted; start it again to resume.
    """
    engine = engine or Local()
    run: _Run | None = None
    with _terminations_interrupt():
        try:
            _check_names(units)
            run = _Run(units, engine, report or (lambda _: None), seconds or {})
            if directory is not None:
                run.grid.save(directory)
            run.announce()
            with live(run.grid, wanted=report is not None):
                while run.waiting or run.running:
                    run.advance()
                    time.sleep(engine.poll_seconds if run.running else 0.0)
        finally:
            engine.stop([each.job for each in run.running.values()] if run else [])
    return run.outcome


@dataclass
class _Running:
    unit: Unit
    job: object
    start: float
    where: object = None


class _Run:
    """The state of `run_units`; the arguments are its own."""

    def __init__(
        self,
        units: Sequence[Unit],
        engine: Engine,
        say: Callable[[str], object],
        seconds: Mapping[str, float],
    ) -> None:
        self.units, self.engine, self.say = units, engine, say
        self.seconds = dict(seconds)
        self.grid = Grid(units, self.seconds, engine.workers)
        self.outcome = Outcome()
        self.waiting = list(units)
        self.running: dict[str, _Running] = {}
        self._finished: set[str] = set()
        self._records: dict[str, dict[str, Any]] = {}
        for unit in units:
            try:
                if unit.is_done():
                    self._finished.add(unit.name)
            except FileError as error:
                self._fail(unit, str(error))
        self.settle()
        for unit in self.waiting:
            with suppress(OSError):  # of an earlier command; it is tried again
                (unit.directory / ERROR).unlink(missing_ok=True)

    def settle(self) -> None:
        """Take the units that are done, and were made from what is there now."""
        found = True
        while found:
            found = False
            for unit in list(self.waiting):
                ready = set(unit.needs) <= self._records.keys()
                if ready and unit.name in self._finished:
                    self._finished.discard(unit.name)
                    if unit.is_made_from(self._needs(unit)):
                        self.waiting.remove(unit)
                        self._done(unit)
                        found = True

    def announce(self) -> None:
        """Say how much there is to do, and how long it will take."""
        place = {unit.name: index for index, unit in enumerate(self.units)}
        self.outcome.done.sort(key=lambda name: place[name])
        before, total = len(self.outcome.done), len(self.units)
        if before:
            self.say(f"{before} of {total} units were done before")
        if self.waiting:
            left, workers = self._left(), self.engine.workers
            about = f", about {duration(left)} by measured times" if left else ""
            at_once = f", {workers} at once" if workers else ""
            self.say(f"{len(self.waiting)} units to run{at_once}{about}")

    def advance(self) -> None:
        """Collect what ended, block what cannot run any more, start what can."""
        self._collect()
        self._block()
        for unit in list(self.waiting):
            room = self.engine.workers or len(self.units)
            if len(self.running) < room and set(unit.needs) <= {*self._records}:
                self.waiting.remove(unit)
                self._start(unit)

    def _needs(self, unit: Unit) -> dict[str, dict[str, Any]]:
        return {name: self._records[name] for name in unit.needs}

    def _done(self, unit: Unit) -> None:
        record = read_record(unit.directory)
        assert record is not None  # it is done, and `damage` was asked
        self._records[unit.name] = record
        self.outcome.done.append(unit.name)

    def _fail(self, unit: Unit, reason: str) -> None:
        if unit in self.waiting:
            self.waiting.remove(unit)
        self.outcome.failed[unit.name] = reason

    def _start(self, unit: Unit) -> None:
        """Hand a unit to the engine, unless that still has it."""
        needs, again = self._needs(unit), ""
        job = self.engine.found(unit)
        try:
            if job is None:
                again = unit.begin(needs)
                job = self.engine.start(unit, needs)
        except OSError as error:
            self._fail(unit, f"cannot write to {unit.directory}: {error.strerror}")
            self.say(f"{unit.name}: not started: {self.outcome.failed[unit.name]}")
            return
        self.running[unit.name] = _Running(unit, job, time.monotonic())
        verb = "started" if self.engine.workers else "handed over"
        self.say(f"{unit.name}: {verb}{f' again: {again}' if again else ''}")

    def _collect(self) -> None:
        for name, each in list(self.running.items()):
            reason = self.engine.ended(each.job, each.unit)
            if reason is None:
                self._say_where(each)
                continue
            del self.running[name]
            seconds = time.monotonic() - each.start
            # A job of an earlier command may have read what is another thing now.
            if each.unit.is_made_from(self._needs(each.unit)):
                self._done(each.unit)
                self.settle()
                self.say(f"{name}: done in {duration(seconds)}; {self._progress()}")
            else:
                reason = reason or "what it was made from changed since"
                self._fail(each.unit, reason)
                self.say(f"{name}: failed after {duration(seconds)}: {reason}")
                self._leave_error(each.unit, reason)

    def _say_where(self, each: _Running) -> None:
        """Say on which machine a unit of a cluster runs, and when that changes."""
        holder = None if self.engine.workers else held(each.unit.directory)
        if holder is not None:
            where = holder.get("host"), holder.get("process")
            if where != each.where:
                again = " again" if each.where else ""
                each.where = where
                self.say(f"{each.unit.name}: runs{again} on {where[0]}")

    def _leave_error(self, unit: Unit, reason: str) -> None:
        """Leave in its folder why a unit failed that could not say so."""
        error = unit.directory / ERROR
        with suppress(OSError):
            if not error.exists():
                error.write_text(reason, encoding="utf-8")

    def _progress(self) -> str:
        """Return "3 of 16", and the time that is left."""
        left = self._left()
        about = f", about {duration(left)} left" if left else ""
        return f"{len(self.outcome.done)} of {len(self.units)}{about}"

    def _left(self) -> float | None:
        """Return the seconds that are left, None if they are not known."""
        return self.grid.left(self.grid.rows())

    def _block(self) -> None:
        lost = {*self.outcome.failed, *self.outcome.blocked}
        for unit in list(self.waiting):
            missing = [need for need in unit.needs if need in lost]
            if missing:
                self.waiting.remove(unit)
                self.outcome.blocked[unit.name] = missing[0]
                lost.add(unit.name)
                self.say(f"{unit.name}: not started, because {missing[0]} failed")


def _check_names(units: Sequence[Unit]) -> None:
    needs = {unit.name: unit.needs for unit in units}
    if len(needs) < len(units):
        raise ArgumentError("units: expected unique names, got a repeated one")
    folders = [unit.directory for unit in units]
    for folder in folders:
        # What is in a unit's folder is deleted when it is made again.
        if sum(other.is_relative_to(folder) for other in folders) > 1:
            raise ArgumentError(
                f"units: expected a folder of its own for each, got {folder} for two, "
                "or one inside the other"
            )
    finished: set[str] = set()
    while len(finished) < len(needs):
        ready = {
            name
            for name, wanted in needs.items()
            if name not in finished and finished.issuperset(wanted)
        }
        if not ready:
            stuck = sorted(set(needs) - finished)
            raise ArgumentError(
                f"units: expected needs that name units and form no circle, got {stuck}"
            )
        finished |= ready


@contextmanager
def _terminations_interrupt() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt while it is entered, in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt
