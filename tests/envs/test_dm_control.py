"""Every task of the DeepMind Control Suite, compared with the suite itself."""

import gymnasium
import numpy as np
import pytest
from dm_control import suite
from dm_env import specs

from diffplan import envs
from diffplan.envs.dm_control import (
    GRAD_MPC_ACTION_REPEAT,
    PLANET_ACTION_REPEAT,
    _actions,
    _drawing_nothing,
)
from diffplan.errors import ArgumentError, NonFiniteError

# The dog and the motion-capture humanoid take seconds to load and are like the others.
TASKS = [pair for pair in suite.ALL_TASKS if pair[0] not in ("dog", "humanoid_CMU")]
LQR = [pair for pair in TASKS if pair[0] == "lqr"]

each_task = pytest.mark.parametrize("pair", TASKS, ids="-".join)


def make(pair: tuple[str, str], **settings: object) -> envs.base.SimulatorEnv:
    return envs.make(f"dm_control/{'-'.join(pair)}", **settings)


def at_rest(env: envs.base.SimulatorEnv) -> None:
    """Put the simulation at rest at zero, where lqr ends."""
    physics = env._suite_env.physics
    with physics.reset_context():
        physics.data.qpos[:] = 0
        physics.data.qvel[:] = 0


@each_task
def test_every_task_gives_what_the_suite_gives(pair: tuple[str, str]) -> None:
    env = make(pair, action_repeat=2, time_limit=7)
    observation, _ = env.reset(seed=5)
    drawn = np.random.Generator(np.random.PCG64(5)).integers(2**31)
    # The springs of lqr are drawn when it is loaded, everything else at the reset.
    direct = suite.load(*pair, task_kwargs={"random": 0})
    direct.task._random = np.random.RandomState(int(drawn))
    with _drawing_nothing(direct.physics):
        expected = direct.reset()
    spec = direct.action_spec()
    low, high = (np.broadcast_to(x, spec.shape) for x in (spec.minimum, spec.maximum))
    rng = np.random.default_rng(0)
    truncated = False
    while not truncated:
        flat = np.concatenate([np.ravel(x) for x in expected.observation.values()])
        assert np.array_equal(observation, flat.astype(np.float32))
        action = rng.uniform(-1, 1, env.action_space.shape)
        # lqr has no bounds: what is given is what acts.
        theirs = action if pair in LQR else low + (action + 1) / 2 * (high - low)
        total = 0.0
        for _ in range(min(2, 7 - env._elapsed)):
            expected = direct.step(theirs)
            total += expected.reward
        observation, reward, terminated, truncated, info = env.step(action)
        assert reward == pytest.approx(total, rel=1e-9, abs=1e-12)
        assert not terminated
        assert info["discount"] == 1.0
    with pytest.raises(ArgumentError, match="call reset"):
        env.step(action)
    env.close()


@each_task
def test_a_seed_determines_every_task_whatever_came_before(
    pair: tuple[str, str],
) -> None:
    clean, dirty = make(pair), make(pair)
    dirty.reset(seed=3)
    for _ in range(5):
        dirty.step(np.ones(dirty.action_space.shape))
    first, again = clean.reset(seed=7)[0], dirty.reset(seed=7)[0]
    assert np.array_equal(first, again)
    action = np.full(clean.action_space.shape, 0.5)
    for _ in range(3):
        ours, theirs = clean.step(action), dirty.step(action)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]


@pytest.mark.parametrize("pair", LQR, ids="-".join)
def test_unbounded_actions_stay_unbounded_and_unscaled(pair: tuple[str, str]) -> None:
    env = make(pair)
    shape = env.action_space.shape
    assert env.action_space == gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
    env.reset(seed=0)
    for size in (-30.0, 0.25, 5.0):
        env.step(np.full(shape, size))
        assert env._suite_env.physics.data.ctrl == pytest.approx(size)


