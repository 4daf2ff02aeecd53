"""Wrappers that Gymnasium does not have, for other people's environments.

For everything else use Gymnasium's own (`RescaleAction`, `TimeLimit`, …). diffplan's
simulators repeat actions themselves, since they draw one image per decision.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs

from diffplan._checks import require_count
from diffplan.errors import ArgumentError

__all__ = [
    "ActionRepeat",
    "OneHot",
    "OneHotAction",
    "Pixels",
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


class OneHot(gymnasium.spaces.Box):
    """One-hot vectors `[n]`: the space of `diffplan.Categorical(n)`.

    Args:
        size: n, how many options there are.
    """

    def __init__(self, size: int) -> None:
        super().__init__(0.0, 1.0, (require_count("size", size),), np.float32)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """Return a choice, all equally likely; nothing else is drawn."""
        chosen = self.np_random.integers(self.shape[0])
        return np.eye(self.shape[0], dtype=np.float32)[chosen]

    def contains(self, x: Any) -> bool:
        """Return whether this is a choice."""
        return super().contains(x) and bool(np.sum(x == 1) == 1 and np.sum(x) == 1)


class OneHotAction(gymnasium.ActionWrapper, RecordConstructorArgs):
    """Take one-hot vectors where an environment takes the number of a choice.

    Args:
        env: With a `gymnasium.spaces.Discrete` action space.

    Raises:
        ArgumentError: its actions are others.

    Example:
        >>> env = OneHotAction(gymnasium.make("CartPole-v1"))
        >>> planned = diffplan.Categorical(*env.action_space.shape)
    """

    def __init__(self, env: gymnasium.Env) -> None:
        if not isinstance(env.action_space, gymnasium.spaces.Discrete):
            raise ArgumentError(
                f"env: expected one whose actions are Discrete, got {env.action_space}"
            )
        RecordConstructorArgs.__init__(self)  # Gymnasium makes it again from these.
        super().__init__(env)
        self.first = env.action_space.start
        self.action_space = OneHot(int(env.action_space.n))

    def action(self, action: np.ndarray) -> Any:
        """Return the number of the largest entry."""
        return self.first + np.argmax(action)


class Pixels(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """See what an environment draws, as small images in the place of observations.

    One image is drawn per decision if this stands outside of `ActionRepeat`.

    Args:
        env: With `render_mode="rgb_array"`.
        size: Height and width of the images, which are squeezed to a square.

    Raises:
        ArgumentError: it is of another mode.

    Example:
        >>> env = Pixels(gymnasium.make("Pendulum-v1", render_mode="rgb_array"))
        >>> image, _ = env.reset(seed=0)  # uint8 [3, 64, 64]
    """

    def __init__(self, env: gymnasium.Env, size: int = 64) -> None:
        if env.render_mode != "rgb_array":
            raise ArgumentError(
                "env: expected one with render_mode='rgb_array', got "
                f"{env.render_mode!r}"
            )
        RecordConstructorArgs.__init__(self, size=size)
        super().__init__(env)
        shape = (3, require_count("size", size), size)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """Return the image of now, whatever was observed."""
        drawn = np.array(self.render(), np.float32)  # which may be a view, upside down
        size = self.observation_space.shape[1:]
        small = torch.nn.functional.interpolate(
            torch.from_numpy(drawn).movedim(-1, 0)[None],
            size,
            mode="bilinear",
            antialias=True,
        )
        image: np.ndarray = small[0].round().clamp(0, 255).byte().numpy()
        return image
