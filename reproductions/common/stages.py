"""Units of work: what is done stays done, one failure costs only what needed it.

A reproduction is a list of units (make the data, train the model of seed 0, evaluate
one planner). Each has a folder of its own and ends with a `done.json` in it, written at
once or not at all. A second start of the program skips the units that are done and
calls the others again, which then resume from what they left in their folder.

Each unit runs in a process of its own, so that it can be killed, can run out of memory
and can use one core without disturbing the others. What it prints is in `log.txt`.
"""

import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from diffplan._checks import require_at_least
from diffplan._files import write_atomically
from diffplan.errors import ArgumentError
from diffplan.training._run_record import (
    hardware,
    package_versions,
    plain,
    source_version,
)

DONE, SETTINGS, LOG, ERROR = "done.json", "settings.json", "log.txt", "error.txt"
SESSIONS = "seconds.txt"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
PROGRESS_SECONDS = 30.0
LINE_WIDTH = 100


@dataclass(frozen=True)
class Unit:
    """One piece of work that is either done or not.

    Args:
        name: Unique, for example `comparison/seed_0/model`.
        run: A top-level function of some module, or a `functools.partial` of one with
            everything bound; it must be picklable. It is called without arguments in a
            new process, possibly again after it was killed, and then resumes from its
            folder. Keywords of the partial that are not paths are its *settings*.
        directory: Its own folder, made before `run` is called.
        needs: Names of the units that must be done before.

    Example:
        >>> import functools
        >>> work = functools.partial(print, "trained")
        >>> Unit("model", work, Path("runs/model")).is_done()
        False
    """

    name: str
    run: Callable[[], object]
    directory: Path
    needs: tuple[str, ...] = ()

    def is_done(self) -> bool:
        """Return whether the unit ended, with the settings that it has now.

        Raises:
            ArgumentError: the folder holds work that was done with other settings.
        """
        begun = self.directory / SETTINGS
        if begun.exists():
            before = json.loads(begun.read_text(encoding="utf-8"))
            if before != self.settings():
                raise ArgumentError(
                    f"{self.directory}: expected the settings of this run, got those "
                    f"of another ({difference(before, self.settings())}); choose "
                    "another --directory or delete this folder"
                )
        return (self.directory / DONE).exists()

    def settings(self) -> dict[str, Any]:
        """Return what the unit is called with, as JSON knows it, without paths."""
        if not isinstance(self.run, functools.partial):
            return {}
        kept = {
            name: value
            for name, value in self.run.keywords.items()
            if not isinstance(value, Path)
        }
        settings: dict[str, Any] = json.loads(json.dumps(plain(kept)))
        return settings


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
) -> Outcome:
    """Run the units that are not done, several at a time, each after what it needs.

    Units that are ready start in the order of the list. An interruption (Ctrl-C or
    SIGTERM) is passed on to the running units, which get ten seconds to save.

    Args:
        units: In order of preference; names are unique.
        workers: How many run at the same time.
        threads: Threads that torch uses in each of them.
        report: Receives a line of text whenever something happens; None is silent.

    Raises:
        ArgumentError: names repeat, a need is unknown or waits for itself, or a folder
            holds work of other settings.
        KeyboardInterrupt: the run was interrupted; start it again to resume.
    """
    require_at_least("workers", workers, 1)
    _check_names(units)
    say = report or (lambda _: None)
    outcome = Outcome(done=[unit.name for unit in units if unit.is_done()])
    if outcome.done:
        say(f"{len(outcome.done)} of {len(units)} units were done before")
    waiting = [unit for unit in units if unit.name not in outcome.done]
    running: dict[str, _Running] = {}
    said = time.monotonic()
    with _TerminationsInterrupt():
        try:
            while waiting or running:
                _collect(running, outcome, say)
                if time.monotonic() - said >= PROGRESS_SECONDS:
                    _say_progress(running, say)
                    said = time.monotonic()
                _block(waiting, outcome, say)
                _start_ready(waiting, running, outcome, workers, threads, say)
                time.sleep(POLL_SECONDS if running else 0.0)
        finally:
            _stop(running)
    return outcome


