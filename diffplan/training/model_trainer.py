"""One gradient step on a world model, shared by online and offline training."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffplan._checks import require_count, require_positive
from diffplan._kinds import OrInfinite
from diffplan.errors import ArgumentError, NonFiniteError
from diffplan.models.base import SequenceBatch, WorldModel

_Schedule = Callable[[int], float]
"""`update → factor` of the learning rate; update 0 is the first."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How a world model is fitted; the defaults are LatCo's released settings.

    Attributes:
        learning_rate: Of Adam.
        epsilon: Of Adam. TensorFlow's 1e-7 in LatCo; PlaNet uses 1e-4.
        gradient_clip: Largest Euclidean norm of all gradients together.
        precision: Of the forward pass on a GPU: "float32", "tf32" (matrix products
            in TensorFloat-32) or "bfloat16" (autocast; also on a CPU).
        compile: Whether to `torch.compile` the loss.
    """

    learning_rate: float = 6e-4
    epsilon: float = 1e-7
    gradient_clip: OrInfinite = 100.0
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        require_positive("learning_rate", self.learning_rate)
        require_positive("epsilon", self.epsilon)
        require_positive("gradient_clip", self.gradient_clip)


def constant(update: int) -> float:  # noqa: ARG001
    """Return 1: the learning rate does not change."""
    return 1.0


def hold_then_decay(updates: int, hold: float = 0.6, final: float = 0.02) -> _Schedule:
    """Return a schedule: constant, then linear down to `final` at the last update.

    Args:
        updates: Length of the training, at least 1.
        hold: Share of it that is constant, 0 … 1.
        final: Factor at the end, 0 … 1.

    Example:
        >>> schedule = hold_then_decay(101, hold=0.5, final=0.0)
        >>> schedule(0), schedule(75), schedule(100)
        (1.0, 0.5, 0.0)
    """
    if updates < 1 or not 0 <= hold <= 1 or not 0 <= final <= 1:
        raise ArgumentError(
            "hold_then_decay: expected updates ≥ 1 and hold, final in 0 … 1, got "
            f"{updates}, {hold} and {final}"
        )
    last = updates - 1
    begin = hold * last

    def factor(update: int) -> float:
        if update <= begin or last <= begin:
            return 1.0
        progress = min(1.0, (update - begin) / (last - begin))
        return 1.0 + progress * (final - 1.0)

    return factor


class ModelTrainer:
    """Descends `WorldModel.loss`, by Adam or the model's own optimisers.

    Args:
        model: Trained in place; its device is where everything happens. Its
            `optimizers` make the step, its `after_update` moves target networks.
        config: The optimisers' settings.
        schedule: Factor of the learning rates at each update.

    Attributes:
        optimizers: By their place in a checkpoint: "optimizer", or "optimizer/name"
            for one that the model gave a name.

    Raises:
        ArgumentError: the model has no parameters, or one that asks for a gradient is
            not in exactly one of its optimisers.

    Example:
        >>> trainer = ModelTrainer(model, OptimizerConfig())  # doctest: +SKIP
        >>> metrics = trainer.train_step(batch, generator)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: WorldModel,
        config: OptimizerConfig,
        schedule: _Schedule = constant,
    ) -> None:
        self.model = model
        self.config = config
        self.schedule = schedule
        self.updates = 0
        if next(model.parameters(), None) is None:
            raise ArgumentError(
                f"model: expected parameters to train, {type(model).__name__} has none"
            )
        named = model.optimizers(config.learning_rate, config.epsilon)
        self.optimizers = {
            f"optimizer/{name}" if name else "optimizer": optimizer
            for name, optimizer in named.items()
        }
        _require_each_once(model, self.optimizers.values())
        # What the schedule's factor multiplies: rates may differ from group to group.
        self._rates = [group["lr"] for group in self._groups()]
        self._loss = torch.compile(model.loss) if config.compile else model.loss

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return next(self.model.parameters()).device

    def train_step(
        self, batch: SequenceBatch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Make one update.

        Args:
            batch: Moved to the model's device if it is elsewhere.
            generator: Of the model's noise.

        Returns:
            The model's metrics and `gradient_norm` (before clipping; of optimisers with
            names `gradient_norm/name`), scalars on the model's device: reading one
            waits for the GPU, so gather first.
        """
        factor = self.schedule(self.updates)
        for group, rate in zip(self._groups(), self._rates, strict=True):
            group["lr"] = rate * factor
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with _matmul_precision(self.config.precision):
            # Autocast belongs around the forward pass only.
            with torch.autocast(
                self.device.type,
                dtype=torch.bfloat16,
                enabled=self.config.precision == "bfloat16",
            ):
                record = self._loss(batch.to(self.device), generator)
            record.total.backward()
        metrics = dict(record.metrics)
        for key, optimizer in self.optimizers.items():
            parameters = [
                p for group in optimizer.param_groups for p in group["params"]
            ]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
            metrics[key.replace("optimizer", "gradient_norm", 1)] = norm.detach()
            optimizer.step()
        self.model.after_update()
        self.updates += 1
        return metrics

    def train(
        self,
        updates: int,
        draw: Callable[[], SequenceBatch],
        generator: torch.Generator,
        then: Callable[[SequenceBatch], Mapping[str, Tensor]] | None = None,
    ) -> dict[str, float]:
        """Make several updates; return the mean of each metric.

        Args:
            updates: How many, at least 1.
            draw: Gives a batch at each call.
            generator: Of the model's noise.
            then: Called with each batch after the model's update; its metrics join
                those of the model.

        Raises:
            ArgumentError: `updates` is no whole number of at least 1.
            NonFiniteError: a metric became NaN or infinite.
        """
        updates = require_count("updates", updates)
        sums: dict[str, Tensor] = {}
        for _ in range(updates):
            batch = draw()
            metrics = self.train_step(batch, generator)
            if then is not None:
                metrics |= then(batch)
            for name, value in metrics.items():
                sums[name] = sums[name] + value if name in sums else value.double()
        means = {name: float(total) / updates for name, total in sums.items()}
        _require_finite(means, self.updates)
        return {**means, "learning_rate": float(self._groups()[0]["lr"])}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: model, optimisers, number of updates."""
        optimizers = {key: each.state_dict() for key, each in self.optimizers.items()}
        model = self.model.state_dict()
        return {"model": model, **optimizers, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        for key, optimizer in self.optimizers.items():
            # Adam would go on in the very tensors that it is given.
            optimizer.load_state_dict(deepcopy(state[key]))
        self.updates = state["updates"]

    def _groups(self) -> list[dict[str, Any]]:
        """Return all parameter groups; loading a state puts others in their place."""
        return [g for each in self.optimizers.values() for g in each.param_groups]


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Allow TensorFloat-32 inside, if asked for; the global setting is put back."""
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _require_each_once(
    model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> None:
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    times = Counter(id(parameter) for group in groups for parameter in group["params"])
    trained = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    wrong = [f"{name} in {times[id(p)]}" for name, p in trained if times[id(p)] != 1]
    if wrong:
        raise ArgumentError(
            "model.optimizers: expected each parameter that asks for a gradient in "
            f"exactly one optimiser, got {', '.join(wrong)}"
        )


def _require_finite(means: Mapping[str, float], update: int) -> None:
    bad = [name for name, value in means.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteError(
            f"training: expected finite metrics, got NaN or infinity in "
            f"{', '.join(bad)} before update {update}: look at the data, or start "
            "again in another folder with a lower learning_rate; a run goes on with "
            "its own settings only"
        )
