"""The Lottery: its mechanics against MuJoCo and the linear ODE, its pay-offs."""

import numpy as np
import pytest
from scipy.linalg import expm

from diffplan import envs
from diffplan.envs.lottery import GOALS, PAYOFFS
from diffplan.errors import UnknownNameError

MODEL = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody><body>
    <joint name="x" type="slide" axis="1 0 0" damping="10" armature="0.004"/>
    <joint name="y" type="slide" axis="0 1 0" damping="10" armature="0.004"/>
    <geom type="sphere" size="0.05" mass="0.524"/>
  </body></worldbody>
  <actuator>
    <position joint="x" kp="100"/><position joint="y" kp="100"/>
  </actuator>
</mujoco>
"""


def walk(env: envs.base.SimulatorEnv, actions: np.ndarray) -> np.ndarray:
    return np.stack([env.step(action)[0] for action in actions])


def test_the_point_moves_as_in_mujoco() -> None:
    import mujoco

    env = envs.make("lottery/paper")
    env.reset(seed=0)
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = env._place, env._velocity
    # Not so far out that the point would meet the ends of the joints.
    actions = np.random.default_rng(0).uniform(-0.7, 0.7, (20, 2))
    for action in actions:
        env.step(action)
        data.ctrl[:] = action
        mujoco.mj_step(model, data, 5)
        np.testing.assert_allclose(env._place, data.qpos, atol=1e-12)
        np.testing.assert_allclose(env._velocity, data.qvel, atol=1e-11)


def test_the_point_follows_the_linear_equation() -> None:
    env = envs.make("lottery/paper")
    observation, _ = env.reset(seed=1)
    target = np.array([0.3, -0.2])
    seen = walk(env, np.repeat(target[None], 20, axis=0))
    mass = 0.528
    system = np.array([[0.0, 1.0], [-100 / mass, -10 / mass]])
    for axis in range(2):
        start = observation[[axis, axis + 2]] - [target[axis], 0.0]
        exact = [expm(system * 0.05 * k) @ start for k in range(1, 21)]
        error = seen[:, axis] - target[axis] - np.array(exact)[:, 0]
        # A step of first order: its size, 0.01 s, times the fastest change's share.
        assert np.abs(error).max() < 0.05 * np.abs(start).max()
        assert abs(error[-1]) < 1e-3


def test_a_joint_ends() -> None:
    env = envs.make("lottery/paper")
    env.reset(seed=0)
    seen = walk(env, np.repeat([[-1.0, -1.0]], 10, axis=0))
    assert seen[:, :2].min() >= -1.0
    np.testing.assert_allclose(seen[-1, :2], -1.0, atol=1e-2)


def test_starts() -> None:
    env = envs.make("lottery/paper")
    places = []
    for seed in range(200):
        env.reset(seed=seed)
        places.append(env._place)
    low, high = np.min(places, 0), np.max(places, 0)
    # After the one step towards the middle that precedes the first observation.
    env._place, env._velocity = np.array([-0.6, -0.1]), np.zeros(2)
    env._move(np.zeros(2))
    corner = env._place
    assert (low >= corner - 1e-9).all()
    assert (low <= corner + 0.01).all()
    env._place, env._velocity = np.array([-0.4, 0.1]), np.zeros(2)
    env._move(np.zeros(2))
    assert (high <= env._place + 1e-9).all()
    assert (high >= env._place - 0.01).all()


@pytest.mark.parametrize("name", PAYOFFS)
def test_the_bottom_goal_pays_by_chance_and_the_top_goal_surely(name: str) -> None:
    payoff = PAYOFFS[name]
    env = envs.make(f"lottery/{name}")
    earned: dict[str, list[float]] = {"top": [], "bottom": []}
    for seed in range(400):
        for goal, rewards in earned.items():
            env.reset(seed=seed)
            paid = [env.step(GOALS[goal])[1] for _ in range(8)]
            assert sum(reward != 0 for reward in paid) == 1
            rewards.append(sum(paid))
    assert set(earned["top"]) == {payoff.top}
    assert set(earned["bottom"]) == {payoff.win, payoff.loss}
    share = np.mean(np.array(earned["bottom"]) == payoff.win)
    # Five standard errors: once in a million seeds' choices.
    assert abs(share - payoff.chance) < 5 * np.sqrt(payoff.chance * 0.35 / 400)
    assert payoff.bottom < payoff.top


def test_the_papers_and_the_released_payoffs() -> None:
    assert PAYOFFS["paper"].bottom == pytest.approx(-1.0)
    assert PAYOFFS["released"].bottom == pytest.approx(-0.4)


def test_only_the_first_hit_counts_and_shows() -> None:
    env = envs.make("lottery/paper")
    observation, info = env.reset(seed=0)
    assert observation[4:].tolist() == [0, 0]
    assert info == {"choose_top": 0, "choose_bottom": 0, "no_choice": 1}
    paid = []
    for goal in ("top", "bottom"):
        for _ in range(8):
            observation, reward, _, _, info = env.step(GOALS[goal])
            paid.append(reward)
    assert sum(paid) == 1.0
    assert observation[4:].tolist() == [1, 0]
    assert np.linalg.norm(observation[:2] - GOALS["bottom"]) < 0.25
    assert info == {"choose_top": 1, "choose_bottom": 0, "no_choice": 0}


def test_images_show_the_point_and_the_outcome() -> None:
    env = envs.make("lottery/paper", observation="pixels")
    seen = set()
    for seed in range(10):
        before, _ = env.reset(seed=seed)
        assert before.shape == (3, 64, 64)
        # The bottom goal is at the lower right; its middle has one colour.
        row, column = 54, 51
        untouched = before[:, row, column]
        for _ in range(6):
            after, *_ = env.step(GOALS["bottom"] + [0.0, -0.2])
        red, green, _ = map(int, after[:, row, column])
        assert not np.array_equal(after[:, row, column], untouched)
        assert np.array_equal(after[:, 64 - row, column], untouched)
        won = env._state()[5] > 0
        assert (green > red) == won
        seen.add(won)
    assert seen == {True, False}


def test_other_payoffs_are_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="paper"):
        envs.make("lottery/papers")
