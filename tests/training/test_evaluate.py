import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor
from toy import BOX, GreedyPlanner, LinearModel, PointEnv, make_envs

from diffplan.agents import AgentState, GaussianNoise, PlanningAgent, UniformAgent
from diffplan.envs.vector import VectorEnv
from diffplan.errors import ArgumentError
from diffplan.objectives.reward import NegativeReturn
from diffplan.training import (
    Episode,
    Evaluation,
    OnlineConfig,
    OnlineTrainer,
    evaluate,
    run_episodes,
)


class Constant(UniformAgent):
    """Always the same action."""

    def act(
        self, observation: Tensor, agent_state: AgentState, *, explore: bool = False
    ) -> tuple[Tensor, AgentState]:
        return torch.full_like(agent_state.action, 0.5), agent_state


def planning_agent() -> PlanningAgent:
    model = LinearModel()
    objective = NegativeReturn(model.reward)
    noise = GaussianNoise(0.3)
    return PlanningAgent(model, GreedyPlanner(), objective, BOX, exploration=noise)


def start(seed: int) -> float:
    return float(PointEnv().reset(seed=seed)[0][0])


def test_returns_and_success_by_hand() -> None:
    seeds = [0, 1, 2, 3, 4]
    result = evaluate(Constant(BOX), make_envs(2, length=6), seeds)
    steps = 0.05 * np.arange(1, 7)
    for index, seed in enumerate(seeds):
        positions = start(seed) + steps
        assert result.returns[index] == pytest.approx(-(positions**2).sum(), rel=1e-5)
        assert result.successes[index] == (np.abs(positions) < 0.1).any()
        assert result.initial_infos[index]["start"] == pytest.approx(start(seed))
        assert "name" not in result.initial_infos[index]
    assert result.lengths.tolist() == [6] * 5
    assert result.mean_return == pytest.approx(result.returns.mean())
    # Some succeed and some do not, or the line above would prove little.
    assert 0 < result.success_rate < 1


def test_success_counts_at_any_step_not_only_the_last() -> None:
    def episode(success: list[float]) -> Episode:
        length = len(success)
        return Episode(
            np.zeros((length + 1, 1)),
            np.zeros((length, 1)),
            np.zeros(length),
            np.array(success),
        )

    result = Evaluation.of([episode([0, 1, 0]), episode([0, 0, 0]), episode([0, 0, 1])])
    assert result.successes.tolist() == [True, False, True]
    assert result.metrics("test")["test/success"] == pytest.approx(2 / 3)


def test_an_episode_that_was_told_of_none_had_no_success() -> None:
    silent = Episode(np.zeros((3, 1)), np.zeros((2, 1)), np.ones(2))
    told = replace(silent, success=np.array([0.0, 1.0]))
    result = Evaluation.of([silent, told])
    assert result.successes.tolist() == [False, True]
    assert result.success_rate == 0.5


def test_tasks_without_success_have_none() -> None:
    episode = Episode(np.zeros((3, 1)), np.zeros((2, 1)), np.ones(2))
    result = Evaluation.of([episode])
    assert result.successes is None
    assert math.isnan(result.success_rate)
    assert "test/success" not in result.metrics("test")
    with pytest.raises(ArgumentError, match="at least one"):
        Evaluation.of([])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([None, None, 1.0], [0.0, 0.0, 1.0]),
        ([True, None, None], [1.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([None, None, None], None),
    ],
)
def test_a_step_that_does_not_tell_its_success_had_none(
    told: list[float | None], expected: list[float] | None
) -> None:
    class Sparse(PointEnv):
        """Tells success at some steps."""

        def step(self, action: np.ndarray) -> Any:
            *step, _ = super().step(action)
            success = told[self.elapsed - 1]
            return *step, {} if success is None else {"success": success}

    envs = VectorEnv([lambda: Sparse(len(told))])
    success = run_episodes(UniformAgent(BOX), envs, [0])[0].success
    assert (None if success is None else success.tolist()) == expected


def test_evaluation_is_free_of_noise_and_repeats() -> None:
    agent = planning_agent()
    first = evaluate(agent, make_envs(3), [5, 6, 7, 8])
    again = evaluate(agent, make_envs(3), [5, 6, 7, 8])
    noisy = run_episodes(agent, make_envs(3), [5, 6, 7, 8], explore=True)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert [e.episode_return for e in noisy] != first.returns.tolist()


