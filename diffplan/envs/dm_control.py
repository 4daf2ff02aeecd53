"""Tasks of the DeepMind Control Suite.

Source: Tassa et al., "DeepMind Control Suite" (arXiv:1801.00690). Settings follow
PlaNet (Hafner et al., 2019) and LatCo (Rybkin et al., 2021, appendix): 64x64 images
from camera 0 (2 for quadruped), 1000 simulated steps per episode, actions rescaled to
[-1, 1] where the suite has bounds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from diffplan._checks import require_known
from diffplan.envs._rendering import close_first_at_exit
from diffplan.envs.base import EnvOptions, box
from diffplan.envs.mujoco import MuJoCoEnv, _loading, prepare_mujoco
from diffplan.errors import NonFiniteError

__all__ = [
    "GRAD_MPC_ACTION_REPEAT",
    "PLANET_ACTION_REPEAT",
    "DMControlEnv",
]

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
"""Simulated steps per decision in PlaNet, by task (arXiv:1811.04551, section 4).

Sources disagree about ball-in-cup alone: benchmarks that follow PlaNet hold its actions
for 4 steps; PlaNet's released code and Grad-MPC for 6, see `GRAD_MPC_ACTION_REPEAT`.
"""

GRAD_MPC_ACTION_REPEAT: dict[str, int] = {
    "cartpole-swingup": 8,
    "reacher-easy": 4,
    "finger-spin": 2,
    "cheetah-run": 4,
    "ball_in_cup-catch": 6,
    "walker-walk": 2,
}
"""Simulated steps per decision in Grad-MPC, by task (arXiv:2312.17227, Table 4)."""

_UNBOUNDED = 1e10
"""What the suite calls the bound of an actuator that has none (MuJoCo's mjMAXVAL)."""

_QUADRUPED_CAMERA = 2  # Camera 0 of the quadruped looks from far above.


def _load_suite() -> Any:
    """Import dm_control's suite; a GL backend was chosen before."""
    with _loading("dm_control"):
        from dm_control import suite
    close_first_at_exit()
    return suite


class DMControlEnv(MuJoCoEnv):
    """One task of the suite; its state vector is all observations, concatenated.

    An episode is `terminated` where the suite ends it with discount 0 (the tasks of the
    domain lqr do so once at rest), and `truncated` at the time limit. `info` holds the
    suite's `discount` of the last step.

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
        prepare_mujoco(options)
        suite = _load_suite()
        domain, _, task = name.partition("-")
        require_known("task: dm_control", name, map("-".join, suite.ALL_TASKS))
        # Time limits are ours: the suite's own would end episodes after 1000 steps.
        self._suite_env = suite.load(
            domain, task, task_kwargs={"random": 0, "time_limit": float("inf")}
        )
        space, self._low, self._high = _actions(self._suite_env.action_spec())
        sizes = (
            int(np.prod(spec.shape))
            for spec in self._suite_env.observation_spec().values()
        )
        self._time_step: Any = None
        super().__init__(
            options,
            state_dim=sum(sizes),
            action_space=space,
            camera=_QUADRUPED_CAMERA if domain == "quadruped" else 0,
        )

    def _begin(self) -> None:
        # The suite draws from a RandomState that lives on the task. Replacing it,
        # rather than loading the task anew, saves 0.1 s; the suite resets MuJoCo's
        # data.
        seed = int(self.np_random.integers(2**31))
        self._suite_env.task._random = np.random.RandomState(seed)
        with _drawing_nothing(self._suite_env.physics):
            self._time_step = self._suite_env.reset()

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        from dm_control.rl.control import PhysicsError

        scaled = self._low + (action + 1.0) * 0.5 * (self._high - self._low)
        try:
            self._time_step = step = self._suite_env.step(scaled)
        except PhysicsError as error:
            raise NonFiniteError(
                "step: the simulation became unstable under the action "
                f"{np.array2string(action, threshold=8)}, call reset; dm_control: "
                f"{error}"
            ) from error
        terminated = bool(step.last() and step.discount == 0.0)
        return float(step.reward), terminated, bool(step.last()) and not terminated

    def _state(self) -> np.ndarray:
        parts = self._time_step.observation.values()
        return np.concatenate([np.ravel(part) for part in parts])

    def _info(self) -> dict[str, Any]:
        discount = self._time_step.discount
        return {"discount": 1.0 if discount is None else float(discount)}

    def _simulation(self) -> tuple[Any, Any]:
        physics = self._suite_env.physics
        return physics.model.ptr, physics.data.ptr


def _actions(spec: Any) -> tuple[gymnasium.spaces.Box, np.ndarray, np.ndarray]:
    """Return the space of actions, and what -1 and 1 mean in the simulator, [A] each.

    A dimension without a bound on either side is not scaled: there -1 means -1.
    """
    low = np.broadcast_to(spec.minimum, spec.shape).astype(float)
    high = np.broadcast_to(spec.maximum, spec.shape).astype(float)
    low = np.where(low <= -_UNBOUNDED, -np.inf, low)
    high = np.where(high >= _UNBOUNDED, np.inf, high)
    bounded = np.isfinite(low) & np.isfinite(high)
    space = box(np.where(bounded, -1.0, low), np.where(bounded, 1.0, high))
    return space, np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)


@contextmanager
def _drawing_nothing(physics: Any) -> Iterator[None]:
    """Keep the suite from making a GL context of its own.

    A reset of quadruped-escape asks whether there is one, to hand it the new terrain;
    dm_control answers by making one, and fails where there is no OpenGL. `Renderer`
    sees to the terrain itself.
    """
    kind = type(physics)
    if physics._contexts is None:
        physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
    try:
        yield
    finally:
        physics.__class__ = kind
