"""Environments in batches: equal to single ones, whatever the masks and workers."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RenderCollection, TimeLimit
from gymnasium.wrappers.vector import GrayscaleObservation, RecordEpisodeStatistics
from painter_env import Painter

from diffplan import envs
from diffplan.envs._infos import batched
from diffplan.envs.base import EnvOptions
from diffplan.envs.vector import VectorEnv
from diffplan.envs.wrappers import ActionRepeat
from diffplan.errors import ArgumentError, DiffplanError

TASK = "metaworld/reach"


def test_copies_with_a_seed_have_episodes_of_their_own() -> None:
    with envs.make_vector("lottery/paper", 3, seed=4) as batch:
        together, _ = batch.reset()
    alone = [envs.make("lottery/paper", seed=4 + i).reset()[0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)
    assert len({row.tobytes() for row in together}) == 3


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
        assert infos["distance"][index] == info["distance"]
        for step, action in zip(history, actions, strict=True):
            observation, reward, *_, info = single.step(action[index])
            assert np.array_equal(step.observations[index], observation)
            assert step.rewards[index] == reward
            assert step.infos["distance"][index] == info["distance"]
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
        with pytest.raises(ArgumentError, match="seeds for 2 env"):
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


def painters(count: int = 2, num_workers: int = 0, **settings: object) -> VectorEnv:
    settings = {"time_limit": 3, "image_size": 8, **settings}
    factory = functools.partial(Painter, EnvOptions(**settings))
    return VectorEnv([factory] * count, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_gymnasiums_vector_wrappers_work(num_workers: int) -> None:
    actions = np.array([[[1.0], [2.0]], [[0.5], [0.25]], [[0.0], [1.0]]])
    with envs.make_vector(
        "dm_control/cartpole-swingup", 2, num_workers=num_workers, time_limit=3
    ) as batch:
        assert isinstance(batch, gymnasium.vector.VectorEnv)
        assert batch.metadata["autoreset_mode"] is AutoresetMode.DISABLED
        assert (batch.render_mode, batch.closed) == ("rgb_array", False)
        assert batch.spec.id == "dm_control/cartpole-swingup"
        assert batch.observation_space.shape == (2, 5)
        assert batch.action_space.shape == (2, 1)
        wrapped = RecordEpisodeStatistics(batch)
        observations, _ = wrapped.reset(seed=3)
        assert observations in batch.observation_space
        total = 0.0
        for action in actions:
            observations, rewards, terminated, truncated, infos = wrapped.step(action)
            total = total + rewards
        assert (truncated.all(), terminated.any()) == (True, False)
        assert infos["episode"]["r"] == pytest.approx(total)
        assert infos["episode"]["l"].tolist() == [3, 3]
        # The second begins anew; its statistics do too.
        mask = np.array([False, True])
        again, _ = wrapped.reset(seed=4, options={"reset_mask": mask})
        assert np.array_equal(again[0], observations[0])
        assert wrapped.episode_lengths.tolist() == [3, 0]
    assert batch.closed


def test_a_spec_makes_the_environment_again() -> None:
    made = envs.make("dm_control/cartpole-swingup", time_limit=3, action_repeat=2)
    again = gymnasium.make(made.spec)
    assert again.unwrapped.options == made.options
    assert np.array_equal(again.reset(seed=5)[0], made.reset(seed=5)[0])


def test_seeds_masks_and_options_of_a_reset() -> None:
    with painters(3) as batch:
        counted, _ = batch.reset(seed=7)
        listed, _ = batch.reset(seed=[7, 8, 9])
        assert np.array_equal(counted, listed)
        further, _ = batch.reset()  # The streams of random numbers go on.
        assert (further != listed).all()
        mask = np.array([True, False, True])
        ours, _ = batch.reset([7, 8, 9], mask=mask)
        theirs, infos = batch.reset(
            seed=[7, 8, 9], options={"reset_mask": mask, "speed": 2}
        )
        assert np.array_equal(ours, theirs)
        assert np.array_equal(theirs[1], further[1])
        assert infos["_options"].tolist() == mask.tolist()
        assert infos["options"].tolist() == ["{'speed': 2}", None, "{'speed': 2}"]
        with pytest.raises(ArgumentError, match="mask: expected one mask"):
            batch.reset(mask=mask, options={"reset_mask": mask})
        with pytest.raises(ArgumentError, match="seed: expected a whole"):
            batch.reset(seed=-1)


def test_images_come_in_either_layout_and_are_drawn_channels_last() -> None:
    first = painters(observation="pixels")
    last = painters(observation="pixels", image_layout="channels_last")
    assert first.single_observation_space.shape == (3, 8, 8)
    assert last.single_observation_space.shape == (8, 8, 3)
    one, _ = first.reset(seed=0)
    other, _ = last.reset(seed=0)
    assert np.array_equal(one, other.transpose(0, 3, 1, 2))
    frames = last.render()
    assert len(frames) == 2
    assert np.array_equal(frames[1], other[1])
    grey = GrayscaleObservation(last)
    assert grey.reset(seed=0)[0].shape == (2, 8, 8)
    assert grey.step(np.zeros((2, 1)))[0][0, 1].min() > 0
    # TypeError: the type checker of the tests may come before our own words.
    with pytest.raises((ArgumentError, TypeError), match="image_layout"):
        EnvOptions(image_layout="HWC")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_frames_of_all_environments_are_drawn(num_workers: int) -> None:
    with painters(2, num_workers) as batch:
        batch.reset(seed=0)
        mask = np.array([False, True])
        batch.step(np.zeros((2, 1)), mask=mask)
        rows = [frame.any(axis=(1, 2)).argmax() for frame in batch.render()]
        assert rows == [0, 1]
    with VectorEnv([Counter]) as batch:
        assert (batch.render_mode, batch.render()) == (None, None)


def test_gymnasiums_wrappers_of_single_environments_work() -> None:
    env = Painter(EnvOptions(observation="pixels", image_size=8))
    env = RenderCollection(TimeLimit(env, 2))
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[3] for _ in range(2)] == [False, True]
    assert [frame.shape for frame in env.render()] == [(8, 8, 3)] * 3


class Bare:
    """No more than a factory has to give; what describes it cannot leave a process."""

    observation_space, action_space = Counter.observation_space, Counter.action_space
    metadata = {"painter": lambda: None}  # noqa: RUF012
    reset, step = Counter.reset, Counter.step

    def close(self) -> None:
        """Do nothing."""


def test_an_environment_need_not_describe_itself() -> None:
    with VectorEnv([Bare] * 2) as batch:
        batch.reset(seed=0)
        assert batch.step(np.zeros((2, 1))).rewards.tolist() == [1.0, 1.0]
        assert (batch.spec, batch.render_mode) == (None, None)
        assert batch.metadata == {"autoreset_mode": AutoresetMode.DISABLED}


def test_infos_keep_their_numbers_in_one_array() -> None:
    infos = batched(
        {
            0: {"score": 0, "name": "a", "nested": {"x": 1}, "position": np.ones(2)},
            2: {
                "score": 0.5,
                "nested": {"x": 2},
                "position": np.zeros(2),
                "big": 2**70,
            },
        },
        3,
    )
    assert infos["score"].tolist() == [0.0, 0.0, 0.5]
    assert infos["_score"].tolist() == [True, False, True]
    assert infos["name"].tolist() == ["a", None, None]
    assert infos["nested"]["x"].tolist() == [1, 0, 2]
    assert infos["position"].shape == (3, 2)
    assert infos["big"].tolist() == [None, None, 2**70]
