"""Tasks of the DeepMind Control Suite.

Source: Tassa et al., "DeepMind Control Suite" (arXiv:1801.00690). Settings follow
PlaNet (Hafner et al., 2019) and LatCo (Rybkin et al., 2021, appendix): 64x64 images
from camera 0 (2 for quadruped), 1000 simulated steps per episode, actions rescaled to
[-1, 1].
"""

import difflib
from typing import Any

import numpy as np

from diffplan.envs.base import EnvOptions, SimulatorEnv
from diffplan.envs.rendering import close_first_at_exit, select_backend
from diffplan.errors import MissingDependencyError, UnknownNameError

PLANET_ACTION_REPEAT: dict[str, int] = {
    "cartpole-balance": 8,
    "cartpole-swingup": 8,
    "cartpole-swingup_sparse": 8,
    "reacher-easy": 4,
    "cheetah-run": 4,
    "finger-spin": 2,
    "ball_in_cup-catch": 4,
    "walker-walk": 2,
}
"""Simulated steps per decision in PlaNet, by task (arXiv:1811.04551, section 4)."""

_QUADRUPED_CAMERA = 2  # Camera 0 of the quadruped looks from far above.


def _load_suite() -> Any:
    """Import dm_control's suite, with a GL backend chosen first."""
    select_backend()
    try:
        from dm_control import suite
    except ImportError as error:
        raise MissingDependencyError(
            "dm_control tasks need dm_control: pip install diffplan[suite]"
        ) from error
    except AttributeError as error:
        # What PyOpenGL raises where MUJOCO_GL names a library that is not installed.
        raise MissingDependencyError(
            "dm_control could not load the GL library that MUJOCO_GL names; unset "
            "MUJOCO_GL and let diffplan choose"
        ) from error
    close_first_at_exit()
    return suite


class DMControlEnv(SimulatorEnv):
    """One task of the suite; its state vector is all observations, concatenated.

    Args:
        name: "domain-task", as in "cheetah-run".
        options: The shared settings.

    Raises:
        UnknownNameError: no such task in the suite.
        MissingDependencyError: dm_control is not installed.

    Example:
        >>> env = diffplan.envs.make("dm_control/cheetah-run", action_repeat=4)
        >>> observation, info = env.reset(seed=0)
    """

    def __init__(self, name: str, options: EnvOptions) -> None:
        suite = _load_suite()
        domain, _, task = name.partition("-")
        if (domain, task) not in suite.ALL_TASKS:
            names = ["-".join(pair) for pair in suite.ALL_TASKS]
            close = difflib.get_close_matches(name, names) or sorted(names)[:5]
            raise UnknownNameError(
                f"task: dm_control has no {name!r}; close matches: {', '.join(close)}"
            )
        # Time limits are ours: the suite's own would end episodes after 1000 steps.
        self._suite_env = suite.load(
            domain, task, task_kwargs={"random": 0, "time_limit": float("inf")}
        )
        bounds = self._suite_env.action_spec()
        self._low = np.broadcast_to(bounds.minimum, bounds.shape)
        self._high = np.broadcast_to(bounds.maximum, bounds.shape)
        sizes = (
            int(np.prod(spec.shape))
            for spec in self._suite_env.observation_spec().values()
        )
        self._time_step: Any = None
        super().__init__(
            options,
            state_dim=sum(sizes),
            action_dim=int(np.prod(bounds.shape)),
            camera=_QUADRUPED_CAMERA if domain == "quadruped" else 0,
        )

    def _begin(self) -> None:
        # The suite draws from a RandomState that lives on the task. Replacing it,
        # rather than loading the task anew, saves 0.1 s; the suite resets MuJoCo's
        # data.
        seed = int(self.np_random.integers(2**31))
        self._suite_env.task._random = np.random.RandomState(seed)
        self._time_step = self._suite_env.reset()

    def _advance(self, action: np.ndarray) -> float:
        scaled = self._low + (action + 1.0) * 0.5 * (self._high - self._low)
        self._time_step = self._suite_env.step(scaled)
        return float(self._time_step.reward)

    def _state(self) -> np.ndarray:
        parts = self._time_step.observation.values()
        return np.concatenate([np.ravel(part) for part in parts])

    def _info(self) -> dict[str, Any]:
        return {"discount": float(self._time_step.discount or 1.0)}

    def _simulation(self) -> tuple[Any, Any]:
        physics = self._suite_env.physics
        return physics.model.ptr, physics.data.ptr
