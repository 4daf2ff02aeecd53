"""Ensembles in training: a round is some updates, and a validation of every member."""

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
from diffplan.training._run_record import plain
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.run import run_rounds
from reproductions.dcem.ensemble import EnsembleAdam, OptimizerSettings


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
        updates_per_round: Between two validations.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        parameters: Tensor,
        generators: Sequence[torch.Generator],
        optimizer: OptimizerSettings,
        updates_per_round: int,
    ) -> None:
        self.seeds, self.generators = tuple(seeds), list(generators)
        self.parameters = parameters.requires_grad_()
        self.optimizer = EnsembleAdam(self.parameters, optimizer)
        self.best = self.parameters.detach().clone()
        self.lowest = [float("inf")] * len(self.seeds)
        self.updates_per_round, self.cpu_seconds = updates_per_round, 0.0

    @abstractmethod
    def gradient(self) -> Tensor:
        """Return the gradient `[M, P]` of each member's loss."""

    @abstractmethod
    def errors(self) -> list[float]:
        """Return what validation says about each member; smaller is better."""

    def step(self) -> None:
        """One update of every member."""
        self.optimizer.step(self.gradient())

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Validate; keep the best, let learning rates follow, and return metrics."""
        errors = self.errors()
        self.optimizer.observe(errors)
        metrics = {}
        for index, seed in enumerate(self.seeds):
            if errors[index] < self.lowest[index]:
                self.lowest[index] = errors[index]
                self.best[index] = self.parameters[index]
            metrics[f"error/{seed}"] = errors[index]
            metrics[f"learning_rate/{seed}"] = self.optimizer.learning_rate[index]
        return metrics

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Update until the next validation is due, and validate."""
        start = time.process_time() - self.cpu_seconds
        for _ in range(self.updates_per_round):
            self.step()
        metrics = self.evaluate()
        self.cpu_seconds = time.process_time() - start
        metrics["time/cpu_seconds"] = round(self.cpu_seconds, 3)
        return self.optimizer.steps, metrics

    def run(
        self, directory: Path, updates: int, checkpoint_every: int, settings: Any
    ) -> None:
        """Train up to a number of updates, from the folder's checkpoint if it has one.

        Args:
            directory: Of the run; receives what `run_rounds` writes.
            updates: How many in all.
            checkpoint_every: Updates between checkpoints.
            settings: Of the training, recorded and compared when it goes on.

        Raises:
            ArgumentError: the folder holds a run of other seeds or settings.
        """
        every = self.updates_per_round
        run_rounds(
            self,
            directory,
            config={**plain(settings), "seeds": list(self.seeds)},
            seed=self.seeds[0],
            rounds=updates // every,
            checkpoint_every=checkpoint_every // every,
            extensible=("updates",),
            tensorboard=False,
        )

    def load(self, directory: Path) -> None:
        """Go back to the newest checkpoint that `run` left in a folder.

        Raises:
            FileError: there is none, all are damaged, or it is of another training.
        """
        checkpoints = Checkpoints(directory / "checkpoints")
        found = checkpoints.load_latest()
        if found is None:
            raise FileError(f"directory: expected checkpoints, none in {directory}")
        with reading(checkpoints.directory, "a checkpoint of this training"):
            self.load_state_dict(found[1]["job"])

    def state_dict(self) -> dict[str, Any]:
        """Return all that training goes on with, exactly."""
        return {
            "seeds": list(self.seeds),
            "optimizer": self.optimizer.state_dict(),
            "generators": [g.get_state() for g in self.generators],
            "best": self.best,
            "lowest": self.lowest,
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
        self.cpu_seconds = state["cpu_seconds"]


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