def test_one_sided_bounds_stay_unscaled_and_are_kept() -> None:
    low, high = np.array([-1e10, -2.0, -2.0]), np.array([3.0, 1e10, 6.0])
    space, at_low, at_high = _actions(specs.BoundedArray((3,), float, low, high))
    assert space.low.tolist() == [-np.inf, -2.0, -1.0]
    assert space.high.tolist() == [3.0, np.inf, 1.0]
    assert at_low.tolist() == [-1.0, -1.0, -2.0]  # What -1 means in the simulator.
    assert at_high.tolist() == [1.0, 1.0, 6.0]


@pytest.mark.parametrize("repeat", [1, 4])
def test_a_task_that_ends_is_terminated_with_discount_zero(repeat: int) -> None:
    env = make(("lqr", "lqr_2_1"), action_repeat=repeat)
    assert env.reset(seed=0)[1] == {"discount": 1.0}
    at_rest(env)
    _, reward, terminated, truncated, info = env.step(np.zeros(1))
    assert (terminated, truncated, info) == (True, False, {"discount": 0.0})
    assert reward == pytest.approx(1.0)  # Of one simulated step: none followed.
    with pytest.raises(ArgumentError, match="over; call reset"):
        env.step(np.zeros(1))
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, False)


def test_an_end_at_the_time_limit_is_told_as_what_it_is() -> None:
    env = make(("lqr", "lqr_2_1"), time_limit=1)
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, True)
    env.reset(seed=0)
    at_rest(env)
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_an_end_with_a_discount_left_is_a_truncation() -> None:
    env = make(("cartpole", "balance"))
    env.reset(seed=0)
    env._suite_env.task.get_termination = lambda physics: 0.5
    assert env.step(np.zeros(1))[2:] == (False, True, {"discount": 0.5})
    with pytest.raises(ArgumentError, match="call reset"):
        env.step(np.zeros(1))


def test_a_simulation_that_breaks_is_over_and_says_so() -> None:
    env = make(("lqr", "lqr_2_1"))
    env.reset(seed=0)
    with pytest.raises(NonFiniteError, match="unstable under the action"):
        env.step(np.full(1, 1e30))
    with pytest.raises(ArgumentError, match="call reset"):
        env.step(np.zeros(1))
    env.reset(seed=0)
    env.step(np.zeros(1))


@pytest.mark.render
def test_each_episode_of_escape_is_drawn_on_its_own_terrain() -> None:
    def images(seeds: list[int]) -> list[np.ndarray]:
        with make(("quadruped", "escape"), observation="pixels") as env:
            return [env.reset(seed=seed)[0].astype(int) for seed in seeds]

    first, second, third = images([0, 1, 0])
    assert np.array_equal(second, images([1])[0])
    assert np.array_equal(third, first)
    assert np.abs(first - second).mean() > 1


@pytest.mark.render
def test_two_environments_of_escape_keep_their_terrains_apart() -> None:
    with (
        make(("quadruped", "escape"), observation="pixels") as one,
        make(("quadruped", "escape"), observation="pixels") as other,
    ):
        one.reset(seed=0)
        other.reset(seed=1)
        first, _ = one.reset(seed=2)
        second, _ = other.reset(seed=3)
        assert np.array_equal(first, one.render().transpose(2, 0, 1))
        assert np.array_equal(second, other.reset(seed=3)[0])
        assert np.array_equal(first, one.reset(seed=2)[0])


def test_papers_action_repeats_are_named_apart() -> None:
    # Grad-MPC, arXiv:2312.17227, Table 4.
    assert GRAD_MPC_ACTION_REPEAT["ball_in_cup-catch"] == 6
    assert PLANET_ACTION_REPEAT["ball_in_cup-catch"] == 4
    both = GRAD_MPC_ACTION_REPEAT.keys() & PLANET_ACTION_REPEAT.keys()
    differing = {
        task
        for task in both
        if GRAD_MPC_ACTION_REPEAT[task] != PLANET_ACTION_REPEAT[task]
    }
    assert differing == {"ball_in_cup-catch"}
