"""Where the time of a run goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timers:
    """Seconds spent on named activities since the last `collect`.

    Example:
        >>> timers = Timers()
        >>> with timers("planning"):
        ...     pass
        >>> sorted(timers.collect())
        ['time/planning_seconds', 'time/planning_share', 'time/seconds']
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside towards `name`.

        Work on a GPU is only counted here if something inside waits for its result.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def seconds(self, name: str) -> float:
        """Return the seconds spent on `name` so far."""
        return self._seconds.get(name, 0.0)

    def collect(self) -> dict[str, float]:
        """Return seconds and shares as metrics `time/…`, and start again at zero."""
        now = time.perf_counter()
        total = now - self._start
        metrics = {"time/seconds": total}
        for name, spent in self._seconds.items():
            metrics[f"time/{name}_seconds"] = spent
            metrics[f"time/{name}_share"] = spent / total if total > 0 else 0.0
        self._start, self._seconds = now, {}
        return metrics
