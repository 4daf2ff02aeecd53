"""Policies that fill a replay buffer: scripted experts and two kinds of noise.

Each is a callable `(raw observation [39], numpy Generator) → action float32 [A]`; all
randomness comes from the generator. Mixing them gives data of graded quality, as for
LatCo's offline tasks ("some successful and some failed trajectories", section 5.3).
"""

import warnings

import numpy as np

from diffplan._checks import missing, require_at_least, require_count
from diffplan.envs._metaworld_tasks import task_named
from diffplan.envs._rendering import select_backend


class ScriptedExpert:
    """Meta-World's scripted policy for a task, plus Gaussian noise, clipped.

    Args:
        task: "reach", or "metaworld/reach".
        noise: Standard deviation per action dimension, at least 0. At 0.1 all tasks are
            still solved nearly always; at 0.6 those that need a grasp nearly never.

    Raises:
        UnknownNameError: no such task.
        MissingDependencyError: metaworld is not installed.

    Example:
        >>> expert = ScriptedExpert("reach", noise=0.3)
        >>> action = expert(info["raw_observation"], np.random.default_rng(0))
    """

    def __init__(self, task: str, noise: float = 0.0) -> None:
        v3_name = task_named(task.removeprefix("metaworld/")).v3_name
        self.noise = require_at_least("noise", noise, 0.0)
        select_backend()
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            what = "scripted experts need metaworld 3.0, on Python 3.11 or 3.12"
            raise missing(what, "suite") from error
        self._policy = ENV_POLICY_MAP[v3_name]()
        # Meta-World's pusher grips while it descends; LatCo's start has the fingers
        # around the puck already, where it would leave with open fingers.
        self._waits = v3_name == "push-v3"

    def __call__(
        self, raw_observation: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the expert's action, noisy and clipped, float32 [4]."""
        with warnings.catch_warnings():
            # It warns at every step that its proportional control saturates; it should.
            warnings.simplefilter("ignore")
            action = np.asarray(self._policy.get_action(raw_observation), np.float64)
        if self._waits and _around_puck(raw_observation) and raw_observation[3] > 0.5:
            action[:3] = 0.0  # Grip first.
        noisy = action + self.noise * rng.standard_normal(action.shape)
        return noisy.clip(-1.0, 1.0).astype(np.float32)


class UniformActions:
    """Independent uniform actions in [-1, 1].

    Args:
        action_dim: Length of an action, at least 1.
    """

    def __init__(self, action_dim: int = 4) -> None:
        self.action_dim = require_count("action_dim", action_dim)

    def __call__(
        self, raw_observation: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return a uniform action, float32 [A]."""
        del raw_observation
        return rng.uniform(-1.0, 1.0, self.action_dim).astype(np.float32)


class HeldDirection:
    """A random direction, held for a while, with noise around it.

    Independent actions barely move the hand (they cancel); held ones cross the space.

    Args:
        sigma: Standard deviation of the noise around the direction, at least 0.
        action_dim: Length of an action, at least 1.
        mean_hold: Mean number of decisions between changes of direction (geometric),
            at least 1.

    Call `reset` between episodes; the next call then draws a new direction.
    """

    def __init__(
        self, sigma: float = 0.3, action_dim: int = 4, mean_hold: float = 15.0
    ) -> None:
        self.sigma = require_at_least("sigma", sigma, 0.0)
        self.action_dim = require_count("action_dim", action_dim)
        self.mean_hold = require_at_least("mean_hold", mean_hold, 1.0)
        self._direction: np.ndarray | None = None

    def reset(self) -> None:
        """Forget the direction."""
        self._direction = None

    def __call__(
        self, raw_observation: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the held direction with noise, clipped, float32 [A]."""
        del raw_observation
        change = rng.random() < 1.0 / self.mean_hold
        if self._direction is None or change:
            self._direction = rng.uniform(-1.0, 1.0, self.action_dim)
        noisy = self._direction + self.sigma * rng.standard_normal(self.action_dim)
        return noisy.clip(-1.0, 1.0).astype(np.float32)


def _around_puck(raw_observation: np.ndarray) -> bool:
    """Return whether the open fingers stand around the puck."""
    offset = raw_observation[:3] - raw_observation[4:7]
    return bool(np.hypot(offset[0], offset[1]) <= 0.02 and offset[2] <= 0.045)
