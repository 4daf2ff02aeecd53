"""Environments that fail in one chosen way, importable by worker processes."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np


class SimulatorBrokeError(Exception):
    """An exception that can only be built from two arguments."""

    def __init__(self, part: str, code: int) -> None:
        super().__init__(f"{part} broke with code {code}")


class Faulty(gymnasium.Env):
    """Counts its steps in a `[3]` observation, until something goes wrong.

    Args:
        fault: A key of `FAULTS`, or "" for an environment without fault.
        at: "build", "reset", "step" or "close".
        log: A file that gets a line when the environment is closed.
    """

    def __init__(self, fault: str = "", at: str = "step", log: str = "") -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.fault, self.at, self.log = fault, at, log
        self.count = 0
        if at == "build":
            FAULTS[fault](())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> Any:
        self.count = int(seed or 0)
        return self._answer("reset", (self._observation(), {}))

    def step(self, action: np.ndarray) -> Any:
        self.count += 1
        return self._answer("step", (self._observation(), 1.0, False, False, {}))

    def close(self) -> None:
        if self.log:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write("closed\n")
        if self.at == "close":
            FAULTS[self.fault](())

    def _observation(self) -> np.ndarray:
        return np.full(3, self.count, np.float32)

    def _answer(self, method: str, answer: tuple[Any, ...]) -> Any:
        if self.fault and self.at == method:
            return FAULTS[self.fault](answer)
        return answer


def _raise(error: Exception) -> None:
    raise error


def _interrupt_the_parent() -> None:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


FAULTS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "value error": lambda answer: _raise(ValueError("the motor is on fire")),
    "own error": lambda answer: _raise(SimulatorBrokeError("gearbox", 7)),
    "exit": lambda answer: sys.exit(3),
    "kill": lambda answer: os.kill(os.getpid(), 9),
    "sleep": lambda answer: time.sleep(60),
    "interrupt": lambda answer: _interrupt_the_parent(),
    "shape": lambda answer: (answer[0][:1], *answer[1:]),
    "batch": lambda answer: (answer[0][None], *answer[1:]),
    "float64": lambda answer: (answer[0].astype(np.float64), *answer[1:]),
    "list": lambda answer: (answer[0].tolist(), *answer[1:]),
    "no info": lambda answer: answer[:-1],
    "observation alone": lambda answer: answer[0],
    "info is None": lambda answer: (*answer[:-1], None),
    "reward is an array": lambda answer: (answer[0], np.ones(1), *answer[2:]),
    "reward is None": lambda answer: (answer[0], None, *answer[2:]),
    "terminated is a number": lambda answer: (*answer[:2], 0.0, *answer[3:]),
    "truncated is an array": lambda answer: (*answer[:3], np.zeros(1, bool), {}),
    "info cannot be pickled": lambda answer: (*answer[:-1], {"f": lambda: None}),
}
