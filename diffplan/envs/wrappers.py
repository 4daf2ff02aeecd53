"""The one wrapper that Gymnasium does not have.

For everything else use Gymnasium's own (`RescaleAction`, `TimeLimit`, …). diffplan's
simulators repeat actions themselves, since they draw one image per decision; this
wrapper is for other people's environments.
"""

from typing import Any

import gymnasium

from diffplan._checks import require_count

__all__ = [
    "ActionRepeat",
]


class ActionRepeat(gymnasium.Wrapper):
    """Hold every action for several steps and sum the rewards.

    Stops early where an episode ends. Observation and info are the last step's.

    Args:
        env: Any Gymnasium environment.
        repeat: Steps per decision, at least 1.

    Example:
        >>> env = ActionRepeat(gymnasium.make("Pendulum-v1"), repeat=4)
    """

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
        self.repeat = require_count("repeat", repeat)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step up to `repeat` times under `action`."""
        total = 0.0
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
