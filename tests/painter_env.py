"""An environment that draws images without OpenGL."""

import numpy as np

from diffplan.envs.base import EnvOptions, SimulatorEnv, box


class Painter(SimulatorEnv):
    """A bright row climbs up a dark picture; options of a reset are its info."""

    draws_images = True

    def __init__(self, options: EnvOptions) -> None:
        super().__init__(options, 1, box(-np.ones(1), np.ones(1)))

    def reset(self, *, seed: int | None = None, options: dict | None = None):  # noqa: ANN201
        observation, info = super().reset(seed=seed)
        return observation, {**info, "options": str(options)}

    def _begin(self) -> None:
        self.row, self.start = 0, self.np_random.uniform()

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self.row += 1
        return float(action[0]), False, False

    def _state(self) -> np.ndarray:
        return np.array([self.start])

    def _image(self) -> np.ndarray:
        size = self.options.image_size
        picture = np.zeros((size, size, 3), np.uint8)
        picture[self.row] = (255, 128, 0)
        return picture
