"""An agent as a policy of Gymnasium, in its own environments."""

import math
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.adapters.gymnasium import Policy
from diffplan.agents import GaussianNoise, PlanningAgent, UniformAgent
from diffplan.envs.vector import VectorEnv
from diffplan.errors import ShapeError, TensorTypeError

BOX = dp.Box([-2.0], [2.0])


class PendulumOfGymnasium:
    """What Pendulum-v1 computes, from its source's formulas; observed as it is."""

    def encode(self, observation: Tensor) -> Tensor:
        angle = torch.atan2(observation[..., 1], observation[..., 0])
        return torch.stack([angle, observation[..., 2]], dim=-1)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        angle, speed = state.unbind(-1)
        speed = speed + (15 * angle.sin() + 3 * action[..., 0]) * 0.05
        speed = speed.clamp(-8, 8)
        return torch.stack([angle + 0.05 * speed, speed], dim=-1)


def cost(states: Tensor, actions: Tensor) -> Tensor:
    angle, speed = states[..., :-1, :].unbind(-1)
    angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    step = angle.square() + 0.1 * speed.square() + 0.001 * actions[..., 0].square()
    return step.sum(dim=-1)


def planning_agent(**options: object) -> PlanningAgent:
    planner = dp.MPPI(20, num_samples=200, iterations=2, temperature=1.0)
    return PlanningAgent(PendulumOfGymnasium(), planner, cost, BOX, **options)


def episode(policy: Policy, seed: int, steps: int = 120) -> tuple[float, np.ndarray]:
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=seed)
    policy.reset()
    total, actions = 0.0, []
    for _ in range(steps):
        actions.append(policy.act(observation))
        observation, reward, *_ = env.step(actions[-1])
        total += float(reward)
    return total, np.stack(actions)


def test_a_planner_swings_the_pendulum_of_gymnasium_up() -> None:
    env = gymnasium.make("Pendulum-v1")
    planned, actions = episode(Policy(planning_agent(), env), seed=3)
    drawn, _ = episode(Policy(UniformAgent(BOX), env), seed=3)
    assert planned > 0.5 * drawn  # returns are negative
    assert actions.shape == (120, 1)
    assert actions.dtype == np.float32
    again, same = episode(Policy(planning_agent(), env), seed=3)
    assert again == planned
    assert np.array_equal(same, actions)


def test_a_vector_acts_as_its_environments_do() -> None:
    vector = gymnasium.make_vec("Pendulum-v1", num_envs=3)
    observations, _ = vector.reset(seed=5)
    policy = Policy(planning_agent(), vector)
    together = policy.act(observations)
    assert together.shape == (3, 1)
    single = Policy(planning_agent(), gymnasium.make("Pendulum-v1"))
    np.testing.assert_allclose(single.act(observations[0]), together[0], atol=1e-5)


def test_a_vector_environment_of_ours_is_one() -> None:
    factory = partial(gymnasium.make, "Pendulum-v1")
    policies, actions = [], []
    for vector in (
        VectorEnv([factory] * 2),
        gymnasium.vector.SyncVectorEnv([factory] * 2),
    ):
        observations, _ = vector.reset(seed=5)
        policies.append(Policy(planning_agent(), vector))
        actions.append(policies[-1].act(observations))
        vector.step(actions[-1])
        vector.close()
    assert np.array_equal(*actions)


def test_new_episodes_begin_where_the_mask_says_and_draw_their_own_noise() -> None:
    vector = gymnasium.make_vec("Pendulum-v1", num_envs=3)
    observations, _ = vector.reset(seed=5)
    policy = Policy(planning_agent(exploration=GaussianNoise(0.3)), vector)
    first = policy.act(observations, explore=True)
    policy.reset(np.array([True, False, True]))
    assert policy._memory.keys.tolist() == [3, 1, 4]
    assert policy._memory.age.tolist()[1] >= 0
    second = policy.act(observations, explore=True)
    assert (first[[0, 2]] != second[[0, 2]]).all()
    policy.reset()
    assert policy._memory.keys.tolist() == [5, 6, 7]


def test_no_two_episodes_of_one_environment_see_the_same_noise() -> None:
    env, found = gymnasium.make("Pendulum-v1"), []
    for _ in range(2):
        policy = Policy(UniformAgent(BOX), env)
        for _ in range(3):
            observation, _ = env.reset(seed=0)
            policy.reset()
            found.append(float(policy.act(observation)[0]))
    assert found[:3] == found[3:]
    assert len(set(found)) == 3
    idle = Policy(UniformAgent(BOX), env)  # acts before its first reset
    assert float(idle.act(observation)[0]) == found[0]
    idle.reset()
    assert float(idle.act(observation)[0]) == found[1]


def test_what_does_not_fit_is_refused() -> None:
    env = gymnasium.make("Pendulum-v1")
    with pytest.raises(ShapeError, match="agent: expected actions of 1 numbers"):
        Policy(UniformAgent(dp.Box([-1.0, -1.0], [1.0, 1.0])), env)
    with pytest.raises(TensorTypeError, match=r"environment: .*got Discrete"):
        Policy(UniformAgent(BOX), gymnasium.make("CartPole-v1"))
    with pytest.raises(ShapeError, match=r"mask: expected \[1\]"):
        Policy(UniformAgent(BOX), env).reset(np.array([True, False]))
    with pytest.raises(ShapeError, match="observation"):
        Policy(planning_agent(), gymnasium.make_vec("Pendulum-v1", num_envs=2)).act(
            np.zeros((3, 3))
        )
