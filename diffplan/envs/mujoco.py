"""What the MuJoCo tasks share beside `SimulatorEnv`: OpenGL, cameras, images."""

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gymnasium
import numpy as np

from diffplan._checks import missing
from diffplan.envs._rendering import (
    FreeCamera,
    Renderer,
    require_images,
    select_backend,
)
from diffplan.envs.base import EnvOptions, SimulatorEnv
from diffplan.errors import MissingDependencyError

__all__ = [
    "MuJoCoEnv",
    "prepare_mujoco",
]


def prepare_mujoco(options: EnvOptions) -> None:
    """Choose an OpenGL backend; must precede the first import of MuJoCo.

    Raises:
        MissingDependencyError: images are asked for, and there is no backend.
    """
    select_backend()
    if options.observation == "pixels":
        require_images()


@contextmanager
def _loading(package: str) -> Iterator[None]:
    """Import a suite inside; what keeps it from that is said in words.

    Args:
        package: Its name, perhaps with its version behind it.
    """
    suite = package.partition(" ")[0]
    try:
        yield
    except ImportError as error:
        what = f"{suite} tasks need {package}, on Python 3.11 or 3.12"
        raise missing(what, "suite") from error
    except AttributeError as error:
        # What PyOpenGL raises where MUJOCO_GL names a library that is not installed.
        raise MissingDependencyError(
            f"{suite} could not load the GL library that MUJOCO_GL names; unset "
            "MUJOCO_GL and let diffplan choose"
        ) from error


class MuJoCoEnv(SimulatorEnv):
    """A MuJoCo task; its images are what a camera sees.

    A subclass calls `prepare_mujoco(options)` before it imports its simulator.

    Args:
        options: The shared settings.
        state_dim: Length of the state vector.
        action_space: What `step` takes, float32.
        camera: Camera number or `FreeCamera` of the images.
    """

    draws_images: ClassVar[bool] = True

    def __init__(
        self,
        options: EnvOptions,
        state_dim: int,
        action_space: gymnasium.spaces.Box,
        camera: int | FreeCamera,
    ) -> None:
        super().__init__(options, state_dim, action_space)
        self._camera = camera
        self._renderer: Renderer | None = None

    @abc.abstractmethod
    def _simulation(self) -> tuple[Any, Any]:
        """Return the `mujoco.MjModel` and `mujoco.MjData` to draw."""

    def _image(self) -> np.ndarray:
        """Return what the camera sees; the first image makes a GL context.

        Raises:
            MissingDependencyError: no GL backend.
        """
        model, data = self._simulation()
        if self._renderer is None:
            self._renderer = Renderer(
                model,
                self.options.image_size,
                self._camera,
                self.options.render_preset,
            )
        return self._renderer.draw(data)

    def close(self) -> None:
        """Free the GL context, if one was made."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
