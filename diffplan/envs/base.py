"""What every simulated environment shares: repeat, time limit, observation, seeding.

A simulator file only says how an episode begins, how one step advances, and what the
state vector is. Images are drawn once per decision, not once per simulated step.
Nothing here knows a simulator: what MuJoCo needs is in `diffplan.envs.mujoco`.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np

from diffplan._checks import require_count, require_seed
from diffplan._kinds import check_construction
from diffplan.errors import ArgumentError, ShapeError

__all__ = ["EnvOptions", "ImageLayout", "SimulatorEnv", "box"]

ImageLayout = Literal["channels_first", "channels_last"]


@dataclass(frozen=True)
class EnvOptions:
    """The settings that every environment understands.

    Attributes:
        observation: "state" gives a float32 vector, "pixels" a uint8 image.
        seed: Of the first episode when `reset` gets none; None draws one from the
            operating system.
        action_repeat: Simulated steps per decision, at least 1.
        time_limit: Simulated steps per episode, at least 1; then `truncated` is true.
        image_size: Edge of the images, pixels.
        render_preset: "fast" or "faithful", see `rendering.PRESETS`.
        image_layout: "channels_first", [3, size, size] as PyTorch has it, or
            "channels_last", [size, size, 3] as Gymnasium's wrappers expect. What
            `render` returns is always the latter.
    """

    observation: str = "state"
    seed: int | None = None
    action_repeat: int = 1
    time_limit: int = 1000
    image_size: int = 64
    render_preset: str = "fast"
    image_layout: ImageLayout = "channels_first"

    def __post_init__(self) -> None:
        """Check every setting before a simulator is loaded."""
        if self.observation not in ("state", "pixels"):
            raise ArgumentError(
                f"observation: expected 'state' or 'pixels', got {self.observation!r}"
            )
        if self.seed is not None:
            require_seed(self.seed, 0)
        require_count("action_repeat", self.action_repeat)
        require_count("time_limit", self.time_limit)
        require_count("image_size", self.image_size)


check_construction(EnvOptions)


class SimulatorEnv(gymnasium.Env[np.ndarray, np.ndarray], abc.ABC):
    """A simulated task behind the Gymnasium interface.

    Actions are float32 in [-1, 1]; values outside are clipped. Where the simulator
    knows no bounds, neither does `action_space`, and actions reach it as they are.

    An episode ends either by `truncated`, at the time limit, or by `terminated`, where
    the task itself says so; never by both. `reset(seed=s)` fully determines the
    episode: every random draw comes from `self.np_random`, and nothing of an earlier
    episode survives. `reset()` goes on with the stream of random numbers.

    Subclasses fill in three methods (`_begin`, `_advance`, `_state`) and, where there
    is something to say, `_info`, `_image` and `_combine` (rewards of repeated steps
    that are not summed).

    Args:
        options: The shared settings.
        state_dim: Length of the state vector.
        action_space: What `step` takes, float32.

    Attributes:
        time_limit: Simulated steps per episode that `diffplan.envs.make` sets where
            nothing is asked for.
        draws_images: Whether there is an `_image`.

    Raises:
        ArgumentError: images are asked for, and none are drawn.

    Example:
        >>> class Line(SimulatorEnv):
        ...     def _begin(self):
        ...         self.place = self.np_random.uniform(-1, 1, 1)
        ...
        ...     def _advance(self, action):
        ...         self.place += 0.1 * action
        ...         return -float(self.place[0] ** 2), False, False
        ...
        ...     def _state(self):
        ...         return self.place
        >>> env = Line(EnvOptions(time_limit=20), 1, box(-np.ones(1), np.ones(1)))
        >>> observation, info = env.reset(seed=0)
    """

    time_limit: ClassVar[int] = 1000
    draws_images: ClassVar[bool] = False

    def __init__(
        self, options: EnvOptions, state_dim: int, action_space: gymnasium.spaces.Box
    ) -> None:
        if options.observation == "pixels" and not self.draws_images:
            raise ArgumentError(
                f"observation: expected 'state', since {type(self).__name__} draws no "
                "images, got 'pixels'"
            )
        self.options = options
        modes = ["rgb_array"] if self.draws_images else []
        self.metadata = {"render_modes": modes, "render_fps": 50}
        self.render_mode = "rgb_array" if self.draws_images else None
        self._elapsed, self._over = 0, True  # Over: not begun.
        self._first_seed = options.seed
        size, first = options.image_size, options.image_layout == "channels_first"
        image = (3, size, size) if first else (size, size, 3)
        self.observation_space = (
            gymnasium.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
            if options.observation == "state"
            else gymnasium.spaces.Box(0, 255, image, np.uint8)
        )
        self.action_space = action_space

    # What a simulator says about itself.

    @abc.abstractmethod
    def _begin(self) -> None:
        """Start an episode that depends on draws from `self.np_random` alone."""

    @abc.abstractmethod
    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Simulate one step under `action` [A] of the action space.

        Returns:
            Its reward, and how the simulator itself ended the episode, if it did:
            terminated (nothing can follow), truncated (it only stops here).
        """

    @abc.abstractmethod
    def _state(self) -> np.ndarray:
        """Return the state vector [S]."""

    def _info(self) -> dict[str, Any]:
        """Return what is known beside observation and reward; nothing by default."""
        return {}

    def _image(self) -> np.ndarray:
        """Return the present image, uint8 [image_size, image_size, 3]."""
        raise ArgumentError(f"render: {type(self).__name__} draws no images")

    @classmethod
    def default_action_repeat(cls, name: str) -> int:  # noqa: ARG003
        """Return the simulated steps per decision of a task, where nothing is asked."""
        return 1

    def _combine(self, rewards: list[float]) -> float:
        """Turn the rewards of the repeated steps into one; the sum by default."""
        return sum(rewards)

    # The Gymnasium interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Determines the episode; None continues the stream of random numbers.
            options: Unused; part of the Gymnasium interface.

        Returns:
            The first observation, and info.
        """
        del options
        if seed is None:
            seed = self._first_seed
        if seed is not None:
            seed = require_seed(seed, 0)  # Gymnasium takes none of numpy's.
        self._first_seed = None
        super().reset(seed=seed)
        self._over = True  # Until it has begun.
        self._begin()
        self._elapsed, self._over = 0, False
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `action_repeat` simulated steps, or to the episode's end.

        Args:
            action: float [A]; clipped to the action space.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            ArgumentError: the episode has not begun or is over, or `action` is not
                finite.
            ShapeError: `action` has the wrong length.
        """
        if self._over:
            raise ArgumentError("step: the episode is over; call reset first")
        action = self._checked(action)
        # Whatever stops the simulator in the middle of a step ends the episode.
        self._over = True
        rewards: list[float] = []
        terminated = truncated = False
        for _ in range(self.options.action_repeat):
            reward, terminated, truncated = self._advance(action)
            rewards.append(reward)
            self._elapsed += 1
            at_limit = self._elapsed >= self.options.time_limit
            truncated = (truncated or at_limit) and not terminated
            if terminated or truncated:
                break
        result = self._observation(), self._combine(rewards)
        self._over = terminated or truncated
        return *result, terminated, truncated, self._info()

    def render(self) -> np.ndarray:
        """Return the present image, uint8 [image_size, image_size, 3].

        Raises:
            ArgumentError: the environment draws none.
            MissingDependencyError: it could not, for want of a GL backend.
        """
        return self._image()

    def _observation(self) -> np.ndarray:
        if self.options.observation == "state":
            return self._state().astype(np.float32)
        image = self.render()
        if self.options.image_layout == "channels_first":
            image = image.transpose(2, 0, 1)
        return np.ascontiguousarray(image)

    def _checked(self, action: np.ndarray) -> np.ndarray:
        """Return `action` as float64 in the action space."""
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self.action_space.shape:
            raise ShapeError(
                f"action: expected {list(self.action_space.shape or ())}, "
                f"got {list(values.shape)}"
            )
        if not np.isfinite(values).all():
            raise ArgumentError("action: expected finite numbers, got NaN or infinity")
        space = self.action_space
        return values.clip(space.low.astype(float), space.high.astype(float))


def box(low: np.ndarray, high: np.ndarray) -> gymnasium.spaces.Box:
    """Return a box of float32 actions with these bounds [A]; infinity is no bound."""
    return gymnasium.spaces.Box(
        low.astype(np.float32), high.astype(np.float32), dtype=np.float32
    )
