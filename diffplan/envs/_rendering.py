"""Headless images: choose a GL backend before MuJoCo does, and draw fast.

Two things go wrong without this file. MuJoCo reads `MUJOCO_GL` once, while it is
imported, and a wrong value aborts the process at the first image. And the default
settings (4096² shadow maps, multi-sampling, reflections) draw 64x64 images at 7 to 60
per second on a CPU; the `fast` preset draws the same scenes 10 to 30 times faster. It
is not the same image: 5 to 9 grey levels apart on the mean in Meta-World, 30 in
reacher-easy, whose floor gets darker, 1 to 7 in most others. `faithful` differs from
the default settings by 0.2 at most.
"""

import atexit
import importlib.util
import os
import sys
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffplan._checks import require_known
from diffplan._outside import ask
from diffplan.errors import MissingDependencyError

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
visible = renderer.render().max() > 0
renderer.close()
raise SystemExit(0 if visible else "the image is black")
"""
BACKENDS = ("egl", "osmesa")  # of Linux without a screen, the faster one first
SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")  # MuJoCo's words
_PROBE_SECONDS = 60  # A cold disk may need several; a hanging driver must not block.
APT_LINES = (
    "apt-get install libegl1 libgl1-mesa-dri libopengl0   (EGL, preferred), or\n"
    "  apt-get install libosmesa6   (OSMesa)"
)


@dataclass(frozen=True)
class RenderPreset:
    """What costs time in MuJoCo's renderer.

    Attributes:
        shadow_size: Edge of the shadow map in pixels, at least 1.
        samples: Multi-sampling per pixel; 0 switches it off.
        shadows: Whether shadows are drawn.
        reflections: Whether reflecting floors are drawn.
    """

    shadow_size: int
    samples: int
    shadows: bool
    reflections: bool


PRESETS: dict[str, RenderPreset] = {
    "fast": RenderPreset(shadow_size=512, samples=0, shadows=False, reflections=False),
    "faithful": RenderPreset(
        shadow_size=1024, samples=4, shadows=True, reflections=True
    ),
}


@dataclass(frozen=True)
class FreeCamera:
    """A camera that belongs to no body of the model.

    Attributes:
        azimuth: Degrees around the vertical axis.
        elevation: Degrees; negative looks down. Within -90 and 90 the image is upright.
        distance: Metres from `lookat`.
        lookat: The point in the middle of the image, metres.
    """

    azimuth: float
    elevation: float
    distance: float
    lookat: tuple[float, float, float]


def select_backend() -> str:
    """Set `MUJOCO_GL` to a backend that works here, and return it.

    Must run before the first import of MuJoCo. A value set by the user is kept. Else,
    on Linux, `egl` and then `osmesa` are tried in a child process (about half a second,
    once: child processes inherit the answer), and `disable` remains, with which
    everything but images works.

    Returns:
        The backend's name; "" where the platform's own default is left alone.
    """
    # Once Mesa's software renderer is loaded, importing triton (which torch does when
    # it first needs it) crashes the process: both bring an LLVM. So triton goes first.
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
    # One llvmpipe thread per image is fastest when several processes draw.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL", "")
    too_late = "mujoco" in sys.modules
    if chosen or too_late or not sys.platform.startswith("linux"):
        return chosen
    working = (name for name in BACKENDS if not backend_fault(name))
    os.environ["MUJOCO_GL"] = next(working, "disable")
    return os.environ["MUJOCO_GL"]


def backend_fault(name: str) -> str:
    """Draw a sphere in a child process, which a broken driver may abort freely.

    Returns:
        What went wrong, in one line; "" if a sphere was seen.
    """
    answer = ask(sys.executable, "-c", _PROBE, seconds=_PROBE_SECONDS, MUJOCO_GL=name)
    return "" if answer.good else answer.text


def require_images() -> None:
    """Raise unless images can be drawn in this process.

    Raises:
        MissingDependencyError: no GL backend; names the packages to install.
    """
    if not sys.platform.startswith("linux"):
        return
    backend = os.environ.get("MUJOCO_GL", "")
    if backend in SWITCHED_OFF:
        raise MissingDependencyError(
            f"images need a GL backend, but MUJOCO_GL={backend}: no working EGL or "
            "OSMesa was found, or it was switched off. Install one of\n"
            f"  {APT_LINES}\nand unset MUJOCO_GL, or use observation='state'"
        )
    if not backend:
        raise MissingDependencyError(
            "images need a GL backend, but mujoco was imported before diffplan could "
            "choose one. Set MUJOCO_GL=egl (or osmesa) before starting Python, or call "
            "diffplan.envs.make before importing mujoco"
        )


class Renderer:
    """Draws one simulation; made once and kept for the environment's life.

    Every environment has its own GL context, made current at each image, so that
    several environments in one process cannot swap their pictures.

    Args:
        model: A `mujoco.MjModel`. Its quality settings are changed, which must happen
            before the context exists.
        size: Height and width of the images, pixels, at least 1.
        camera: Number of a camera of the model, or a `FreeCamera`.
        preset: "fast" or "faithful" (shadows, reflections, multi-sampling: 3 to 10
            times slower).

    Raises:
        MissingDependencyError: no GL backend.
        UnknownNameError: no such preset.
    """

    def __init__(
        self, model: Any, size: int, camera: int | FreeCamera, preset: str = "fast"
    ) -> None:
        require_known("render_preset", preset, PRESETS)
        require_images()
        import mujoco

        self._preset = PRESETS[preset]
        model.vis.quality.offsamples = self._preset.samples
        model.vis.quality.shadowsize = self._preset.shadow_size
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._model, self._camera = model, _camera(camera)
        self._flags = (
            (int(mujoco.mjtRndFlag.mjRND_SHADOW), self._preset.shadows),
            (int(mujoco.mjtRndFlag.mjRND_REFLECTION), self._preset.reflections),
        )
        self._renderer = mujoco.Renderer(model, size, size)
        self._heights = model.hfield_data.copy()
        self._close = weakref.finalize(self, self._renderer.close)
        _OPEN.add(self)
        close_first_at_exit()

    def draw(self, data: Any) -> np.ndarray:
        """Return the present image of `data` (a `mujoco.MjData`), uint8 [H, W, 3]."""
        if not np.array_equal(self._heights, self._model.hfield_data):
            self._upload_heights()
        self._renderer.update_scene(data, camera=self._camera)
        for flag, value in self._flags:
            self._renderer.scene.flags[flag] = value
        return self._renderer.render()

    def close(self) -> None:
        """Free the GL context; closing twice is allowed."""
        self._close()

    def _upload_heights(self) -> None:
        """Hand the terrain to the GL context, which keeps that of its first image.

        A task may draw a new one for each episode, as quadruped-escape does.
        """
        import mujoco

        # mujoco.Renderer has no public way to its two contexts.
        self._renderer._gl_context.make_current()
        for number in range(self._model.nhfield):
            mujoco.mjr_uploadHField(self._model, self._renderer._mjr_context, number)
        self._heights = self._model.hfield_data.copy()


_OPEN: weakref.WeakSet[Renderer] = weakref.WeakSet()
"""Renderers still alive: looked at only when Python exits."""


def close_first_at_exit() -> None:
    """Let open contexts end before the displays that they belong to.

    MuJoCo and dm_control each end the (common) display when Python exits, and a context
    that outlives it complains at length. What is registered last runs first: call this
    after everything that may register.
    """
    atexit.unregister(_close_open_contexts)
    atexit.register(_close_open_contexts)


def _close_open_contexts() -> None:
    for renderer in list(_OPEN):
        renderer.close()


def _camera(camera: int | FreeCamera) -> Any:
    """Return what `mujoco.Renderer.update_scene` understands."""
    if isinstance(camera, int):
        return camera
    import mujoco

    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.azimuth, view.elevation = camera.azimuth, camera.elevation
    view.distance = camera.distance
    view.lookat[:] = camera.lookat
    return view
