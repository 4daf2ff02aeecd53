"""One episode: a record of arrays, and its file."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffplan._checks import is_number
from diffplan._files import open_archive, read_sealed, reading, seal, write_atomically
from diffplan.errors import NonFiniteError, ShapeError, TensorTypeError

_KIND = "diffplan.episode/2"
# Version 1 did not tell whether an episode was terminated.
_OLDER = ("diffplan.episode/1",)
_EXPECTED = "an episode of diffplan.training"
_ARRAYS = ("observations", "actions", "rewards", "success")
_INFO, _PREVIOUS, _TERMINATED = "info_", "previous", "terminated"


@dataclass(frozen=True)
class Episode:
    """What happened from one reset to the end of the episode, T actions.

    The arrays are copies: an environment may go on using its own.

    Attributes:
        observations: `[T + 1, …]`, uint8 images or float32 vectors.
        actions: float32 `[T, A]`; `actions[t]` follows `observations[t]`.
        rewards: float32 `[T]`; `rewards[t]` arrives with `observations[t + 1]`.
        success: float32 `[T]`, positive where the task is fulfilled; or None.
        initial_info: Numbers that the environment told at the reset.
        terminated: Whether the task itself ended the episode, with its last action, so
            that nothing can follow; False where the episode was only cut short (what
            Gymnasium calls truncated).

    Raises:
        TensorTypeError: something is no array of real numbers, or `terminated` no bool.
        ShapeError: the lengths do not fit, or there is no action.
        NonFiniteError: NaN or infinity; names the array.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray | None = None
    initial_info: Mapping[str, float] = field(default_factory=dict)
    terminated: bool = False

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            values = getattr(self, name)
            if name != "success" or values is not None:
                images = name == "observations"
                object.__setattr__(self, name, _copy(name, values, images=images))
        info = dict(self.initial_info)
        for key, value in info.items():
            if not isinstance(value, bool | np.bool_) and not is_number(value):
                raise TensorTypeError(
                    f"initial_info: expected one number as {key!r}, got "
                    f"{type(value).__name__}"
                )
            info[key] = float(value)
        object.__setattr__(self, "initial_info", info)
        if not isinstance(self.terminated, bool | np.bool_):
            raise TensorTypeError(
                f"terminated: expected a bool, got {type(self.terminated).__name__}"
            )
        object.__setattr__(self, "terminated", bool(self.terminated))
        if self.actions.ndim != 2 or len(self.actions) == 0:
            raise ShapeError(
                f"actions: expected [T, A] with T ≥ 1, got {list(self.actions.shape)}"
            )
        self._check("observations", self.length + 1)
        self._check("actions", self.length)
        self._check("rewards", self.length)
        self._check("success", self.length)

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
        """Return whether any step succeeded; None where the task knows no success."""
        return None if self.success is None else bool((self.success > 0).any())

    def _check(self, name: str, length: int) -> None:
        values: np.ndarray | None = getattr(self, name)
        if values is None:
            return
        per_step = name in ("observations", "actions")
        if values.ndim == 0 or len(values) != length:
            got = len(values) if values.ndim else "a single number"
            raise ShapeError(
                f"{name}: expected length {length} for {self.length} actions, got {got}"
            )
        if (values.ndim > 1) != per_step:
            wanted = f"[{length}, …]" if per_step else f"[{length}]"
            raise ShapeError(f"{name}: expected {wanted}, got {list(values.shape)}")
        if values.dtype != np.uint8 and not np.isfinite(values).all():
            step = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise NonFiniteError(
                f"{name}: expected finite numbers, got NaN or infinity at "
                f"step {step} of {self.length}"
            )


def save_episode(episode: Episode, path: Path, *, previous: str = "") -> str:
    """Write an episode as `.npz`, sealed and atomically.

    Args:
        episode: What is written.
        path: Where.
        previous: The checksum of the episode that it follows in its folder.

    Returns:
        Its checksum, which vouches for those before it as well.
    """
    arrays: dict[str, Any] = {
        name: getattr(episode, name)
        for name in _ARRAYS
        if getattr(episode, name) is not None
    }
    for key, value in episode.initial_info.items():
        arrays[f"{_INFO}{key}"] = np.float64(value)
    arrays[_TERMINATED] = np.bool_(episode.terminated)
    if previous:
        arrays[_PREVIOUS] = np.frombuffer(bytes.fromhex(previous), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data, checksum = seal(buffer.getvalue(), _KIND)
    write_atomically(path, lambda file: file.write(data))
    return checksum


def load_episode(path: Path) -> Episode:
    """Read an episode that `save_episode` wrote.

    One that an older version wrote counts as not terminated: it did not tell.

    Raises:
        FileError: the file is missing, damaged or holds something else.
    """
    return _load_linked_episode(path)[0]


def _load_linked_episode(path: Path) -> tuple[Episode, str, str]:
    """Read an episode, its checksum and that of the episode which it follows.

    Raises:
        FileError: see `load_episode`.
    """
    content, checksum = read_sealed(path, _KIND, _EXPECTED, _OLDER)
    with reading(path, _EXPECTED):
        arrays = _read_arrays(content)
        previous = arrays.pop(_PREVIOUS, np.zeros(0, np.uint8)).tobytes().hex()
        info = {
            key.removeprefix(_INFO): float(arrays.pop(key))
            for key in list(arrays)
            if key.startswith(_INFO)
        }
        terminated = bool(arrays.pop(_TERMINATED, False))
        episode = Episode(**arrays, initial_info=info, terminated=terminated)
        return episode, checksum, previous


def _copy(name: str, values: Any, *, images: bool) -> np.ndarray:
    """Return a copy in float32; images may stay uint8."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TensorTypeError(
            f"{name}: expected an array of numbers, got {type(values).__name__}: "
            f"{error}"
        ) from error
    if array.dtype.kind not in "buif":
        raise TensorTypeError(
            f"{name}: expected an array of real numbers, got {type(values).__name__} "
            f"of {array.dtype}"
        )
    dtype = np.uint8 if images and array.dtype == np.uint8 else np.float32
    # A number that float32 cannot hold becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return np.array(array, dtype, order="C")


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz`, as views of it.

    `numpy.load` would make room for what a header claims before it looks whether the
    numbers are there.
    """
    arrays = {}
    with open_archive(content) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            file = io.BytesIO(data)
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{name} is an array of version {version}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            numbers = np.frombuffer(data, dtype, math.prod(shape), file.tell())
            order: Literal["F", "C"] = "F" if fortran else "C"
            arrays[name.removesuffix(".npy")] = numbers.reshape(shape, order=order)
    return arrays
