"""Sparse Meta-World as in LatCo, on Meta-World v3.

Source: Yu et al., "Meta-World" (CoRL 2019); Rybkin et al., "Model-Based Reinforcement
Learning via Latent-Space Collocation" (ICML 2021), section 5 and its released
environments. Starts and successes are in `metaworld_tasks`, which says task by task
what differs from the paper.

Versions matter without a word of warning: from mujoco 3.7 on the thermos of
`stick-push` slides to its goal by itself, and from 3.17 on nothing loads. Other
versions are refused.
"""

import sys
from typing import Any

import numpy as np

from diffplan.envs._metaworld_tasks import task_named
from diffplan.envs.base import EnvOptions, box
from diffplan.envs.mujoco import MuJoCoEnv, _loading, prepare_mujoco
from diffplan.errors import ArgumentError, MissingDependencyError

__all__ = [
    "MUJOCO_RANGE",
    "STATE_DIM",
    "MetaWorldEnv",
    "check_mujoco_version",
]

MUJOCO_RANGE = ((3, 3, 0), (3, 7, 0))
"""Versions of mujoco that simulate Meta-World 3.0 rightly: from, up to but without."""

STATE_DIM = 18
"""Hand position 3, gripper opening 1, objects 14 (position and quaternion, padded)."""


def _load_simulations() -> dict[str, Any]:
    """Import Meta-World and check versions; a GL backend was chosen before."""
    with _loading("metaworld 3.0"):
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    check_mujoco_version(mujoco.__version__)
    return ALL_V3_ENVIRONMENTS


def check_mujoco_version(version: str) -> None:
    """Raise unless `version` simulates Meta-World rightly.

    Raises:
        MissingDependencyError: names the version to install.
    """
    low, high = MUJOCO_RANGE
    parts = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not low <= parts < high:
        raise MissingDependencyError(
            f"metaworld tasks need mujoco of at least {_dotted(low)} and below "
            f"{_dotted(high)}, found {version}: later versions let the thermos of "
            "stick-push slide by itself, or do not load. pip install mujoco==3.6.0"
        )


class MetaWorldEnv(MuJoCoEnv):
    """One task with LatCo's starts, and reward 1 at steps where it is solved.

    The observation "state" is the hand position (3), gripper opening (1) and objects
    (14): no goal, which LatCo's tasks fix. `info` holds

    - `success`: 1.0 or 0.0, of the present step (not latched). LatCo counts an episode
      as solved if any step is; some starts are solved already.
    - `distance`: metres from solved, as each task's success measures it (reach: finger
      centre to goal).
    - `initial_distance`: at the episode's start, by the measure of LatCo's Fig. 4.
    - `raw_observation`: float64 [39] with goal, for scripted policies.
    - `dense_reward` (0 to 10) and `metaworld_success`: what Meta-World v3 itself says.

    With an action repeat, the sparse reward is the success of the last simulated step,
    as in LatCo's release, so that it stays 0 or 1; dense rewards are summed.

    Args:
        name: Task, such as "reach" or "thermos"; see `diffplan.envs.list_tasks()`.
        options: The shared settings.
        reward: "sparse", or "dense" for Meta-World v3's own reward.

    Raises:
        UnknownNameError: no such task.
        MissingDependencyError: metaworld is not installed, or a wrong mujoco.

    Example:
        >>> env = diffplan.envs.make("metaworld/reach")
        >>> observation, info = env.reset(seed=0)
    """

    time_limit = 150  # LatCo's.

    def __init__(
        self,
        name: str,
        options: EnvOptions,
        reward: str = "sparse",
    ) -> None:
        if reward not in ("sparse", "dense"):
            raise ArgumentError(f"reward: expected 'sparse' or 'dense', got {reward!r}")
        prepare_mujoco(options)
        self.task = task_named(name)()
        self._reward = reward
        self._sim = _build(_load_simulations()[self.task.v3_name])
        self._sim.mocap_low = self._sim.hand_low = np.array(self.task.hand_low)
        self._sim.mocap_high = self._sim.hand_high = np.array(self.task.hand_high)
        model = self._sim.model
        # Meta-World writes object positions into the model: remember the untouched one.
        self._pristine = (model.body_pos.copy(), model.site_pos.copy())
        self._raw = np.zeros(39)
        self._present: dict[str, Any] = {}
        super().__init__(
            options,
            state_dim=STATE_DIM,
            action_space=box(-np.ones(4), np.ones(4)),
            camera=self.task.camera,
        )

    @classmethod
    def default_action_repeat(cls, name: str) -> int:
        """Return 2 for thermos and hammer, 1 for the others (LatCo)."""
        return task_named(name).action_repeat

    @property
    def raw_observation(self) -> np.ndarray:
        """Meta-World's own observation, float64 [39], goal included."""
        return self._raw.copy()

    def _begin(self) -> None:
        import mujoco

        sim, model = self._sim, self._sim.model
        start = self.task.draw(self.np_random)
        # Meta-World resets twice, the first time from where the last episode ended, and
        # drags the hand among objects that the last episode moved. Once, from a clean
        # simulation, is enough, and depends on the drawn start alone.
        model.body_pos[:], model.site_pos[:] = self._pristine
        mujoco.mj_resetData(model, sim.data)
        sim.curr_path_length = 0
        sim._last_rand_vec = start.vector
        sim.hand_init_pos = start.hand
        sim.reset_model()
        self.task.place(sim, start)
        mujoco.mj_forward(model, sim.data)
        now = sim._get_curr_obs_combined_no_goal()
        sim._prev_obs = now.copy()
        self._raw = np.hstack([now, now, sim._get_pos_goal()])
        self._initial_distance = self.task.initial_distance(sim)
        self._note(success=self.task.success(sim), dense=0.0, v3_success=0.0)

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self._raw, dense, _, _, info = self._sim.step(action.astype(np.float32))
        success = self.task.success(self._sim)
        self._note(success, float(dense), float(info["success"]))
        reward = float(success) if self._reward == "sparse" else float(dense)
        return reward, False, False

    def _combine(self, rewards: list[float]) -> float:
        return rewards[-1] if self._reward == "sparse" else sum(rewards)

    def _note(self, success: bool, dense: float, v3_success: float) -> None:
        self._present = {
            "success": float(success),
            "distance": self.task.distance(self._sim),
            "initial_distance": self._initial_distance,
            "dense_reward": dense,
            "metaworld_success": v3_success,
        }

    def _state(self) -> np.ndarray:
        return self._raw[:STATE_DIM]

    def _info(self) -> dict[str, Any]:
        return {**self._present, "raw_observation": self.raw_observation}

    def _simulation(self) -> tuple[Any, Any]:
        return self._sim.model, self._sim.data


def _build(simulation: Any) -> Any:
    """Construct a Meta-World v3 environment outside its benchmarks."""
    sim = simulation()
    sim._set_task_called = True  # Else reset and step refuse.
    sim._freeze_rand_vec = True  # Take our draw; never numpy's global generator.
    sim._partially_observable = False
    # Cached while the goal was hidden; kept, it would clip the goal to zero.
    del sim.sawyer_observation_space
    sim.max_path_length = sys.maxsize  # The time limit is ours.
    return sim


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
