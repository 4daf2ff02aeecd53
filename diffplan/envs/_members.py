"""The members of a vector environment: built, called, and their answers checked.

An observation of another shape would be broadcast into the batch and trained on, so
every answer is held against the environment's own space.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import gymnasium
import numpy as np

from diffplan.errors import ShapeError, TensorTypeError

Factory = Callable[[], gymnasium.Env]
Spaces = tuple[gymnasium.Space, gymnasium.Space]
"""Of observations and of actions."""

Method = Literal["reset", "step", "render", "describe"]

ANSWERS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}
TYPES: dict[str, tuple[type, ...]] = {
    "reward": (int, float, np.integer, np.floating),
    "terminated": (bool, np.bool_),
    "truncated": (bool, np.bool_),
    "info": (dict,),
}


class Members:
    """Some environments in this process.

    Args:
        factories: One callable per environment.
        first: Number of the first one in the whole batch.
    """

    def __init__(self, factories: Sequence[Factory], first: int = 0) -> None:
        self._envs: list[gymnasium.Env] = []
        self._first = first
        try:
            for number, factory in enumerate(factories, first):
                with _noted(number, "building"):
                    self._envs.append(factory())
        except BaseException:
            self.close(after_failure=True)
            raise

    def spaces(self) -> list[Spaces]:
        """Return the spaces of each."""
        return [(env.observation_space, env.action_space) for env in self._envs]

    def call(self, method: Method, calls: Mapping[int, Any]) -> dict[int, Any]:
        """Call a method of some environments.

        Args:
            method: "reset", "step" or "render"; or "describe", which returns the
                environment's spec, render mode and metadata.
            calls: What each is given, by its number in the whole batch: the keywords
                of a reset, an action, or nothing.

        Returns:
            What each answered, by the same number.

        Raises:
            ShapeError: an observation does not fit the environment's space.
            TensorTypeError: an answer has another type than Gymnasium asks for.
            Exception: whatever an environment raises, with a note on which it was.
        """
        answers: dict[int, Any] = {}
        for number, argument in calls.items():
            env = self._envs[number - self._first]
            with _noted(number, method):
                if method == "describe":
                    answers[number] = _description(env)
                elif method == "render":
                    answers[number] = env.render()
                else:
                    reset = method == "reset"
                    answer = env.reset(**argument) if reset else env.step(argument)
                    answers[number] = _checked(method, answer, env.observation_space)
        return answers

    def close(self, after_failure: bool = False) -> None:
        """Close all; then raise the first error, unless there was a failure before."""
        errors: list[Exception] = []
        while self._envs:
            try:
                self._envs.pop().close()
            except Exception as error:
                errors.append(error)
        if errors and not after_failure:
            raise errors[0]


def _description(env: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return spec, render mode and metadata, as far as they could leave a worker."""
    names = ("spec", "render_mode", "metadata")
    values: dict[str, Any] = {}
    for name in names:
        with suppress(Exception):  # Of pickle, for a lambda among the spec's arguments.
            value = getattr(env, name, None)
            pickle.dumps(value)
            values[name] = value
    spec, mode, metadata = map(values.get, names)
    return spec, mode, dict(metadata or {})


@contextmanager
def _noted(number: int, doing: str) -> Iterator[None]:
    """Add to an exception which environment raised it, and when."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):  # Some exceptions cannot be written to.
            error.add_note(f"(environment {number}, {doing})")
        raise


def _checked(method: str, answer: Any, space: gymnasium.Space) -> tuple[Any, ...]:
    """Return an answer that is what Gymnasium's interface and the space promise."""
    names = ANSWERS[method]
    if not isinstance(answer, tuple) or len(answer) != len(names):
        given = type(answer).__name__
        if isinstance(answer, tuple):
            given = f"{len(answer)} values"
        raise TensorTypeError(
            f"{method}: expected the environment to return ({', '.join(names)}), "
            f"got {given}"
        )
    observation = np.asarray(answer[0])
    if observation.shape != space.shape:
        raise ShapeError(
            f"{method}: expected an observation of shape {list(space.shape or ())}, as "
            f"the observation_space says, got {list(observation.shape)}"
        )
    if observation.dtype != space.dtype:
        raise TensorTypeError(
            f"{method}: expected an observation of dtype {space.dtype}, as the "
            f"observation_space says, got {observation.dtype}"
        )
    for name, value in zip(names[1:], answer[1:], strict=True):
        if not isinstance(value, TYPES[name]):
            wanted = " or ".join(kind.__name__ for kind in TYPES[name])
            raise TensorTypeError(
                f"{method}: expected the environment's {name} to be {wanted}, "
                f"got {type(value).__name__}"
            )
    return (observation, *answer[1:])
