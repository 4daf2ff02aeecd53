"""Several environments that step together, each with an episode of its own.

Gymnasium's own vector environments begin new episodes on a schedule of theirs and give
every copy a process. Here each episode has its own seed, finished environments may wait
while others go on (masks), and a few worker processes share many copies. To Gymnasium's
wrappers that is a vector environment whose `autoreset_mode` is DISABLED.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from gymnasium.vector.utils import batch_space

from diffplan._checks import require_count, require_positive, require_seed
from diffplan.envs._infos import batched
from diffplan.envs._members import Factory, Members, Method, Spaces
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
        infos: An array `[B, …]` for each entry of the environments' infos, with the
            mask `_entry` of those that gave it.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[str, Any]

    @property
    def done(self) -> np.ndarray:
        """Return whether each episode is over, bool [B]."""
        return self.terminated | self.truncated


class VectorEnv(GymnasiumVectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Steps B environments in one call, in this process or in a few workers.

    A `gymnasium.vector.VectorEnv` that Gymnasium's vector wrappers take. Nothing is
    reset by itself: a caller resets what has ended, with seeds of its own.

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

    Attributes:
        num_envs: B.
        single_observation_space: That of each environment; so is
            `single_action_space`.
        observation_space: That of all together, `[B, …]`; so is `action_space`.
        spec: Of the first environment, and so are `render_mode` and `metadata`, which
            also says that the `autoreset_mode` is DISABLED.

    Raises:
        ShapeError: the environments' spaces are not all the same arrays.
        WorkerError: an environment could not be built in its worker.

    Example:
        >>> envs = VectorEnv([lambda: make("metaworld/reach")] * 4)
        >>> observations, infos = envs.reset(seed=[0, 1, 2, 3])
        >>> step = envs.step(np.zeros((4, 4)))
        >>> ended = step.done
        >>> observations, infos = envs.reset(seed=[4, 5, 6, 7], mask=ended)
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
            described = self._backend.call("describe", {0: None})[0]
        except BaseException as error:
            self._fail(error)
            raise
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(spaces[0], self.num_envs)
        self.action_space = batch_space(spaces[1], self.num_envs)
        self.spec, self.render_mode, metadata = described
        self.metadata = {**metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self._observations = np.zeros(
            (self.num_envs, *(self.single_observation_space.shape or ())),
            self.single_observation_space.dtype,
        )
        self._running = np.zeros(self.num_envs, bool)

    def reset(
        self,
        seed: int | Sequence[int] | None = None,
        mask: np.ndarray | None = None,
        *,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: One per environment, `[B]`; those outside the mask are not used. A
                single number s stands for s, s + 1, …; None goes on with each
                environment's own stream of random numbers.
            mask: bool `[B]`, which environments to reset; None resets all.
            options: Given to each environment, but for `reset_mask`, which is
                Gymnasium's way to give the mask.

        Returns:
            Observations `[B, …]`, in which rows outside the mask are as they were, and
            infos of the environments of the mask.

        Raises:
            ArgumentError: seeds or mask do not fit, or the environments are closed.
            Exception: what an environment raises (from a worker: as `WorkerError`,
                unless it is one of ours); all are closed then.
        """
        others = dict(options or {})
        given = others.pop("reset_mask", None)
        if mask is not None and given is not None:
            raise ArgumentError(
                "mask: expected one mask, got both mask and options['reset_mask']"
            )
        chosen = self._mask(given if mask is None else mask)
        more = {"options": others} if others else {}
        used = {
            i: {"seed": None if own is None else require_seed(own, 0), **more}
            for i, own in enumerate(self._seeds(seed))
            if chosen[i]
        }
        infos = {i: answer[-1] for i, answer in self._call("reset", used).items()}
        return self._observations.copy(), batched(infos, self.num_envs)

    def step(self, actions: np.ndarray, mask: np.ndarray | None = None) -> VectorStep:
        """Step the environments of the mask; the others rest.

        Args:
            actions: float [B, A].
            mask: bool [B]; None steps all.

        Returns:
            A `VectorStep`: Gymnasium's five values, by name.

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
            batched({i: answer[-1] for i, answer in results.items()}, self.num_envs),
        )

    def render(self) -> tuple[Any, ...] | None:
        """Return a frame of each environment, as its `render` does; None without mode.

        Raises:
            ArgumentError: the environments are closed.
            Exception: as `reset`.
        """
        chosen = self._mask(None)
        if self.render_mode is None:
            return None
        calls = dict.fromkeys(range(len(chosen)))
        frames = self._call("render", calls)
        return tuple(frames[index] for index in calls)

    def close(self, **kwargs: Any) -> None:
        """Close every environment and end the workers; closing twice is allowed.

        Args:
            kwargs: Part of Gymnasium's interface; none has a meaning here.
        """
        del kwargs
        self._close("close was called")

    def __enter__(self) -> "VectorEnv":
        """Return itself; `with` closes it."""
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Close; an exception on its way stays the one to be seen."""
        self._close("their with block has ended", after_failure=kind is not None)

    def _close(self, why: str, after_failure: bool = False) -> None:
        if not self._closed:
            self._closed, self.closed = why, True
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

    def _seeds(self, seed: int | Sequence[int] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, Sequence | np.ndarray):
            first = require_seed(seed, 0)
            return range(first, first + self.num_envs)
        if len(seed) != self.num_envs:
            raise ArgumentError(
                "seed: expected one number, or seeds for "
                f"{self.num_envs} environments, got {len(seed)}"
            )
        return seed

    def _actions(self, actions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return a copy of the actions: environments may keep what they are given."""
        try:
            values = np.array(actions)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"actions: expected an array, got {error}") from error
        expected = (self.num_envs, *(self.single_action_space.shape or ()))
        if values.shape != expected or values.dtype.kind not in "biuf":
            raise ArgumentError(
                f"actions: expected numbers {list(expected)}, got {values.dtype} "
                f"{list(values.shape)}"
            )
        if not np.isfinite(values[chosen]).all():
            raise ArgumentError("actions: expected finite numbers, got NaN or infinity")
        return values

    def _call(self, method: Method, calls: dict[int, Any]) -> dict[int, Any]:
        """Call `method` on some environments; keep the observations that it gives."""
        try:
            answers = self._backend.call(method, calls)
            if method != "render":
                for index, answer in answers.items():
                    self._observations[index] = answer[0]
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
