"""Records of plans: iterations, violation, what happened, and the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import BOX, GreedyPlanner, LinearModel, make_envs

import diffplan as dp
from diffplan.agents import AgentState, PlanningAgent
from diffplan.errors import FileError, ShapeError
from diffplan.objectives.reward import NegativeReturn
from diffplan.training import (
    evaluate,
    load_plan_record,
    record_agent_plan,
    record_plan,
)

PROBLEM = dp.PlanningProblem(
    lambda state, action: 0.9 * state + action,
    dp.objectives.GoalDistance(torch.ones(2)),
    dp.Box([-0.3] * 2, [0.3] * 2),
)
STATE = torch.tensor([-1.0, 0.5])


def gaps(record: dp.training.PlanRecord) -> np.ndarray:
    ahead = 0.9 * record.states[:, :-1] + record.actions
    return np.abs(record.states[:, 1:] - ahead).max((1, 2))


@pytest.mark.parametrize(
    "planner",
    [
        dp.LatCo(5, iterations=6),
        dp.ILQR(5, iterations=6),
        dp.CEM(5, iterations=6),
        dp.GradMPC(5, iterations=6),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_the_answer_is_last_and_every_row_is_what_it_says(planner: dp.Planner) -> None:
    plan = planner(PROBLEM, STATE)
    record = record_plan(planner, PROBLEM, STATE)
    np.testing.assert_array_equal(record.states[-1], plan.states.numpy())
    np.testing.assert_array_equal(record.actions[-1], plan.actions.numpy())
    assert record.cost[-1] == plan.cost
    assert type(planner).__name__ in record.planner
    np.testing.assert_allclose(record.violation, gaps(record), atol=1e-6)
    if not isinstance(planner, dp.LatCo):  # which weighs in what does not fit
        away = ((record.states - 1) ** 2).sum((1, 2))
        np.testing.assert_allclose(record.cost, away / 2, rtol=1e-5)


def test_collocation_closes_its_gaps() -> None:
    record = record_plan(dp.LatCo(5, iterations=20), PROBLEM, STATE)
    assert record.violation[:-1].max() > 1e-3
    assert record.violation[-1] < 1e-6


def test_of_several_candidates_the_cheapest_is_kept() -> None:
    least = []
    planner = dp.CEM(5, iterations=4)
    planner(PROBLEM, STATE, callback=lambda it: least.append(float(it.cost.min())))
    assert record_plan(planner, PROBLEM, STATE).cost[:-1].tolist() == least


def test_images_are_those_of_their_iterations() -> None:
    def decode(states: torch.Tensor) -> torch.Tensor:
        grey = states[..., :1, None, None].clamp(0, 1)
        return grey.expand(*states.shape[:-1], 3, 4, 6)

    record = record_plan(dp.LatCo(5, iterations=30), PROBLEM, STATE, decode=decode)
    kept = record.image_iterations
    assert kept.tolist() == [0, 1, 2, 3, 5, 6, 9, 12, 16, 22, 30]
    assert record.images.shape == (11, 6, 4, 6, 3)
    wanted = np.rint(record.states[kept, :, 0].clip(0, 1) * 255)
    np.testing.assert_array_equal(record.images[..., 1, 2, 0], wanted)


@pytest.mark.parametrize("planner", [dp.CEM(3, iterations=2), dp.LatCo(3)])
def test_dynamics_that_depend_on_time(planner: dp.Planner) -> None:
    wind = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, -0.2]])
    system = dp.models.LinearDynamics(torch.eye(2), torch.eye(2), wind)
    goal = dp.objectives.GoalDistance(torch.zeros(2))
    problem = dp.PlanningProblem(system, goal, dp.Box([-1.0] * 2, [1.0] * 2))
    record = record_plan(planner, problem, torch.ones(2))
    moved = record.states[:, :-1] + record.actions + wind.numpy()
    gaps = np.abs(moved - record.states[:, 1:]).max((1, 2))
    np.testing.assert_allclose(record.violation, gaps, atol=1e-6)


def test_an_agents_plan_is_executed_open_loop() -> None:
    model = LinearModel(gain=0.05)
    objective = NegativeReturn(model.reward)
    agent = PlanningAgent(model, GreedyPlanner(), objective, BOX)
    record = record_agent_plan(agent, make_envs(2, length=4), seed=3)
    # The world's arithmetic, by hand: the episode ends after four of six actions.
    actions = record.actions[-1, :, 0]
    (observation,), _ = make_envs(1).reset(seed=[3])
    place, beliefs, rewards = observation[0], [0.75 * observation[0]], []
    for action in actions[:4]:
        place += 0.1 * action
        rewards.append(-(place**2))
        beliefs.append(0.75 * place + 0.25 * (beliefs[-1] + 0.05 * action))
    np.testing.assert_allclose(record.happened[:, 0], beliefs, rtol=1e-5)
    np.testing.assert_allclose(record.rewards, rewards, rtol=1e-5)
    imagined = beliefs[0] + 0.05 * np.concatenate([[0], np.cumsum(actions)])
    np.testing.assert_allclose(record.states[-1, :, 0], imagined, rtol=1e-5)
    assert record.seen is record.images is None


def test_an_agents_plan_is_the_one_it_begins_its_episode_with() -> None:
    model = LinearModel(gain=0.05)
    planner = dp.CEM(5, num_samples=20, num_elites=4, iterations=2)
    agent = PlanningAgent(model, planner, NegativeReturn(model.reward), BOX)
    answers = []
    for seed in (3, 4):
        record = record_agent_plan(agent, make_envs(1, length=4), seed=seed)
        begun: list[AgentState] = []
        evaluate(
            agent,
            make_envs(1, length=4),
            [seed],
            agent_seed=seed,
            observer=lambda *moment, begun=begun: begun.append(moment[2]),
        )
        acted = begun[0].plan.actions[0]
        torch.testing.assert_close(torch.from_numpy(record.actions[-1]), acted)
        answers.append(acted)
    assert not torch.allclose(*answers)


def test_a_file_is_the_record_or_an_error(tmp_path: Path) -> None:
    record = record_plan(dp.LatCo(5, iterations=3), PROBLEM, STATE)
    picture = np.zeros((2, 6, 3, 4, 3), np.uint8)
    record = replace(record, images=picture, image_iterations=np.array([0, 3]))
    path = tmp_path / "plans" / "first.npz"
    record.save(path)
    again = load_plan_record(path)
    for name, value in vars(record).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="a plan of"):
        load_plan_record(path)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"state: expected one state \[S\]"):
        record_plan(dp.LatCo(5), PROBLEM, STATE.expand(2, 2))
    record = record_plan(dp.LatCo(5, iterations=3), PROBLEM, STATE)
    with pytest.raises(ShapeError, match="cost"):
        replace(record, cost=record.cost[1:])
    with pytest.raises(ShapeError, match="happened"):
        replace(record, happened=record.states[0, :, :1])
