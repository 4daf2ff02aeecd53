"""An environment of one's own is one file, and asks for no simulator or OpenGL."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="pip install .[suite]")

from gymnasium.utils.env_checker import check_env
from line_env import LineEnv
from toy import BOX

from diffplan import envs
from diffplan.agents import UniformAgent
from diffplan.envs import _rendering as rendering
from diffplan.envs.base import EnvOptions
from diffplan.envs.vector import VectorEnv
from diffplan.errors import ArgumentError
from diffplan.training import run_episodes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file a suite, and a probe of OpenGL a failure."""
    monkeypatch.setitem(envs._SUITES, "line", ("line_env", "LineEnv"))
    monkeypatch.setattr(rendering, "backend_fault", lambda name: pytest.fail("probed"))
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)


@pytest.mark.usefixtures("suite")
def test_it_keeps_gymnasiums_rules_and_says_its_own_defaults() -> None:
    env = envs.make("line/fast", seed=3)
    with pytest.warns(UserWarning, match="infinity"):
        check_env(env, skip_render_check=True)
    assert (env.options.time_limit, env.options.action_repeat) == (12, 1)
    slow = envs.make("line/slow", time_limit=9, start=0.5)
    assert (slow.options.time_limit, slow.options.action_repeat) == (9, 2)
    assert abs(slow.reset(seed=0)[0][0]) <= 0.5


@pytest.mark.usefixtures("suite")
def test_images_that_nobody_draws_are_refused() -> None:
    with pytest.raises(ArgumentError, match="'state', since LineEnv draws no images"):
        envs.make("line/fast", observation="pixels")
    env = envs.make("line/fast")
    assert env.metadata["render_modes"] == []
    with pytest.raises(ArgumentError, match="render: LineEnv draws no images"):
        env.render()


def test_episodes_tell_the_end_of_the_task_from_that_of_the_time() -> None:
    class Leaving(UniformAgent):
        def act(self, *arguments: object, **how: bool) -> tuple:
            action, memory = super().act(*arguments, **how)
            return 0 * action + 1, memory

    make = partial(LineEnv, "fast")
    short, long = EnvOptions(time_limit=3), EnvOptions(time_limit=40)
    for options, ended in ((short, False), (long, True)):
        batch = VectorEnv([partial(make, options)] * 2)
        for episode in run_episodes(Leaving(BOX), batch, [0, 1]):
            assert episode.terminated is ended
            beyond = np.abs(episode.observations[:, 0]) > 1.5
            assert beyond[:-1].sum() == 0
            assert beyond[-1] == ended


def test_seeds_of_numpy_are_seeds_and_what_is_none_is_refused() -> None:
    env = LineEnv("fast", EnvOptions(seed=np.int64(3)))
    first, expected = env.reset()[0], env.reset(seed=3)[0]
    assert first == expected == env.reset(seed=np.int32(3))[0]
    for seed in (-3, 2.5, "a"):
        # TypeError: the type checker of the tests may come before our own words.
        with pytest.raises((ArgumentError, TypeError), match="seed"):
            env.reset(seed=seed)


def test_it_loads_no_simulator() -> None:
    code = (
        "import os, sys\n"
        "from line_env import LineEnv\n"
        "from diffplan.envs.base import EnvOptions\n"
        "LineEnv('fast', EnvOptions()).reset(seed=0)\n"
        "print('mujoco' in sys.modules, 'MUJOCO_GL' in os.environ)\n"
    )
    clean = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False False"
