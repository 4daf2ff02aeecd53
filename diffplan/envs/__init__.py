"""Environments with the Gymnasium interface, by name.

    >>> env = diffplan.envs.make("metaworld/reach", observation="state")
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(action)

Simulators are imported when the first of their tasks is made.
"""

import importlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diffplan._checks import missing, require_count, require_known, require_seed

if TYPE_CHECKING:
    from diffplan.envs.base import ImageLayout, SimulatorEnv
    from diffplan.envs.vector import VectorEnv

__all__ = ["list_tasks", "make", "make_vector"]

_DM_CONTROL = (
    "ball_in_cup-catch",
    "cartpole-balance",
    "cartpole-swingup",
    "cartpole-swingup_sparse",
    "cheetah-run",
    "finger-spin",
    "quadruped-walk",
    "reacher-easy",
    "walker-walk",
)
_LOTTERY = ("paper", "released")
# By name: where its class is. A suite says itself what it needs, OpenGL included.
_SUITES = {
    "lottery": ("diffplan.envs.lottery", "LotteryEnv"),
    "dm_control": ("diffplan.envs.dm_control", "DMControlEnv"),
    "metaworld": ("diffplan.envs.metaworld", "MetaWorldEnv"),
}


def list_tasks() -> list[str]:
    """Return the tested task names; any other task of dm_control works too."""
    from diffplan.envs._metaworld_tasks import ALIASES, TASKS

    metaworld = sorted([*TASKS, *ALIASES])
    return [
        *(f"dm_control/{name}" for name in _DM_CONTROL),
        *(f"lottery/{name}" for name in _LOTTERY),
        *(f"metaworld/{name}" for name in metaworld),
    ]


def make(
    task: str,
    *,
    observation: str = "state",
    seed: int | None = None,
    action_repeat: int | None = None,
    image_size: int = 64,
    image_layout: "ImageLayout" = "channels_first",
    render_preset: str = "fast",
    time_limit: int | None = None,
    **simulator_options: Any,
) -> "SimulatorEnv":
    """Return an environment.

    Args:
        task: "suite/name", see `list_tasks`.
        observation: "state" (float32 vector) or "pixels" (uint8 image).
        seed: Of the first episode, unless `reset` gets one.
        action_repeat: Simulated steps per decision, at least 1. Default 1, but 2 for
            metaworld's thermos and hammer (LatCo).
        image_size: Edge of the images in pixels.
        image_layout: "channels_first", [3, size, size], or "channels_last",
            [size, size, 3], as Gymnasium's wrappers expect it.
        render_preset: "fast" or "faithful".
        time_limit: Simulated steps per episode. Default 1000 for dm_control, 20 for
            lottery, 150 for metaworld.
        **simulator_options: metaworld only: `reward`, "sparse" (default) or "dense".

    Returns:
        A `gymnasium.Env`, which `gymnasium.make(env.spec)` makes once more. Actions are
        float32 in [-1, 1] (unbounded where the simulator has no bounds). Episodes end
        by `truncated`, at the time limit, or by `terminated`, where a task of
        dm_control says so.

    Raises:
        UnknownNameError: no such task; lists close matches.
        MissingDependencyError: the simulator, or for pixels a GL library, is missing.
        ArgumentError: a setting out of its range.
    """
    suite, _, name = str(task).partition("/")
    if suite not in _SUITES or not name:
        require_known("task", task, list_tasks())
    module, kind = _SUITES[suite]
    try:
        from gymnasium.envs.registration import EnvSpec

        from diffplan.envs.base import EnvOptions

        environment = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        raise missing("environments need gymnasium", "suite") from error
    if action_repeat is None:
        action_repeat = environment.default_action_repeat(name)
    options = EnvOptions(
        observation=observation,
        seed=seed,
        action_repeat=action_repeat,
        time_limit=environment.time_limit if time_limit is None else time_limit,
        image_size=image_size,
        render_preset=render_preset,
        image_layout=image_layout,
    )
    made = environment(name, options, **simulator_options)
    settings = {"task": task, **asdict(options), **simulator_options}
    made.spec = EnvSpec(task, "diffplan.envs:make", kwargs=settings)
    return made


def make_vector(
    task: str,
    num_envs: int,
    *,
    num_workers: int = 0,
    timeout: float | None = 300.0,
    **settings: Any,
) -> "VectorEnv":
    """Return `num_envs` copies of a task that step together.

    Args:
        task: As for `make`.
        num_envs: At least 1.
        num_workers: Processes that share the copies; 0 keeps all in this one.
        timeout: Seconds to wait for the workers' answers, see `VectorEnv`.
        **settings: As for `make`; copy number i gets `seed + i`.
    """
    import functools

    from diffplan.envs.vector import VectorEnv

    seed = settings.pop("seed", None)
    if seed is not None:
        seed = require_seed(seed, 0)
    factories = [
        functools.partial(
            make, task, seed=None if seed is None else seed + index, **settings
        )
        for index in range(require_count("num_envs", num_envs))
    ]
    return VectorEnv(factories, num_workers=num_workers, timeout=timeout)