def test_batches_of_any_size_give_the_same_noise_free_episodes() -> None:
    agent = planning_agent()
    together = evaluate(agent, make_envs(4), [1, 2, 3, 4])
    for count in (1, 3):
        apart = evaluate(agent, make_envs(count), [1, 2, 3, 4])
        np.testing.assert_allclose(apart.returns, together.returns, rtol=1e-6)


def test_episodes_draw_the_same_noise_together_or_one_by_one() -> None:
    model = LinearModel()
    agent = PlanningAgent(
        model,
        GreedyPlanner(noise=0.3),
        NegativeReturn(model.reward),
        BOX,
        replan_every=2,
        exploration=GaussianNoise(0.3),
        posterior="sample",
    )
    seeds = [3, 1, 2**31 - 1, 8, 5]
    for each in (agent, UniformAgent(BOX)):
        together = run_episodes(each, make_envs(5), seeds, explore=True)
        again = run_episodes(each, make_envs(2), seeds[::-1], explore=True)[::-1]
        alone = [run_episodes(each, make_envs(1), [s], explore=True)[0] for s in seeds]
        other = run_episodes(each, make_envs(5), seeds, explore=True, agent_seed=1)
        for index, episode in enumerate(together):
            for found in (again[index], alone[index]):
                np.testing.assert_allclose(found.actions, episode.actions, rtol=1e-5)
                np.testing.assert_allclose(found.rewards, episode.rewards, rtol=1e-5)
            assert (other[index].actions != episode.actions).any()


def test_episodes_of_different_length_end_by_themselves() -> None:
    environments = VectorEnv([lambda: PointEnv(3), lambda: PointEnv(7)])
    episodes = run_episodes(UniformAgent(BOX), environments, [1, 2, 3])
    assert [episode.length for episode in episodes] == [3, 7, 3]
    for seed, episode in zip([1, 2, 3], episodes, strict=True):
        moved = start(seed) + 0.1 * np.cumsum(episode.actions[:, 0])
        np.testing.assert_allclose(episode.observations[1:, 0], moved, atol=1e-6)
        np.testing.assert_allclose(episode.rewards, -(moved**2), atol=1e-6)


def test_observer_sees_observation_and_plan_of_every_decision() -> None:
    seen: list[tuple[int, float, int]] = []

    def observer(
        first: int, observations: np.ndarray, memory: AgentState, running: np.ndarray
    ) -> None:
        assert running.tolist() == [True, first == 0]
        horizon = memory.plan.horizon
        seen.append((first, float(observations[0, 0]), horizon))

    evaluate(planning_agent(), make_envs(2, length=3), [1, 2, 3], observer=observer)
    assert [first for first, _, _ in seen] == [0] * 3 + [2] * 3
    assert seen[0][1] == pytest.approx(start(1))
    assert seen[3][1] == pytest.approx(start(3))
    assert {horizon for _, _, horizon in seen} == {6}


def gymnasium_vector() -> gymnasium.vector.VectorEnv:
    return gymnasium.vector.SyncVectorEnv([PointEnv] * 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (PointEnv, "got PointEnv, a single environment"),
        (gymnasium_vector, "got SyncVectorEnv, whose environments reset themselves"),
        (
            lambda: RecordEpisodeStatistics(make_envs(2)),
            "got RecordEpisodeStatistics, whose step takes no mask",
        ),
        (lambda: [PointEnv(), PointEnv()], "got list"),
        (lambda: "metaworld/reach", "got str"),
    ],
)
def test_what_is_no_vector_environment_of_ours_is_answered(
    given: Callable[[], object], words: str, tmp_path: Path
) -> None:
    model = LinearModel()
    for use in (
        lambda: evaluate(planning_agent(), given(), [0]),
        lambda: OnlineTrainer(
            *(model, planning_agent(), given(), OnlineConfig()),
            seed=0,
            directory=tmp_path,
        ),
    ):
        with pytest.raises(ArgumentError, match=words) as caught:
            use()
        assert "VectorEnv([lambda: gymnasium.make(name)]" in str(caught.value)


def test_whatever_steps_like_a_vector_environment_is_taken() -> None:
    class Logged:
        """Wraps one and passes on what it is given."""

        def __init__(self) -> None:
            self.inner, self.num_envs = make_envs(2), 2

        def reset(self, *arguments: Any, **keywords: Any) -> Any:
            return self.inner.reset(*arguments, **keywords)

        def step(self, actions: np.ndarray, mask: np.ndarray | None = None) -> Any:
            return self.inner.step(actions, mask)

    theirs, ours = (
        evaluate(planning_agent(), e, [3, 4]) for e in (Logged(), make_envs())
    )
    assert np.array_equal(theirs.returns, ours.returns)
