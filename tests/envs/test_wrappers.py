"""Wrappers for other people's environments."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffplan.envs.wrappers import OneHot, OneHotAction, Pixels
from diffplan.errors import ArgumentError


def test_one_hot_actions_are_an_environment_of_gymnasium() -> None:
    env = OneHotAction(gymnasium.make("CartPole-v1").unwrapped)
    assert env.action_space == OneHot(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CartPole's own bounds, and of any wrapper
        check_env(env, skip_render_check=True)


def test_a_choice_may_begin_at_any_number() -> None:
    env = gymnasium.make("CartPole-v1")
    env.action_space = gymnasium.spaces.Discrete(3, start=5)
    hot = OneHotAction(env)
    assert [hot.action(row) for row in np.eye(3)] == [5, 6, 7]


def test_all_choices_are_sampled_and_nothing_else_is_one() -> None:
    space = OneHot(3)
    space.seed(0)
    drawn = [space.sample() for _ in range(50)]
    assert all(space.contains(each) for each in drawn)
    assert np.sum(drawn, axis=0).min() > 0
    for wrong in ([1, 1, 0], [0, 0, 0], [0.5, 0.5, 0], [1, 0]):
        assert not space.contains(np.float32(wrong))


def test_other_actions_are_refused() -> None:
    with pytest.raises(ArgumentError, match="actions are Discrete"):
        OneHotAction(gymnasium.make("Pendulum-v1"))
    with pytest.raises(ArgumentError, match="render_mode='rgb_array', got None"):
        Pixels(gymnasium.make("Pendulum-v1"))
