"""Environments in worker processes, and what becomes of them when something fails.

A worker is spawned, not forked: a copied GL context or thread pool hangs. It answers
one call at a time. Whoever does not read an answer must end the worker, or the next
call would be given it.
"""

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, NoReturn

import numpy as np

from diffplan.envs._members import Factory, Members, Method, Spaces
from diffplan.errors import ArgumentError, DiffplanError, WorkerError

BUILDING_SECONDS = 60.0
"""Least time that a worker has to import and build; steps may be given less."""

CLOSING_SECONDS = 5.0
BUSY_SECONDS = 1.0
"""Time to close the environments before a worker is killed; less for one that is still
at a call, since it may never come back from it."""


class Workers:
    """Processes that share the environments evenly.

    Args:
        factories: One picklable callable per environment.
        num_workers: Processes; no more than environments are started.
        timeout: Seconds to wait for the answers to a call; None waits for ever.

    Raises:
        ArgumentError: a factory cannot be pickled.
        WorkerError: an environment could not be built.
    """

    def __init__(
        self, factories: Sequence[Factory], num_workers: int, timeout: float | None
    ) -> None:
        self._timeout = timeout
        self._workers: list[_Worker] = []
        parts = np.array_split(np.arange(len(factories)), num_workers)
        longer = None if timeout is None else max(timeout, BUILDING_SECONDS)
        try:
            for part in parts:
                if part.size:
                    numbers = range(int(part[0]), int(part[-1]) + 1)
                    place = f"worker {len(self._workers)}"
                    self._workers.append(_Worker(factories, numbers, place))
            replies = self._replies(dict(enumerate(self._workers)), longer)
        except BaseException:
            self.close(after_failure=True)
            raise
        self._spaces = [pair for i in sorted(replies) for pair in replies[i]]

    def spaces(self) -> list[Spaces]:
        """Return the spaces of each environment."""
        return self._spaces

    def call(self, method: Method, calls: Mapping[int, Any]) -> dict[int, Any]:
        """Call a method of some environments, see `Members.call`.

        Raises:
            DiffplanError: what an environment of ours raised, from a `WorkerError`.
            WorkerError: any other exception of an environment, with its type and
                traceback; a worker that ended; no answer in time. Whatever it was, the
                workers have to be closed.
        """
        asked: dict[int, _Worker] = {}
        for index, worker in enumerate(self._workers):
            mine = {number: calls[number] for number in worker.numbers & calls.keys()}
            if mine:
                worker.send((method, mine))
                asked[index] = worker
        answers: dict[int, Any] = {}
        for reply in self._replies(asked, self._timeout).values():
            answers |= reply
        return answers

    def close(self, after_failure: bool = False) -> None:
        """End all workers, by force where they do not end by themselves."""
        del after_failure  # What a worker raises while it closes stays there.
        try:
            for worker in self._workers:
                worker.hang_up()
            start = time.monotonic()
            for worker in self._workers:
                seconds = BUSY_SECONDS if worker.busy else CLOSING_SECONDS
                worker.join(start + seconds)
        finally:
            for worker in self._workers:
                worker.kill()

    @staticmethod
    def _replies(
        asked: Mapping[int, "_Worker"], timeout: float | None
    ) -> dict[int, Any]:
        """Return what each of the asked workers replies, whoever is first."""
        start = time.monotonic()
        pending, replies = dict(asked), {}
        while pending:
            left = None
            if timeout is not None:
                left = max(0.0, start + timeout - time.monotonic())
            waited = [thing for worker in pending.values() for thing in worker.signs]
            if not wait(waited, left):
                late = ", ".join(worker.name for worker in pending.values())
                raise WorkerError(
                    f"timeout: no answer from {late} within {timeout:g} seconds"
                )
            for index, worker in list(pending.items()):
                if worker.has_news():
                    replies[index] = worker.receive()
                    del pending[index]
        return replies


class _Failure(NamedTuple):
    """An exception on its way from a worker."""

    summary: str
    trace: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        pickled = None
        with suppress(Exception):
            pickled = pickle.dumps(error)
        summary = f"{type(error).__name__}: {error}"
        return cls(summary, traceback.format_exc(), pickled)

    def raise_from(self, worker: str) -> NoReturn:
        """Raise what the worker raised: one of our own errors, or a `WorkerError`."""
        original: Any = None
        with suppress(Exception):  # A class that cannot be built again from its args.
            original = pickle.loads(self.pickled or b"")
        error = WorkerError(f"{worker}: {self.summary}\n\n{self.trace}")
        if isinstance(original, DiffplanError):
            raise original from error
        raise error from original if isinstance(original, Exception) else None


class _Worker:
    """One worker process, as its parent sees it.

    Args:
        factories: Those of the whole batch.
        numbers: Of its own environments in the batch.
        place: Its name in messages.
    """

    def __init__(
        self, factories: Sequence[Factory], numbers: range, place: str
    ) -> None:
        self.numbers = set(numbers)
        last = f" to {numbers[-1]}" if len(numbers) > 1 else ""
        self.name = f"{place} (environment {numbers[0]}{last})"
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        mine = [factories[number] for number in numbers]
        self._process = context.Process(
            target=_serve, args=(theirs, mine, numbers[0]), daemon=True
        )
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._pipe.close()
            raise ArgumentError(
                "factories: expected callables that can be pickled, so that a worker "
                "can be given them (a function of a module, functools.partial; no "
                f"lambda), or num_workers=0; {error}"
            ) from error
        finally:
            theirs.close()
        self.signs = (self._pipe, self._process.sentinel)
        self._built, self.busy = False, True

    def send(self, message: Any) -> None:
        """Ask for something."""
        self.busy = True
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._ended() from error

    def has_news(self) -> bool:
        """Return whether it has answered or ended."""
        try:
            return self._pipe.poll() or not self._process.is_alive()
        except OSError:  # How Windows says that the pipe has ended.
            return True

    def receive(self) -> Any:
        """Return its answer, or raise what it failed with."""
        try:
            reply = self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            reply = None
        if reply is None:
            raise self._ended()
        self._built, self.busy = True, False
        if isinstance(reply, _Failure):
            reply.raise_from(self.name)
        return reply

    def hang_up(self) -> None:
        """Ask it to close its environments and end."""
        with suppress(OSError, ValueError):
            self._pipe.send(None)
        # A worker that still writes an answer fails at that, and ends.
        self._pipe.close()

    def join(self, deadline: float) -> None:
        """Wait until it has ended, at most until the deadline."""
        self._process.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End it for certain; allowed for one that has ended."""
        self._process.kill()
        self._process.join()

    def _ended(self) -> WorkerError:
        # Its exit code comes after the pipe's end, on a busy machine long after.
        self._process.join(timeout=CLOSING_SECONDS)
        code = self._process.exitcode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by the signal {signal.Signals(-code).name}"
        hint = ""
        if not self._built:
            hint = (
                "; in a script, what starts workers must stand below "
                'if __name__ == "__main__":'
            )
        return WorkerError(f"{self.name} was ended {how}{hint}")


def _serve(pipe: Connection, factories: list[Factory], first: int) -> None:
    """Build environments and answer calls until told to end, or left alone."""
    # Ctrl-C reaches every process of a terminal: the parent decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # The parent is gone.
        try:
            members = Members(factories, first)
            pipe.send(members.spaces())
        except Exception as error:
            pipe.send(_Failure.of(error))
            return
        try:
            while (message := pipe.recv()) is not None:
                try:
                    pipe.send(members.call(*message))
                except Exception as error:
                    pipe.send(_Failure.of(error))
        finally:
            members.close()
