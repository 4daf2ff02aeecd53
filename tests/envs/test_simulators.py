"""What every simulated environment promises, on all suites."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffplan import envs
from diffplan.errors import (
    ArgumentError,
    MissingDependencyError,
    ShapeError,
    UnknownNameError,
)

TASKS = [
    "dm_control/cheetah-run",
    "dm_control/cartpole-swingup",
    "lottery/paper",
    "metaworld/reach",
    "metaworld/window-close",
    "metaworld/push",
]
EVERY_TASK = envs.list_tasks()


def episode(env: gymnasium.Env, seed: int, steps: int) -> list[np.ndarray]:
    """Return observations, rewards and infos of a seeded random episode."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    record = [observation]
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape)
        observation, reward, _, _, info = env.step(action)
        numbers = [np.asarray(value) for value in info.values()]
        record += [observation, np.asarray(reward), *numbers]
    return record


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    pairs = itertools.zip_longest(first, second)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_every_task_keeps_gymnasiums_rules(task: str) -> None:
    env = envs.make(task)
    # Infinite bounds of an observation are what a state vector has.
    with pytest.warns(UserWarning, match="infinity") as warned:
        check_env(env, skip_render_check=True)
    assert all("infinity" in str(warning.message) for warning in warned)
    assert env.action_space == gymnasium.spaces.Box(
        -1.0, 1.0, env.action_space.shape, np.float32
    )
    env.close()


@pytest.mark.render
@pytest.mark.parametrize("task", ["dm_control/cartpole-swingup", "metaworld/reach"])
def test_pixels_keep_gymnasiums_rules(task: str) -> None:
    env = envs.make(task, observation="pixels")
    check_env(env, skip_render_check=True)
    assert env.observation_space.shape == (3, 64, 64)
    assert env.render().shape == (64, 64, 3)
    env.close()


@pytest.mark.parametrize("task", EVERY_TASK)
def test_a_seed_determines_the_episode_whatever_came_before(task: str) -> None:
    clean = episode(envs.make(task, time_limit=150), seed=7, steps=20)
    dirty = envs.make(task, time_limit=150)
    episode(dirty, seed=3, steps=40)
    assert same(clean, episode(dirty, seed=7, steps=20))
    assert not same(clean, episode(dirty, seed=8, steps=20))


@pytest.mark.parametrize("task", TASKS)
def test_numpys_global_generator_is_neither_read_nor_moved(task: str) -> None:
    env = envs.make(task)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = episode(env, seed=5, steps=5)
    assert np.array_equal(before, np.random.get_state()[1])
    np.random.seed(2)
    assert same(first, episode(env, seed=5, steps=5))


@pytest.mark.parametrize("task", TASKS)
def test_unseeded_resets_go_on_from_the_first_seed(task: str) -> None:
    given, made = envs.make(task), envs.make(task, seed=11)
    a, b = given.reset(seed=11)[0], made.reset()[0]
    assert np.array_equal(a, b)
    assert np.array_equal(given.reset()[0], made.reset()[0])
    assert not np.array_equal(a, made.reset()[0])


@pytest.mark.render
@pytest.mark.parametrize("task", ["dm_control/cheetah-run", "metaworld/reach"])
def test_images_repeat_bit_for_bit_beside_another_environment(task: str) -> None:
    alone = envs.make(task, observation="pixels")
    clean = episode(alone, seed=4, steps=3)
    alone.close()
    first = envs.make(task, observation="pixels")
    second = envs.make("metaworld/hammer", observation="pixels")
    third = envs.make("dm_control/walker-walk", observation="pixels")
    for other in (second, third):
        episode(other, seed=0, steps=2)
    assert same(clean, episode(first, seed=4, steps=3))
    second.close()
    assert same(clean, episode(first, seed=4, steps=3))
    for env in (first, third):
        env.close()


@pytest.mark.parametrize("task", ["dm_control/cheetah-run", "metaworld/reach"])
def test_action_repeat_is_stepping_by_hand(task: str) -> None:
    options = {"reward": "dense"} if task.startswith("metaworld") else {}
    single = envs.make(task, action_repeat=1, **options)
    repeated = envs.make(task, action_repeat=4, **options)
    assert np.array_equal(single.reset(seed=0)[0], repeated.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-1, 1, single.action_space.shape)
        by_hand = [single.step(action) for _ in range(4)]
        observation, reward, *_ = repeated.step(action)
        assert reward == sum(step[1] for step in by_hand)
        assert np.array_equal(observation, by_hand[-1][0])


