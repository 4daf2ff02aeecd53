"""Several environments that step together, each with an episode of its own.

Gymnasium's vector environments reset all or nothing on a shared schedule and give every
copy a process of its own. Here each episode has its own seed, finished environments may
wait while others go on (masks), and a few worker processes share many copies.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffplan._checks import require_count, require_positive
from diffplan.envs._members import Factory, Members, Spaces
from diffplan.envs._workers import Workers
from diffplan.errors import ArgumentError, ShapeError

__all__ = [
    "VectorEnv",
    "VectorStep",
]


class VectorStep(NamedTuple):
    """What a step of B environments gives; rows of resting environments are stale.

    Attributes:
        observations: [B, …].
        rewards: float64 [B]; 0 for resting environments.
        terminated: bool [B].
        truncated: bool [B].
        infos: One dictionary per environment.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: list[dict[str, Any]]

    @property
    def done(self) -> np.ndarray:
        """Return whether each episode is over, bool [B]."""
        return self.terminated | self.truncated


class VectorEnv:
    """Steps B environments in one call, in this process or in a few workers.

    Nothing is reset by itself: a caller resets what has ended, with seeds of its own.

    Whatever goes wrong inside an environment or a worker, Ctrl-C included, closes all
    of them: no step is left half done, and no late answer can be taken for that of the
    next call. What a caller can be told beforehand (wrong shapes, an episode that is
    over) is refused and closes nothing.

    Args:
        factories: One callable per environment; picklable if there are workers.
        num_workers: Processes that share the environments evenly; 0 uses none. Images
            gain about 1.3 to 2 times from two processes on two cores.
        timeout: Seconds to wait for the workers' answers to one call (building: at
            least a minute); None waits for ever. Without workers there is none.

    Raises:
        ShapeError: the environments' spaces are not all the same arrays.
        WorkerError: an environment could not be built in its worker.

    Example:
        >>> envs = VectorEnv([lambda: make("metaworld/reach")] * 4)
        >>> observations, infos = envs.reset(seeds=[0, 1, 2, 3])
        >>> step = envs.step(np.zeros((4, 4)))
        >>> ended = step.done
        >>> observations, infos = envs.reset(seeds=[4, 5, 6, 7], mask=ended)
    """

    def __init__(
        self,
        factories: Sequence[Factory],
        num_workers: int = 0,
        timeout: float | None = 300.0,
    ) -> None:
        factories = list(factories)
        self.num_envs = require_count("len(factories)", len(factories))
        require_count("num_workers", num_workers, minimum=0)
        if timeout is not None:
            require_positive("timeout", timeout)
        self._closed = ""  # Why.
        self._backend: Members | Workers = (
            Workers(factories, num_workers, timeout)
            if num_workers
            else Members(factories)
        )
        try:
            spaces = _common_spaces(self._backend.spaces())
        except BaseException as error:
            self._fail(error)
            raise
        self.single_observation_space, self.single_action_space = spaces
        self._observations = np.zeros(
            (self.num_envs, *(self.single_observation_space.shape or ())),
            self.single_observation_space.dtype,
        )
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._running = np.zeros(self.num_envs, bool)

    def reset(
        self, seeds: Sequence[int], mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Begin episodes.

        Args:
            seeds: One per environment, [B]; those outside the mask are not used.
            mask: bool [B], which environments to reset; None resets all.

        Returns:
            Observations [B, …] and infos; rows outside the mask are as they were.

        Raises:
            ArgumentError: seeds or mask do not fit, or the environments are closed.
            Exception: what an environment raises (from a worker: as `WorkerError`,
                unless it is one of ours); all are closed then.
        """
        chosen = self._mask(mask)
        if len(seeds) != self.num_envs:
            raise ArgumentError(
                f"seeds: expected one per environment ({self.num_envs}), "
                f"got {len(seeds)}"
            )
        used = {i: _whole(seeds[i]) for i in np.flatnonzero(chosen).tolist()}
        self._call("reset", used)
        return self._observations.copy(), list(self._infos)

    def step(self, actions: np.ndarray, mask: np.ndarray | None = None) -> VectorStep:
        """Step the environments of the mask; the others rest.

        Args:
            actions: float [B, A].
            mask: bool [B]; None steps all.

        Returns:
            A `VectorStep`.

        Raises:
            ArgumentError: actions or mask do not fit, an episode is over or has not
                begun, or the environments are closed.
            Exception: as `reset`.
        """
        chosen = self._mask(mask)
        values = self._actions(actions, chosen)
        resting = np.flatnonzero(chosen & ~self._running)
        if resting.size:
            raise ArgumentError(
                f"step: the episodes of environments {resting.tolist()} are over or "
                "have not begun; call reset first, or leave them out of the mask"
            )
        used = {i: values[i] for i in np.flatnonzero(chosen).tolist()}
        results = self._call("step", used)
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, bool)
        truncated = np.zeros(self.num_envs, bool)
        for index, (_, reward, over, out, _) in results.items():
            rewards[index], terminated[index], truncated[index] = reward, over, out
        return VectorStep(
            self._observations.copy(),
            rewards,
            terminated,
            truncated,
            list(self._infos),
        )

    def close(self) -> None:
        """Close every environment and end the workers; closing twice is allowed."""
        self._close("close was called")

    def __enter__(self) -> "VectorEnv":
        """Return itself; `with` closes it."""
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Close; an exception on its way stays the one to be seen."""
        self._close("their with block has ended", after_failure=kind is not None)

    def _close(self, why: str, after_failure: bool = False) -> None:
        if not self._closed:
            self._closed = why
            self._backend.close(after_failure)

    def _fail(self, error: BaseException) -> None:
        """Close after a failure: some environments may have stepped, others not."""
        why = f"a failure ended them ({type(error).__name__}), make new ones"
        self._close(why, after_failure=True)

    def _mask(self, mask: np.ndarray | None) -> np.ndarray:
        if self._closed:
            raise ArgumentError(f"the environments are closed: {self._closed}")
        if mask is None:
            return np.ones(self.num_envs, bool)
        values = np.asarray(mask)
        if values.shape != (self.num_envs,) or values.dtype != bool:
            raise ArgumentError(
                f"mask: expected bool [{self.num_envs}], got {values.dtype} "
                f"{list(values.shape)}"
            )
        return values

    def _actions(self, actions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return a copy of the actions: environments may keep what they are given."""
        values = np.array(actions)
        expected = (self.num_envs, *(self.single_action_space.shape or ()))
        if values.shape != expected or values.dtype.kind not in "biuf":
            raise ArgumentError(
                f"actions: expected numbers {list(expected)}, got {values.dtype} "
                f"{list(values.shape)}"
            )
        if not np.isfinite(values[chosen]).all():
            raise ArgumentError("actions: expected finite numbers, got NaN or infinity")
        return values

    def _call(self, method: str, calls: dict[int, Any]) -> dict[int, tuple[Any, ...]]:
        """Call `method` on some environments; keep observations and infos."""
        try:
            answers = self._backend.call(method, calls)
            for index, answer in answers.items():
                self._observations[index] = answer[0]
                self._infos[index] = answer[-1]
                self._running[index] = method == "reset" or not any(answer[2:4])
        except BaseException as error:
            self._fail(error)
            raise
        return answers


def _common_spaces(spaces: Sequence[Spaces]) -> Spaces:
    """Return the spaces of observations and actions, the same for all."""
    for number, pair in enumerate(spaces):
        for name, space, first in zip(
            ("observation_space", "action_space"), pair, spaces[0], strict=True
        ):
            if space.shape is None or space.dtype is None:
                raise ShapeError(
                    f"{name} of environment {number}: expected one array (a Box), "
                    f"got {type(space).__name__}"
                )
            if (space.shape, space.dtype) != (first.shape, first.dtype):
                raise ShapeError(
                    f"{name} of environment {number}: expected {first.dtype} "
                    f"{list(first.shape or ())}, as of environment 0, got "
                    f"{space.dtype} {list(space.shape)}"
                )
    return spaces[0]


def _whole(seed: Any) -> int:
    """Return a seed that Gymnasium takes."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentError(
            f"seeds: expected whole numbers of at least 0, got {seed!r}"
        )
    return number
