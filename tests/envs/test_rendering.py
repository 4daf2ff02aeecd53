"""Images: the right view, upright, and clear words where none can be drawn."""

import os
import subprocess
import sys

import numpy as np
import pytest

from diffplan import envs
from diffplan.envs import _rendering as rendering
from diffplan.errors import MissingDependencyError, UnknownNameError


@pytest.mark.render
def test_the_view_is_latcos_mirrored_camera() -> None:
    # LatCo asks for azimuth 205, elevation -165: a camera that hangs upside down. Its
    # image with both axes flipped is ours. An independent renderer draws it here.
    import mujoco

    env = envs.make("metaworld/reach", observation="pixels")
    ours, _ = env.reset(seed=0)
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = 205.0, -165.0, 2.6
    camera.lookat[:] = (1.1, 1.1, -0.1)
    model, data = env._simulation()
    theirs = mujoco.Renderer(model, 64, 64)
    theirs.update_scene(data, camera)
    theirs.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    theirs.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    upside_down = theirs.render()
    theirs.close()
    env.close()
    turned = upside_down[::-1, ::-1].astype(int)
    difference = np.abs(ours.transpose(1, 2, 0).astype(int) - turned)
    # Pixels on edges fall on one side or the other of a turned grid.
    assert difference.mean() < 2.0
    unturned = np.abs(ours.transpose(1, 2, 0).astype(int) - upside_down)
    assert unturned.mean() > 20.0


@pytest.mark.render
def test_images_follow_the_simulation() -> None:
    env = envs.make("dm_control/cheetah-run", observation="pixels", action_repeat=4)
    first, _ = env.reset(seed=0)
    assert first.dtype == np.uint8
    assert first.shape == (3, 64, 64)
    assert first.std() > 10
    # Sky above, floor below: the sky is brighter.
    assert first[:, :20].mean() > first[:, 54:].mean() + 10
    later, *_ = env.step(np.ones(6))
    assert not np.array_equal(first, later)
    env.close()


@pytest.mark.render
def test_the_faithful_preset_differs_little_but_has_shadows() -> None:
    images = {}
    for preset in ("fast", "faithful"):
        env = envs.make(
            "dm_control/walker-walk", observation="pixels", render_preset=preset
        )
        images[preset] = env.reset(seed=0)[0].astype(int)
        env.close()
    difference = np.abs(images["fast"] - images["faithful"]).mean()
    assert 0.5 < difference < 20


@pytest.mark.render
def test_unknown_presets_are_refused() -> None:
    env = envs.make("dm_control/cheetah-run", render_preset="pretty")
    env.reset(seed=0)
    with pytest.raises(UnknownNameError, match="render_preset"):
        env.render()


def test_a_chosen_backend_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "mine")
    assert rendering.select_backend() == "mine"


@pytest.mark.parametrize(
    ("working", "chosen"),
    [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa"), (set(), "disable")],
)
def test_backends_are_probed_in_order(
    monkeypatch: pytest.MonkeyPatch, working: set[str], chosen: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(
        rendering, "backend_fault", lambda name: "" if name in working else "no library"
    )
    monkeypatch.setenv("MUJOCO_GL", "")
    assert rendering.select_backend() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_a_probe_of_nonsense_fails() -> None:
    assert "nonsense" in rendering.backend_fault("nonsense")


@pytest.mark.parametrize("backend", ["disable", ""])
def test_without_a_backend_pixels_name_the_packages(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", backend)
    message = "libegl1" if backend else "before importing mujoco"
    with pytest.raises(MissingDependencyError, match=message):
        envs.make("dm_control/cheetah-run", observation="pixels")


def test_states_need_no_graphics_at_all() -> None:
    code = (
        "from diffplan import envs\n"
        "tasks = ('quadruped-escape', 'cheetah-run')\n"
        "for task in (*(f'dm_control/{t}' for t in tasks), 'metaworld/reach'):\n"
        "    env = envs.make(task)\n"
        "    env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
        "import diffplan\n"
        "try:\n"
        "    env.render()\n"
        "except diffplan.errors.MissingDependencyError as error:\n"
        "    print('libosmesa6' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "MUJOCO_GL": "disable"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"


def test_importing_envs_loads_no_simulator() -> None:
    code = (
        "import sys, diffplan.envs\n"
        "names = ('gymnasium', 'mujoco', 'dm_control', 'metaworld')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.render
def test_forgotten_environments_end_quietly() -> None:
    code = (
        "from diffplan import envs\n"
        "kept = []\n"
        "for task in ('metaworld/reach', 'dm_control/cheetah-run'):\n"
        "    kept.append(envs.make(task, observation='pixels'))\n"
        "    kept[-1].reset(seed=0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
