"""The loop of all trainings here: update, evaluate now and then, save, resume."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import require_at_least
from diffplan._files import reading
from diffplan.errors import ArgumentError, FileError
from diffplan.training.checkpoint import Checkpoints
from reproductions.common.tables import write_csv
from reproductions.dcem.ensemble import EnsembleAdam, OptimizerSettings

CHECKPOINTS, METRICS = "checkpoints", "metrics.csv"


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

        Writes `checkpoints/` and `metrics.csv`.

        Args:
            directory: Of the run.
            updates: How many in all.
            evaluate_every: Updates between validations.
            checkpoint_every: Updates between checkpoints, a multiple of the above.
        """
        checkpoints = Checkpoints(directory / CHECKPOINTS)
        if self._load_latest(checkpoints):
            # A kill may have come between a checkpoint and its metrics.
            write_csv(directory / METRICS, self.rows)
        start = time.process_time() - self.cpu_seconds
        while self.update < updates:
            self.step()
            self.cpu_seconds = time.process_time() - start
            if self.update % evaluate_every == 0:
                self.evaluate()
            if self.update == updates or self.update % checkpoint_every == 0:
                checkpoints.save(self.update, self.state_dict())
                write_csv(directory / METRICS, self.rows)
                self._say_progress()

    def load(self, directory: Path) -> None:
        """Go back to the newest checkpoint that `run` left in a folder.

        Raises:
            FileError: there is none, all are damaged, or it is of another training.
        """
        if not self._load_latest(Checkpoints(directory / CHECKPOINTS)):
            raise FileError(f"directory: expected checkpoints, none in {directory}")

    def state_dict(self) -> dict[str, Any]:
        """Return all that training goes on with, exactly."""
        return {
            "seeds": list(self.seeds),
            "optimizer": self.optimizer.state_dict(),
            "generators": [g.get_state() for g in self.generators],
            "best": self.best,
            "lowest": self.lowest,
            "rows": self.rows,
            "cpu_seconds": self.cpu_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned, of the same seeds and settings.

        Raises:
            ArgumentError: it is of other seeds.
        """
        if tuple(state["seeds"]) != self.seeds:
            raise ArgumentError(
                f"seeds: expected {list(self.seeds)}, got {state['seeds']}"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        pairs = zip(self.generators, state["generators"], strict=True)
        for generator, numbers in pairs:
            generator.set_state(numbers)
        self.best, self.lowest = state["best"], list(state["lowest"])
        self.rows, self.cpu_seconds = list(state["rows"]), state["cpu_seconds"]

    def _load_latest(self, checkpoints: Checkpoints) -> bool:
        """Return whether there was a checkpoint."""
        found = checkpoints.load_latest()
        if found is None:
            return False
        with reading(checkpoints.directory, "a checkpoint of this training"):
            self.load_state_dict(found[1])
        return True

    def _say_progress(self) -> None:
        newest = self.rows[-len(self.seeds) :]
        errors = ", ".join(f"{row['error']:.4g}" for row in newest)
        print(
            f"update {self.update}: {errors}, {self.cpu_seconds:.0f} s of CPU",
            flush=True,
        )


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
