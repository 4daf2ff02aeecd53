"""Training a world model on episodes that are already there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffplan._checks import require_count, require_share
from diffplan.errors import ArgumentError, FileError
from diffplan.models.base import SequenceBatch, WorldModel
from diffplan.training.model_trainer import (
    ModelTrainer,
    OptimizerConfig,
    hold_then_decay,
)
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.run import run_rounds
from diffplan.training.seeding import make_generator
from diffplan.training.timer import Timers


@dataclass(frozen=True)
class OfflineConfig:
    """Settings of offline training.

    Attributes:
        updates: Gradient steps in all.
        batch_size: Windows per update.
        sequence_length: Actions per window.
        initial_fraction: Share of windows that start at a reset, see
            `ReplayBuffer.sample`.
        skip_short: Whether episodes shorter than a window are left out.
        hold: Share of the updates with the full learning rate.
        final: Its factor at the last update, reached linearly.
        updates_per_round: Between two rows of metrics.
        checkpoint_every: Rounds between two checkpoints.
        validation_batches: Drawn once from the validation episodes, if there are any.
        optimizer: Of the model.
    """

    updates: int
    batch_size: int = 50
    sequence_length: int = 50
    initial_fraction: float = 0.0
    skip_short: bool = False
    hold: float = 0.6
    final: float = 0.02
    updates_per_round: int = 100
    checkpoint_every: int = 5
    validation_batches: int = 4
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "sequence_length", "updates_per_round"):
            require_count(name, getattr(self, name))
        require_count("checkpoint_every", self.checkpoint_every)
        require_count("validation_batches", self.validation_batches)
        require_share("initial_fraction", self.initial_fraction)

    @property
    def rounds(self) -> int:
        """Number of rounds; the last may be shorter."""
        return -(-self.updates // self.updates_per_round)


class OfflineTrainer:
    """Fits a model to a buffer; killed and started again, it goes on bit for bit.

    Args:
        model: Trained in place, on its device.
        buffer: The training episodes.
        config: The settings.
        seed: Of sampling and of the model's noise.
        directory: Receives `run.json`, `metrics.csv` and checkpoints.
        validation: Episodes of their own, on which the loss is measured each round.

    Example:
        >>> trainer = OfflineTrainer(
        ...     model, buffer, OfflineConfig(updates=1000), seed=0, directory="run"
        ... )  # doctest: +SKIP
        >>> trainer.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: WorldModel,
        buffer: ReplayBuffer,
        config: OfflineConfig,
        *,
        seed: int,
        directory: Path | str,
        validation: ReplayBuffer | None = None,
    ) -> None:
        if len(buffer) == 0:
            raise ArgumentError("buffer: expected at least one episode, got none")
        self.model, self.buffer, self.config = model, buffer, config
        self.seed, self.directory, self.validation = seed, Path(directory), validation
        schedule = hold_then_decay(config.updates, config.hold, config.final)
        self.trainer = ModelTrainer(model, config.optimizer, schedule)
        self._sampling = make_generator(seed, "sampling")
        self._noise = make_generator(seed, "model noise", device=self.trainer.device)
        self._timers = Timers()

    def run(self, *, tensorboard: bool = True, quiet: bool = False) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        run_rounds(
            self,
            self.directory,
            config=self.config,
            seed=self.seed,
            rounds=self.config.rounds,
            checkpoint_every=self.config.checkpoint_every,
            tensorboard=tensorboard,
            quiet=quiet,
        )

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Make the updates of one round."""
        before = index * self.config.updates_per_round
        updates = min(self.config.updates_per_round, self.config.updates - before)
        with self._timers("training"):
            means = self.trainer.train(
                updates, partial(self._draw, self.buffer, self._sampling), self._noise
            )
        metrics = {f"train/{name}": value for name, value in means.items()}
        if self.validation is not None:
            with self._timers("validation"):
                metrics |= self._validate(self.validation)
        metrics |= self._timers.collect()
        metrics["time/updates_per_second"] = updates / metrics["time/seconds"]
        return before + updates, metrics

    def state_dict(self) -> dict[str, Any]:
        """Return model, optimiser and all random states."""
        return {
            "trainer": self.trainer.state_dict(),
            "sampling": self._sampling.get_state(),
            "noise": self._noise.get_state(),
            "episodes": self.buffer.checksum,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            FileError: training had begun on the episodes of another folder.
        """
        if state["episodes"] != self.buffer.checksum:
            raise FileError(
                f"buffer: expected the episodes that this run began with, those in "
                f"{self.buffer.directory} are others; put them back, or choose another "
                "folder for the run"
            )
        self.trainer.load_state_dict(state["trainer"])
        self._sampling.set_state(state["sampling"])
        self._noise.set_state(state["noise"])

    def _draw(self, buffer: ReplayBuffer, generator: torch.Generator) -> SequenceBatch:
        return buffer.sample(
            self.config.batch_size,
            self.config.sequence_length,
            generator,
            initial_fraction=self.config.initial_fraction,
            skip_short=self.config.skip_short,
        )

    @torch.no_grad()
    def _validate(self, buffer: ReplayBuffer) -> dict[str, float]:
        """Return mean metrics of the same windows with the same noise, every time."""
        sampling = make_generator(self.seed, "validation")
        device = self.trainer.device
        noise = make_generator(self.seed, "validation noise", device=device)
        sums: dict[str, float] = {}
        for _ in range(self.config.validation_batches):
            batch = self._draw(buffer, sampling).to(device)
            for name, value in self.model.loss(batch, noise).metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        count = self.config.validation_batches
        return {f"validation/{name}": total / count for name, total in sums.items()}