def difference(before: Any, now: Any, path: str = "") -> str:
    """Return the first setting that differs, in words."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in (*before, *(key for key in now if key not in before)):
            if before.get(key) != now.get(key):
                inner = f"{path}.{key}" if path else str(key)
                return difference(before.get(key), now.get(key), inner)
    return f"{path or 'settings'} was {before!r} and is {now!r}"


# The parent's side


@dataclass
class _Running:
    unit: Unit
    process: BaseProcess
    start: float


def _check_names(units: Sequence[Unit]) -> None:
    needs = {unit.name: unit.needs for unit in units}
    if len(needs) < len(units):
        raise ArgumentError("units: expected unique names, got a repeated one")
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


def _start_ready(
    waiting: list[Unit],
    running: dict[str, _Running],
    outcome: Outcome,
    workers: int,
    threads: int,
    say: Callable[[str], object],
) -> None:
    for unit in list(waiting):
        if len(running) < workers and set(unit.needs) <= set(outcome.done):
            waiting.remove(unit)
            running[unit.name] = _Running(unit, _start(unit, threads), time.monotonic())
            say(f"{unit.name}: started")


def _start(unit: Unit, threads: int) -> BaseProcess:
    """Start the unit's process; numerical libraries read their threads at import."""
    unit.directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(unit.settings(), indent=2) + "\n"
    write_atomically(unit.directory / SETTINGS, lambda file: file.write(text.encode()))
    process = get_context("spawn").Process(
        target=_work, args=(unit, threads), name=unit.name
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


def _collect(
    running: dict[str, _Running], outcome: Outcome, say: Callable[[str], object]
) -> None:
    for name, work in list(running.items()):
        if work.process.is_alive():
            continue
        work.process.join()
        del running[name]
        seconds = time.monotonic() - work.start
        if (work.unit.directory / DONE).exists():
            outcome.done.append(name)
            say(f"{name}: done in {seconds:.0f} s")
        else:
            outcome.failed[name] = _reason(work)
            say(f"{name}: failed after {seconds:.0f} s: {outcome.failed[name]}")


def _say_progress(
    running: Mapping[str, _Running], say: Callable[[str], object]
) -> None:
    """Repeat the newest line of each running unit's log, if it has one."""
    for name, work in running.items():
        log = work.unit.directory / LOG
        if log.exists():
            text = log.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                say(f"{name}: {lines[-1][:LINE_WIDTH]}")


def _reason(work: _Running) -> str:
    """Return the error that ended the unit, or which signal killed it."""
    code = work.process.exitcode or 0
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    error = work.unit.directory / ERROR
    said = error.read_text(encoding="utf-8") if error.exists() else f"exit code {code}"
    return f"{said} (see {work.unit.directory / LOG})"


def _block(waiting: list[Unit], outcome: Outcome, say: Callable[[str], object]) -> None:
    lost = {*outcome.failed, *outcome.blocked}
    for unit in list(waiting):
        missing = [need for need in unit.needs if need in lost]
        if missing:
            waiting.remove(unit)
            outcome.blocked[unit.name] = missing[0]
            say(f"{unit.name}: not started, because {missing[0]} failed")


def _stop(running: Mapping[str, _Running]) -> None:
    """Interrupt what still runs, and kill what has not ended after a while."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        alive = [work.process for work in running.values() if work.process.is_alive()]
        for process in alive:
            if process.pid is not None:
                os.kill(process.pid, stop)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in alive:
            process.join(max(0.0, deadline - time.monotonic()))


class _TerminationsInterrupt:
    """Turns SIGTERM into KeyboardInterrupt while it is entered, in a main thread."""

    def __enter__(self) -> None:
        self.before: Any = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *exception: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG004
        raise KeyboardInterrupt


# The worker's side


def _work(unit: Unit, threads: int) -> None:
    """Run a unit in this process, everything it says going to its log."""
    (unit.directory / ERROR).unlink(missing_ok=True)
    signal.signal(signal.SIGINT, _interrupt_once)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with (unit.directory / LOG).open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    import torch

    torch.set_num_threads(threads)
    start = time.time()
    try:
        unit.run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        traceback.print_exc()
        (unit.directory / ERROR).write_text(
            f"{type(error).__name__}: {error}", encoding="utf-8"
        )
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with (unit.directory / SESSIONS).open("a", encoding="utf-8") as file:
            file.write(f"{time.time() - start:.3f}\n")
    _write_done(unit)


def _write_done(unit: Unit) -> None:
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
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(unit.directory / DONE, lambda file: file.write(text.encode()))


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
