"""Any task by its name: of a suite of `diffplan.envs`, or an id of Gymnasium."""

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error as refused
from gymnasium.wrappers import DtypeObservation, FlattenObservation, RescaleAction

import diffplan.envs
from diffplan.envs._rendering import require_images, select_backend
from diffplan.envs.wrappers import ActionRepeat, OneHotAction, Pixels
from diffplan.errors import ArgumentError, MissingDependencyError, UnknownNameError

DENSE = "dense-"
"""Begins the name of a Meta-World task with a dense reward."""
SUITES = ("dm_control", "lottery", "metaworld")
_MODES = {True: "rgb_array", False: None}


def make_task(task: str, **settings: Any) -> gymnasium.Env:
    """Make an environment of a task's name alone, its reward included.

    Args:
        task: Of `diffplan.envs.make`; `metaworld/dense-reach` is `metaworld/reach` with
            Meta-World's own reward, and so are the others. Or an id of Gymnasium, such
            as `Pendulum-v1`, seen as a vector, with actions scaled to [-1, 1] or, of
            choices, one-hot.
        **settings: Of `diffplan.envs.make`.
    """
    if task.partition("/")[0] not in SUITES:
        return _of_gymnasium(task, **settings)
    if f"/{DENSE}" in task:
        task, settings = task.replace(f"/{DENSE}", "/"), {"reward": "dense", **settings}
    return diffplan.envs.make(task, **settings)


def _of_gymnasium(
    task: str, *, observation: str = "state", action_repeat: int = 1, **_: Any
) -> gymnasium.Env:
    drawn = observation == "pixels"
    try:
        if drawn and ".mujoco" in str(gymnasium.spec(task).entry_point):
            select_backend()
            require_images()
        env: gymnasium.Env = gymnasium.make(task, render_mode=_MODES[drawn])
        if drawn:  # What it lacks, it says when it draws.
            env.reset()
            env.render()
    except refused.DependencyNotInstalled as error:
        raise MissingDependencyError(f"{task}: {error}") from error
    except refused.Error as error:
        raise UnknownNameError(
            f"task: expected 'dm_control/…', 'metaworld/…' or an id of Gymnasium, got "
            f"{task!r}: {error}"
        ) from error
    # Models are float32; many tasks of Gymnasium tell float64, and some a dictionary.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered by casting")
        seen = env if drawn else DtypeObservation(FlattenObservation(env), np.float32)
    acted = _with_vectors(task, seen)
    repeated = ActionRepeat(acted, action_repeat) if action_repeat > 1 else acted
    return Pixels(repeated) if drawn else repeated


def _with_vectors(task: str, env: gymnasium.Env) -> gymnasium.Env:
    """Return an environment whose actions are vectors, in [-1, 1] or one-hot."""
    actions = env.action_space
    if isinstance(actions, gymnasium.spaces.Discrete):
        return OneHotAction(env)
    boxed = isinstance(actions, gymnasium.spaces.Box) and len(actions.shape) == 1
    if not boxed or not actions.is_bounded():
        raise ArgumentError(
            "task: expected one whose actions are a bounded box [A] or Discrete, "
            f"{task} has {actions}"
        )
    return RescaleAction(env, np.float32(-1), np.float32(1))
