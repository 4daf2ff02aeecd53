"""The loop of all trainings here: update, evaluate now and then, save, resume."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, require_at_least
from diffplan.files import write_atomically
from reproductions.common.tables import write_csv
from reproductions.dcem.ensemble import EnsembleAdam, OptimizerSettings

CHECKPOINT, METRICS = "checkpoint.pt", "metrics.csv"


class EnsembleTraining(ABC):
    """An ensemble in training, one member per seed.

    `best` `[M, P]` holds each member's parameters of its lowest validation error.

    A subclass defines `gradient`, what an update follows, and `errors`, what is
    validated; each member draws from its own generator in both.

    Args:
        seeds: One member each.
        parameters: `[M, P]`, the first ones.
        generators: One per member, as they are after the parameters were drawn.
        optimizer: Its settings.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        parameters: Tensor,
        generators: Sequence[torch.Generator],
        optimizer: OptimizerSettings,
    ) -> None:
        self.seeds, self.generators = tuple(seeds), list(generators)
        self.parameters = parameters.requires_grad_()
        self.optimizer = EnsembleAdam(self.parameters, optimizer)
        self.best = self.parameters.detach().clone()
        self.lowest = [float("inf")] * len(self.seeds)
        self.rows: list[dict[str, object]] = []
        self.cpu_seconds = 0.0

    @abstractmethod
    def gradient(self) -> Tensor:
        """Return the gradient `[M, P]` of each member's loss."""

    @abstractmethod
    def errors(self) -> list[float]:
        """Return what validation says about each member; smaller is better."""

    @property
    def update(self) -> int:
        """How many updates are done."""
        return self.optimizer.steps

    def step(self) -> None:
        """One update of every member."""
        self.optimizer.step(self.gradient())

    @torch.no_grad()
    def evaluate(self) -> None:
        """Validate; note the result, keep the best and let learning rates follow."""
        errors = self.errors()
        self.optimizer.observe(errors)
        for index, seed in enumerate(self.seeds):
            if errors[index] < self.lowest[index]:
                self.lowest[index] = errors[index]
                self.best[index] = self.parameters[index]
            self.rows.append(
                {
                    "update": self.update,
                    "seed": seed,
                    "error": errors[index],
                    "learning_rate": self.optimizer.learning_rate[index],
                    "cpu_seconds": round(self.cpu_seconds, 3),
                }
            )

    def run(
        self, directory: Path, updates: int, evaluate_every: int, checkpoint_every: int
    ) -> None:
        """Train up to a number of updates; resumes from the folder's checkpoint.

        Writes `checkpoint.pt` and `metrics.csv`.

        Args:
            directory: Of the run.
            updates: How many in all.
            evaluate_every: Updates between validations.
            checkpoint_every: Updates between checkpoints, a multiple of the above.
        """
        checkpoint = directory / CHECKPOINT
        if checkpoint.exists():
            self.load(checkpoint)
        start = time.process_time() - self.cpu_seconds
        while self.update < updates:
            self.step()
            self.cpu_seconds = time.process_time() - start
            if self.update % evaluate_every == 0:
                self.evaluate()
            if self.update == updates or self.update % checkpoint_every == 0:
                self.save(checkpoint)
                write_csv(directory / METRICS, self.rows)
                self._say_progress()

    def save(self, path: Path) -> None:
        """Write a checkpoint from which training goes on exactly."""
        content = {
            "optimizer": self.optimizer.state_dict(),
            "generators": [g.get_state() for g in self.generators],
            "best": self.best,
            "lowest": self.lowest,
            "rows": self.rows,
            "cpu_seconds": self.cpu_seconds,
        }
        write_atomically(path, lambda file: torch.save(content, file))

    def load(self, path: Path) -> None:
        """Go back to a checkpoint of the same seeds and settings."""
        content: dict[str, Any] = torch.load(path, weights_only=True)
        self.optimizer.load_state_dict(content["optimizer"])
        pairs = zip(self.generators, content["generators"], strict=True)
        for generator, state in pairs:
            generator.set_state(state)
        self.best, self.lowest = content["best"], list(content["lowest"])
        self.rows, self.cpu_seconds = content["rows"], content["cpu_seconds"]

    def _say_progress(self) -> None:
        newest = self.rows[-len(self.seeds) :]
        errors = ", ".join(f"{row['error']:.4g}" for row in newest)
        print(
            f"update {self.update}: {errors}, {self.cpu_seconds:.0f} s of CPU",
            flush=True,
        )


def trained_parameters(path: Path) -> Tensor:
    """Return the newest parameters `[M, P]` of a checkpoint."""
    content = torch.load(path, weights_only=True)
    parameters: Tensor = content["optimizer"]["parameters"]
    return parameters


def require_schedule(updates: int, evaluate_every: int, checkpoint_every: int) -> None:
    """Raise unless training ends with an evaluation and checkpoints follow one.

    Raises:
        ArgumentError: names the number that does not fit.
    """
    require_at_least("evaluate_every", evaluate_every, 1)
    for name, value in (("updates", updates), ("checkpoint_every", checkpoint_every)):
        require_at_least(name, value, 1)
        if value % evaluate_every:
            raise ArgumentError(
                f"{name}: expected a multiple of evaluate_every ({evaluate_every}), "
                f"got {value}"
            )
