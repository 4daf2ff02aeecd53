"""Environments in batches: equal to single ones, whatever the masks and workers."""

import functools

import gymnasium
import numpy as np
import pytest

from diffplan import envs
from diffplan.envs.vector import VectorEnv
from diffplan.envs.wrappers import ActionRepeat
from diffplan.errors import ArgumentError, DiffplanError

TASK = "metaworld/reach"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_equals_single_environments(num_workers: int) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 4))
    seeds = [10, 11, 12]
    with envs.make_vector(TASK, 3, num_workers=num_workers) as batch:
        observations, infos = batch.reset(seeds)
        history = [batch.step(action) for action in actions]
    for index, seed in enumerate(seeds):
        single = envs.make(TASK)
        observation, info = single.reset(seed=seed)
        assert np.array_equal(observations[index], observation)
        assert infos[index]["distance"] == info["distance"]
        for step, action in zip(history, actions, strict=True):
            observation, reward, *_, info = single.step(action[index])
            assert np.array_equal(step.observations[index], observation)
            assert step.rewards[index] == reward
            assert step.infos[index]["distance"] == info["distance"]
    assert history[0].observations.dtype == np.float32


def test_masked_environments_rest() -> None:
    mask = np.array([True, False])
    with envs.make_vector("dm_control/cheetah-run", 2, time_limit=3) as batch:
        start, _ = batch.reset([0, 1])
        for _ in range(3):
            step = batch.step(np.ones((2, 6)), mask=mask)
        assert step.done.tolist() == [True, False]
        assert step.rewards[1] == 0.0
        assert np.array_equal(step.observations[1], start[1])
        # The finished one begins anew, the other goes on.
        again, _ = batch.reset([0, 99], mask=step.done)
        assert np.array_equal(again, start)
        assert not batch.step(np.ones((2, 6))).done.any()


def test_observations_are_not_overwritten_by_later_steps() -> None:
    with envs.make_vector("dm_control/cheetah-run", 1) as batch:
        first, _ = batch.reset([0])
        kept = first.copy()
        batch.step(np.ones((1, 6)))
        assert np.array_equal(first, kept)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_name_the_argument(num_workers: int) -> None:
    with envs.make_vector(TASK, 2, num_workers=num_workers) as batch:
        with pytest.raises(ArgumentError, match="call reset"):
            batch.step(np.zeros((2, 4)))
        with pytest.raises(ArgumentError, match="seeds"):
            batch.reset([1])
        with pytest.raises(ArgumentError, match="mask"):
            batch.reset([1, 2], mask=np.ones(3, bool))
        with pytest.raises(ArgumentError, match="actions"):
            batch.step(np.zeros((2, 3)))
        batch.reset([1, 2])  # still alive
    with pytest.raises(ArgumentError, match="closed"):
        batch.reset([1, 2])


def test_a_worker_that_cannot_build_says_why() -> None:
    factory = functools.partial(gymnasium.make, "NoSuchTask-v0")
    with pytest.raises(DiffplanError, match="NoSuchTask"):
        VectorEnv([factory], num_workers=1)


class Counter(gymnasium.Env):
    """Reward is the number of the step; ends after five."""

    observation_space = gymnasium.spaces.Box(0, 10, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None):  # noqa: ANN201
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):  # noqa: ANN001, ANN201
        self.count += 1
        observation = np.full(1, self.count, np.float32)
        return observation, float(self.count), self.count == 5, False, {}


def test_action_repeat_sums_and_stops_at_the_end() -> None:
    env = ActionRepeat(Counter(), repeat=3)
    env.reset()
    assert env.step(np.zeros(1))[1:4] == (1.0 + 2 + 3, False, False)
    observation, reward, terminated, *_ = env.step(np.zeros(1))
    assert (observation.item(), reward, terminated) == (5.0, 4.0 + 5, True)
