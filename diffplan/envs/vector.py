"""Several environments that step together, each with an episode of its own.

Gymnasium's vector environments reset all or nothing on a shared schedule and give every
copy a process of its own. Here each episode has its own seed, finished environments may
wait while others go on (masks), and a few worker processes share many copies.
"""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from diffplan.errors import ArgumentError, DiffplanError, require_count

Factory = Callable[[], gymnasium.Env]


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
        """Whether each episode is over, bool [B]."""
        return self.terminated | self.truncated


class VectorEnv:
    """Steps B environments in one call, in this process or in a few workers.

    Nothing is reset by itself: a caller resets what has ended, with seeds of its own.

    Args:
        factories: One callable per environment; picklable if there are workers.
        num_workers: Processes that share the environments evenly; 0 uses none. Images
            gain about 1.3 to 2 times from two processes on two cores.

    Example:
        >>> envs = VectorEnv([lambda: make("metaworld/reach")] * 4)
        >>> observations, infos = envs.reset(seeds=[0, 1, 2, 3])
        >>> step = envs.step(np.zeros((4, 4)))
        >>> ended = step.done
        >>> observations, infos = envs.reset(seeds=[4, 5, 6, 7], mask=ended)
    """

    def __init__(self, factories: Sequence[Factory], num_workers: int = 0) -> None:
        self.num_envs = require_count("len(factories)", len(factories))
        require_count("num_workers", num_workers, minimum=0)
        self._closed = False
        groups = max(1, min(num_workers, self.num_envs))
        self._slices = [
            slice(int(part[0]), int(part[-1]) + 1)
            for part in np.array_split(np.arange(self.num_envs), groups)
        ]
        kind = _RemoteGroup if num_workers else _Group
        self._groups = [kind(list(factories[part])) for part in self._slices]
        spaces = self._groups[0].spaces()
        self.single_observation_space, self.single_action_space = spaces
        self._observations = np.zeros(
            (self.num_envs, *self.single_observation_space.shape),
            self.single_observation_space.dtype,
        )
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

    def reset(
        self, seeds: Sequence[int], mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Begin episodes.

        Args:
            seeds: One per environment, [B]; those outside the mask are not used.
            mask: bool [B], which environments to reset; None resets all.

        Returns:
            Observations [B, …] and infos; rows outside the mask are as they were.
        """
        chosen = self._mask(mask)
        if len(seeds) != self.num_envs:
            raise ArgumentError(
                f"seeds: expected one per environment ({self.num_envs}), "
                f"got {len(seeds)}"
            )
        self._dispatch("reset", [int(seed) for seed in seeds], chosen)
        return self._observations.copy(), list(self._infos)

    def step(self, actions: np.ndarray, mask: np.ndarray | None = None) -> VectorStep:
        """Step the environments of the mask; the others rest.

        Args:
            actions: float [B, A].
            mask: bool [B]; None steps all.

        Returns:
            A `VectorStep`.
        """
        chosen = self._mask(mask)
        expected = (self.num_envs, *self.single_action_space.shape)
        if np.shape(actions) != expected:
            raise ArgumentError(
                f"actions: expected {list(expected)}, got {list(np.shape(actions))}"
            )
        results = self._dispatch("step", list(np.asarray(actions)), chosen)
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
        if self._closed:
            return
        self._closed = True
        for group in self._groups:
            group.close()

    def __enter__(self) -> "VectorEnv":
        """Return itself; `with` closes it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def _mask(self, mask: np.ndarray | None) -> np.ndarray:
        if self._closed:
            raise ArgumentError("the environments are closed")
        if mask is None:
            return np.ones(self.num_envs, bool)
        values = np.asarray(mask, dtype=bool)
        if values.shape != (self.num_envs,):
            raise ArgumentError(
                f"mask: expected [{self.num_envs}], got {list(values.shape)}"
            )
        return values

    def _dispatch(
        self, method: str, arguments: list[Any], chosen: np.ndarray
    ) -> dict[int, tuple[Any, ...]]:
        """Call `method` on the chosen environments; keep observations and infos."""
        for group, part in zip(self._groups, self._slices, strict=True):
            wanted = np.flatnonzero(chosen[part]).tolist()
            group.send(method, [(i, arguments[part.start + i]) for i in wanted])
        replies = [group.receive() for group in self._groups]
        failures = [reply for reply in replies if isinstance(reply, BaseException)]
        if failures:
            raise failures[0]
        results: dict[int, tuple[Any, ...]] = {}
        for part, reply in zip(self._slices, replies, strict=True):
            for i, result in reply:
                index = part.start + i
                results[index] = result
                self._observations[index] = result[0]
                self._infos[index] = result[-1]
        return results


class _Group:
    """Some environments in this process."""

    def __init__(self, factories: list[Factory]) -> None:
        self._envs = [factory() for factory in factories]
        self._reply: Any = None

    def spaces(self) -> tuple[Any, Any]:
        return self._envs[0].observation_space, self._envs[0].action_space

    def send(self, method: str, calls: list[tuple[int, Any]]) -> None:
        self._reply = [(i, self._call(method, i, argument)) for i, argument in calls]

    def receive(self) -> Any:
        return self._reply

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _call(self, method: str, index: int, argument: Any) -> tuple[Any, ...]:
        env = self._envs[index]
        return env.reset(seed=argument) if method == "reset" else env.step(argument)


class _RemoteGroup:
    """Some environments in a worker process.

    The worker is spawned, not forked: a copied GL context or thread pool hangs.
    """

    def __init__(self, factories: list[Factory]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, factories), daemon=True
        )
        self._process.start()
        theirs.close()

    def spaces(self) -> tuple[Any, Any]:
        self._pipe.send(("spaces", []))
        reply = self.receive()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def send(self, method: str, calls: list[tuple[int, Any]]) -> None:
        self._pipe.send((method, calls))

    def receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            code = self._process.exitcode
            return DiffplanError(f"an environment's worker ended (exit code {code})")

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send(("close", []))
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
        self._pipe.close()


def _serve(pipe: Connection, factories: list[Factory]) -> None:
    """Answer calls until told to close; errors travel back as their own message."""
    group: _Group | None = None
    while True:
        try:
            method, calls = pipe.recv()
        except EOFError:
            return
        try:
            group = _Group(factories) if group is None else group
            if method == "close":
                group.close()
                return
            if method == "spaces":
                pipe.send(group.spaces())
                continue
            group.send(method, calls)
            pipe.send(group.receive())
        except DiffplanError as error:
            pipe.send(error)
        except Exception:
            pipe.send(DiffplanError(f"in a worker:\n{traceback.format_exc()}"))