@pytest.mark.parametrize(
    ("task", "decisions"),
    [("metaworld/reach", 150), ("metaworld/thermos", 75), ("metaworld/hammer", 75)],
)
def test_episodes_end_at_the_default_time_limit(task: str, decisions: int) -> None:
    env = envs.make(task)
    env.reset(seed=0)
    for count in range(1, decisions + 1):
        *_, terminated, truncated, _ = env.step(np.zeros(4))
        assert not terminated
        assert truncated == (count == decisions)
    with pytest.raises(ArgumentError, match="call reset"):
        env.step(np.zeros(4))


def test_the_suites_own_time_limit_does_not_interfere() -> None:
    env = envs.make("dm_control/cartpole-swingup", time_limit=1203, action_repeat=4)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[3] for _ in range(301)]
    assert ends == [False] * 300 + [True]  # the last decision lasts three steps


def test_actions_are_scaled_to_the_quadrupeds_own_bounds() -> None:
    from dm_control import suite

    ours = envs.make("dm_control/quadruped-walk")
    ours.reset(seed=0)
    ours.step(np.ones(12))
    ours.step(-np.ones(12))
    theirs = ours._suite_env.physics.data.ctrl
    bounds = suite.load("quadruped", "walk").action_spec()
    assert np.allclose(theirs, bounds.minimum, atol=1e-12)
    ours.step(np.ones(12))
    assert np.allclose(ours._suite_env.physics.data.ctrl, bounds.maximum, atol=1e-12)


def test_dm_control_gives_what_the_suite_gives() -> None:
    from dm_control import suite

    env = envs.make("dm_control/cheetah-run")
    observation, _ = env.reset(seed=3)
    drawn = np.random.Generator(np.random.PCG64(3)).integers(2**31)
    direct = suite.load("cheetah", "run", task_kwargs={"random": int(drawn)})
    expected = direct.reset()
    for _ in range(10):
        flat = np.concatenate([np.ravel(x) for x in expected.observation.values()])
        assert np.array_equal(observation, flat.astype(np.float32))
        expected = direct.step(np.full(6, 0.5))
        observation, reward, *_ = env.step(np.full(6, 0.5))
        assert reward == expected.reward


@pytest.mark.parametrize(
    ("task", "low", "high"),
    # Random returns measured at these repeats: about 101 and 15 (mean of episodes).
    [("cartpole-swingup", 5.0, 400.0), ("cheetah-run", 3.0, 60.0)],
)
def test_random_actions_return_what_they_should(
    task: str, low: float, high: float
) -> None:
    env = envs.make(f"dm_control/{task}", action_repeat=4)
    rng = np.random.default_rng(0)
    returns = []
    for seed in range(4):
        env.reset(seed=seed)
        total, truncated = 0.0, False
        while not truncated:
            action = rng.uniform(-1, 1, env.action_space.shape)
            _, reward, _, truncated, _ = env.step(action)
            total += reward
        returns.append(total)
    assert low < np.mean(returns) < high


def test_wrong_names_list_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="metaworld/reach"):
        envs.make("metaword/reach")
    with pytest.raises(UnknownNameError, match="reach"):
        envs.make("metaworld/reahc")
    with pytest.raises(UnknownNameError, match="cheetah-run"):
        envs.make("dm_control/cheetah-runn")
    with pytest.raises(UnknownNameError, match="dm_control"):
        envs.make("cheetah")


@pytest.mark.parametrize(
    "settings",
    [
        {"observation": "pixel"},
        {"action_repeat": 0},
        {"time_limit": 0},
        {"image_size": 0},
        {"reward": "none"},
    ],
)
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        envs.make("metaworld/reach", **settings)


def test_wrong_actions_are_refused() -> None:
    env = envs.make("metaworld/reach")
    with pytest.raises(ArgumentError, match="reset"):
        env.step(np.zeros(4))
    env.reset(seed=0)
    with pytest.raises(ShapeError, match=r"action: expected \[4\], got \[3\]"):
        env.step(np.zeros(3))
    with pytest.raises(ArgumentError, match="finite"):
        env.step(np.full(4, np.nan))


def test_missing_simulators_name_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    for name in ("metaworld.env_dict", "dm_control"):
        monkeypatch.setitem(sys.modules, name, None)
    for task in ("metaworld/reach", "dm_control/cheetah-run"):
        with pytest.raises(MissingDependencyError, match=r"PATH\[suite\]"):
            envs.make(task)
