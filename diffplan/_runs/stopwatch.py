"""Time and calls of one function, such as a planner or the drawing of images."""

import time
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Seconds and calls of what it watches, since it was made or collected.

    Args:
        size: What one call counts, by its result; None counts each call once.

    Attributes:
        wall: Wall-clock seconds.
        cpu: Processor seconds of this process, less disturbed by other programs.
        calls: How many calls, or what they count.
        first: The result of the first call.
    """

    def __init__(self, size: Callable[[Any], int] | None = None) -> None:
        self._size = size or _one
        self.wall = self.cpu = 0.0
        self.calls = 0
        self.first: Any = None

    def watch(self, module: torch.nn.Module) -> "Stopwatch":
        """Watch the calls of a module from now on; return this stopwatch."""
        start = [0.0, 0.0]

        def before(*_: Any) -> None:
            start[:] = _now()

        def after(module: Any, inputs: Any, result: Any) -> None:  # noqa: ARG001
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._add(start, result)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        return self

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted."""

        def measured(*arguments: Any, **keywords: Any) -> Any:
            start = _now()
            result = function(*arguments, **keywords)
            self._add(start, result)
            return result

        return measured

    def collect(self) -> tuple[float, int]:
        """Return wall-clock seconds and calls, and start again at zero."""
        found = self.wall, self.calls
        self.wall, self.cpu, self.calls = 0.0, 0.0, 0
        return found

    def _add(self, start: list[float], result: Any) -> None:
        wall, cpu = _now()
        self.wall, self.cpu = self.wall + wall - start[0], self.cpu + cpu - start[1]
        self.calls += self._size(result)
        if self.first is None:
            self.first = result


def planner_watch() -> Stopwatch:
    """Return a stopwatch that counts plans, and keeps what the first ones promise."""
    return Stopwatch(size=lambda plan: plan.cost.numel())


def _one(_: Any) -> int:
    return 1  # a function of this module, which workers are sent


def _now() -> list[float]:
    return [time.perf_counter(), time.process_time()]
