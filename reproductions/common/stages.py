"""Units of work: what is done stays done, one failure costs only what needed it.

A reproduction is a list of units (make the data, train the model of seed 0, evaluate
one planner). Each has a folder of its own and ends with a `done.json` in it, written at
once or not at all. A second start of the program skips the units that are done and
calls the others again, which then resume from what they left in their folder. A unit
whose inputs were made anew since, and are others now, is made again.

Each unit runs in a process of its own, so that it can be killed, can run out of memory
and can use one core without disturbing the others. What it prints is in `log.txt`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from diffplan._checks import require_at_least
from diffplan.errors import ArgumentError, FileError
from reproductions.common.schedule import duration, schedule
from reproductions.common.units import (
    DONE,
    ERROR,
    LOG,
    SETTINGS,
    Unit,
    difference,
    fingerprints,
    read_record,
)
from reproductions.common.worker import UNWRITABLE, work

__all__ = ["DONE", "LOG", "SETTINGS", "Outcome", "Unit", "difference", "run_units"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
PROGRESS_SECONDS = 30.0
LINE_WIDTH = 100


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
    workers: int = 2,
    *,
    threads: int = 1,
    report: Callable[[str], object] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Outcome:
    """Run the units that are not done, several at a time, each after what it needs.

    Units that are ready start in the order of the list. An interruption (Ctrl-C or
    SIGTERM) is passed on to the running units, which get ten seconds to save.

    Args:
        units: In order of preference; names are unique.
        workers: How many run at the same time.
        threads: Threads that torch uses in each of them.
        report: Receives a line of text whenever something happens; None is silent.
        seconds: That units once took, by name, for the time that is left.

    Raises:
        ArgumentError: names repeat, a need is unknown or waits for itself, or a folder
            holds work of other settings.
        KeyboardInterrupt: the run was interrupted; start it again to resume.
    """
    require_at_least("workers", workers, 1)
    _check_names(units)
    run = _Run(units, workers, threads, report or (lambda _: None), seconds or {})
    run.settle()
    run.announce()
    with _terminations_interrupt():
        try:
            while run.waiting or run.running:
                run.advance()
                time.sleep(POLL_SECONDS if run.running else 0.0)
        finally:
            _stop(run.running)
    return run.outcome


@dataclass
class _Running:
    unit: Unit
    process: BaseProcess
    start: float


class _Run:
    """The state of `run_units`; the arguments are its own."""

    def __init__(
        self,
        units: Sequence[Unit],
        workers: int,
        threads: int,
        say: Callable[[str], object],
        seconds: Mapping[str, float],
    ) -> None:
        self.units, self.workers, self.threads = units, workers, threads
        self.say, self.seconds = say, dict(seconds)
        self.outcome = Outcome()
        self.waiting = list(units)
        self.running: dict[str, _Running] = {}
        self._finished: set[str] = set()
        self._said, self._lines = time.monotonic(), dict[str, str]()
        self._records: dict[str, dict[str, Any]] = {}
        for unit in units:
            try:
                if unit.is_done():
                    self._finished.add(unit.name)
            except FileError as error:
                self._fail(unit, str(error))

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
            known = self._left()
            about = f", about {known} by measured times" if known else ""
            self.say(f"{len(self.waiting)} units to run, {self.workers} at once{about}")

    def advance(self) -> None:
        """Collect what ended, block what cannot run any more, start what can."""
        self._collect()
        if time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._said = time.monotonic()
            self._say_progress()
        self._block()
        for unit in list(self.waiting):
            if len(self.running) < self.workers and set(unit.needs) <= {*self._records}:
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
        """Start the unit's process."""
        needs = self._needs(unit)
        try:
            again = unit.begin(needs)
            process = _process(unit, fingerprints(needs), self.threads)
        except OSError as error:
            self._fail(unit, f"cannot write to {unit.directory}: {error.strerror}")
            self.say(f"{unit.name}: not started: {self.outcome.failed[unit.name]}")
            return
        self.running[unit.name] = _Running(unit, process, time.monotonic())
        self.say(f"{unit.name}: started{f' again: {again}' if again else ''}")

    def _collect(self) -> None:
        for name, ended in list(self.running.items()):
            if ended.process.is_alive():
                continue
            ended.process.join()
            del self.running[name]
            seconds = time.monotonic() - ended.start
            if read_record(ended.unit.directory) is not None:
                self._done(ended.unit)
                self.seconds[name] = seconds
                self.settle()
                self.say(f"{name}: done in {duration(seconds)}; {self._progress()}")
            else:
                self._fail(ended.unit, _reason(ended))
                reason = self.outcome.failed[name]
                self.say(f"{name}: failed after {duration(seconds)}: {reason}")

    def _progress(self) -> str:
        """Return "3 of 16", and the time that is left."""
        known = self._left()
        left = f", about {known} left" if known else ""
        return f"{len(self.outcome.done)} of {len(self.units)}{left}"

    def _left(self) -> str:
        """Return the time that is left in words, empty if it is not known."""
        now = time.monotonic()
        left = [*(each.unit for each in self.running.values()), *self.waiting]
        if not left or any(unit.name not in self.seconds for unit in left):
            return ""
        times = {unit.name: self.seconds[unit.name] for unit in left}
        for name, each in self.running.items():
            times[name] = max(times[name] - (now - each.start), 0.0)
        lost = {*self.outcome.failed, *self.outcome.blocked}
        outside = [*self.outcome.done, *lost]
        return duration(schedule(left, times, self.workers, outside))

    def _say_progress(self) -> None:
        """Say the newest line of each running unit's log, if it is a new one."""
        for name, each in self.running.items():
            log = each.unit.directory / LOG
            if log.exists():
                text = log.read_text(encoding="utf-8", errors="replace")
                lines = [line for line in text.splitlines() if line.strip()]
                if lines and lines[-1] != self._lines.get(name):
                    self._lines[name] = lines[-1]
                    self.say(f"{name}: {lines[-1][:LINE_WIDTH]}")

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


def _process(unit: Unit, inputs: Mapping[str, str], threads: int) -> BaseProcess:
    """Start a process; numerical libraries read their threads when imported."""
    process = get_context("spawn").Process(
        target=work, args=(unit, inputs, threads), name=unit.name
    )
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return process


def _reason(ended: _Running) -> str:
    """Return the error that ended the unit, or which signal killed it."""
    code, folder = ended.process.exitcode or 0, ended.unit.directory
    if code < 0:
        return f"killed by {_signal_name(-code)}"
    if code == UNWRITABLE:
        return f"cannot write to {folder}: the disk is full or read-only"
    error = folder / ERROR
    said = error.read_text(encoding="utf-8") if error.exists() else f"exit code {code}"
    return f"{said} (see {folder / LOG})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals between the first and the last
        return f"signal {number}"


def _stop(running: Mapping[str, _Running]) -> None:
    """Interrupt what still runs, and kill what has not ended after a while."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        alive = [each.process for each in running.values() if each.process.is_alive()]
        for process in alive:
            if process.pid is not None:
                os.kill(process.pid, stop)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in alive:
            process.join(max(0.0, deadline - time.monotonic()))


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
