"""One episode: a record of arrays, and its file."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.errors import ArgumentError, NonFiniteError, ShapeError
from diffplan.training.files import write_atomically


@dataclass(frozen=True)
class Episode:
    """What happened from one reset to the end of the episode, T actions.

    Attributes:
        observations: `[T + 1, …]`, uint8 images or float32 vectors.
        actions: float32 `[T, A]`; `actions[t]` follows `observations[t]`.
        rewards: float32 `[T]`; `rewards[t]` arrives with `observations[t + 1]`.
        success: float32 `[T]`, positive where the task is fulfilled; or None.
        initial_info: Numbers that the environment told at the reset.

    Raises:
        ShapeError: the lengths do not fit, or there is no action.
        NonFiniteError: NaN or infinity; names the array.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray | None = None
    initial_info: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        length = len(self.actions)
        if length == 0 or self.actions.ndim != 2:
            raise ShapeError(
                f"actions: expected [T, A] with T ≥ 1, got {list(self.actions.shape)}"
            )
        lengths = {"observations": length + 1, "rewards": length, "success": length}
        for name in ("observations", "actions", "rewards", "success"):
            values = getattr(self, name)
            if values is None:
                continue
            wanted = lengths.get(name, length)
            if len(values) != wanted:
                raise ShapeError(
                    f"{name}: expected length {wanted} for {length} actions, got "
                    f"{len(values)}"
                )
            if values.dtype != np.uint8:
                values = np.asarray(values, np.float32)
                object.__setattr__(self, name, values)
                if not np.isfinite(values).all():
                    step = int(np.argwhere(~np.isfinite(values))[0, 0])
                    raise NonFiniteError(
                        f"{name}: expected finite numbers, got NaN or infinity at "
                        f"step {step} of {length}"
                    )

    @property
    def length(self) -> int:
        """Number of actions T."""
        return len(self.actions)

    @property
    def episode_return(self) -> float:
        """Sum of rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def succeeded(self) -> bool | None:
        """Whether any step succeeded; None where the task knows no success."""
        return None if self.success is None else bool((self.success > 0).any())


def save_episode(episode: Episode, path: Path) -> None:
    """Write an episode as `.npz`, atomically."""
    arrays: dict[str, Any] = {
        item.name: getattr(episode, item.name)
        for item in fields(Episode)
        if item.name != "initial_info" and getattr(episode, item.name) is not None
    }
    for key, value in episode.initial_info.items():
        arrays[f"info_{key}"] = np.float64(value)
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_episode(path: Path) -> Episode:
    """Read an episode that `save_episode` wrote.

    Raises:
        ArgumentError: the file is missing, damaged or holds something else.
    """
    try:
        # Opened here, since `np.load` leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
        info = {
            key.removeprefix("info_"): float(arrays.pop(key))
            for key in list(arrays)
            if key.startswith("info_")
        }
        return Episode(**arrays, initial_info=info)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ArgumentError(
            f"path: expected an episode, cannot read {path}: {error}"
        ) from error
