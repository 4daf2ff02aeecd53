"""The one reader of `metrics.csv`: what a run measured in each of its rounds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffplan.training.logging import read_metrics


@dataclass(frozen=True)
class Rounds:
    """The metrics of a run, as far as it is.

    Attributes:
        steps: Environment steps, or updates, after each round.
        metrics: By name, for each round.
    """

    steps: list[int]
    metrics: list[dict[str, float]]

    @classmethod
    def read(cls, directory: Path) -> "Rounds":
        """Read the `metrics.csv` of a run's folder; without one there is no round."""
        path = directory / "metrics.csv"
        steps: dict[str, int] = {}
        metrics: dict[str, dict[str, float]] = {}
        for row in read_metrics(path) if path.exists() else ():
            steps[row["round"]] = int(row["environment_step"])
            metrics.setdefault(row["round"], {})[row["name"]] = float(row["value"])
        return cls(list(steps.values()), list(metrics.values()))

    def members(self, name: str) -> dict[str, list[float]]:
        """Return the values of `name/<member>` in all rounds, by member."""
        found: dict[str, list[float]] = {}
        for metrics in self.metrics:
            for key, value in metrics.items():
                head, _, member = key.partition("/")
                if head == name:
                    found.setdefault(member, []).append(value)
        return found

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of a metric, in the rounds that have it."""
        found = [
            (step, values[name])
            for step, values in zip(self.steps, self.metrics, strict=True)
            if name in values
        ]
        return np.array([s for s, _ in found]), np.array([v for _, v in found])
