import copy
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import BOX, GreedyPlanner, LinearModel

from diffplan.agents import Agent, AgentState, GaussianNoise, PlanningAgent
from diffplan.agents._base import NO_PLAN
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.objectives import GoalDistance
from diffplan.objectives.reward import NegativeReturn
from diffplan.plan import Plan, Status


def make_agent(planner: GreedyPlanner | None = None, **settings: Any) -> PlanningAgent:
    model = LinearModel()
    planner = planner or GreedyPlanner()
    return PlanningAgent(model, planner, NegativeReturn(model.reward), BOX, **settings)


def observations(steps: int, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(steps, batch, 1, generator=generator) * 2 - 1


def play(
    agent: PlanningAgent, seen: Tensor, memory: AgentState, **how: bool
) -> tuple[Tensor, AgentState]:
    actions = []
    for observation in seen:
        action, memory = agent.act(observation, memory, **how)
        actions.append(action)
    return torch.stack(actions), memory


def test_is_an_agent() -> None:
    assert isinstance(make_agent(), Agent)


@pytest.mark.parametrize("every", [1, 2, 3, 6])
@pytest.mark.parametrize("warm", [True, False])
def test_planner_is_called_once_per_replan_every_steps(every: int, warm: bool) -> None:
    agent = make_agent(replan_every=every, warm_start=warm)
    steps = 11
    play(agent, observations(steps, 4), agent.initial_state(4))
    count = math.ceil(steps / every)
    assert agent.planner.batches == [4] * count
    assert agent.planner.warm == [False] + [warm] * (count - 1)


def test_executes_cached_actions_open_loop_and_filters_every_observation() -> None:
    agent = make_agent(replan_every=3, warm_start=False)
    seen = observations(3, 2)
    memory = agent.initial_state(2)
    state, previous = torch.zeros(2, 1), torch.zeros(2, 1)
    planned = None
    for t in range(3):
        state = 0.75 * seen[t] + 0.25 * (state + 0.05 * previous)
        if planned is None:
            planned = -(state * 5).tanh()
        previous = planned * torch.linspace(1.0, 0.5, 6)[t]
        action, memory = agent.act(seen[t], memory)
        torch.testing.assert_close(action, previous)
        torch.testing.assert_close(memory.state, state)
    assert memory.age.tolist() == [3, 3]


def test_the_filter_sees_the_noisy_action() -> None:
    agent = make_agent(exploration=GaussianNoise(0.3))
    seen = observations(2, 3)
    quiet, _ = agent.act(seen[0], agent.initial_state(3))
    noisy, memory = agent.act(seen[0], agent.initial_state(3), explore=True)
    assert (noisy != quiet).all()
    assert torch.equal(memory.action, noisy)
    _, after = agent.act(seen[1], memory)
    expected = 0.75 * seen[1] + 0.25 * (memory.state + 0.05 * noisy)
    torch.testing.assert_close(after.state, expected)


def test_exploration_noise_has_its_deviation_and_stays_in_the_box() -> None:
    planner = GreedyPlanner(horizon=1)
    agent = make_agent(planner, exploration=GaussianNoise(0.3))
    zero = torch.zeros(20000, 1)
    action, _ = agent.act(zero, agent.initial_state(20000, seed=1), explore=True)
    # 0.3 clipped at ±1 loses less than 0.1 % of its variance; the sampling error of a
    # deviation from 20,000 draws is 0.3 / sqrt(40,000) = 0.0015, three of them below.
    assert abs(float(action.std()) - 0.3) < 0.0045
    assert float(action.abs().max()) <= 1.0


def test_act_changes_neither_memory_nor_the_global_random_state() -> None:
    agent = make_agent(GreedyPlanner(noise=0.5), exploration=GaussianNoise(0.3))
    memory = agent.initial_state(2, seed=3)
    copy = replace(memory, keys=memory.keys.clone())
    before = torch.get_rng_state()
    first, _ = agent.act(observations(1, 2)[0], memory, explore=True)
    again, _ = agent.act(observations(1, 2)[0], copy, explore=True)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert memory.plan is None


def test_saved_and_restored_memory_gives_equal_actions() -> None:
    agent = make_agent(
        GreedyPlanner(noise=0.3),
        replan_every=4,
        exploration=GaussianNoise(0.3),
        posterior="sample",
    )
    seen = observations(10, 3)
    _, memory = play(agent, seen[:5], agent.initial_state(3, seed=7), explore=True)
    file = io.BytesIO()
    torch.save(memory, file)
    file.seek(0)
    restored = torch.load(file, weights_only=True)
    expected, _ = play(agent, seen[5:], memory, explore=True)
    actual, _ = play(agent, seen[5:], restored, explore=True)
    assert torch.equal(actual, expected)


def test_a_reset_environment_acts_as_in_a_fresh_agent() -> None:
    agent = make_agent(replan_every=3)
    seen, later = observations(4, 2), observations(9, 2)[4:]
    _, memory = play(agent, seen, agent.initial_state(2))
    memory = agent.reset(memory, torch.tensor([True, False]))
    assert memory.age.tolist() == [NO_PLAN, 1]
    mixed, _ = play(agent, later, memory)
    fresh, _ = play(agent, later, agent.initial_state(2))
    _, old = play(agent, seen, agent.initial_state(2))
    continued, _ = play(agent, later, old)
    torch.testing.assert_close(mixed[:, 0], fresh[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(mixed[:, 1], continued[:, 1], rtol=0, atol=0)
    assert (fresh[:, 0] != continued[:, 0]).any()


def test_sub_batch_replanning_equals_full_batch_planning() -> None:
    seen = observations(12, 3)
    agent = make_agent(replan_every=4)
    _, memory = play(agent, seen[:2], agent.initial_state(3))
    memory = agent.reset(memory, torch.tensor([False, True, False]))
    mixed, _ = play(agent, seen[2:], memory)
    # Environments 0 and 2 replan at steps 0, 4, 8; environment 1 at 2, 6, 10.
    assert agent.planner.batches == [3, 1, 2, 1, 2, 1]
    for index in range(3):
        alone = make_agent(replan_every=4)
        single = seen[:, index : index + 1]
        if index == 1:
            expected, _ = play(alone, single[2:], alone.initial_state(1))
        else:
            expected, _ = play(alone, single, alone.initial_state(1))
            expected = expected[2:]
        torch.testing.assert_close(mixed[:, index], expected[:, 0], rtol=0, atol=1e-6)


def test_warm_start_is_the_shifted_plan_and_is_dropped_where_it_is_not_finite() -> None:
    agent = make_agent(replan_every=2)
    seen = observations(3, 2)
    _, memory = play(agent, seen[:2], agent.initial_state(2))
    shifted = memory.plan.shifted(2).actions
    broken = memory.plan.status.clone()
    broken[0] = int(Status.NON_FINITE)
    memory = replace(memory, plan=replace(memory.plan, status=broken))
    _, after = agent.act(seen[2], memory)
    greedy = -(after.state[:, None] * 5).tanh() * torch.linspace(1.0, 0.5, 6)[:, None]
    torch.testing.assert_close(after.plan.actions[0], greedy[0])
    expected = 0.9 * greedy[1] + 0.1 * shifted[1]
    torch.testing.assert_close(after.plan.actions[1], expected)


@pytest.mark.parametrize("part", ["actions", "states", "memory"])
def test_not_finite_plans_are_no_warm_start(part: str) -> None:
    memory = {"spread": torch.ones(2, 3, 1)}
    plan = Plan(
        torch.zeros(2, 3, 1), torch.zeros(2, 4, 1), torch.zeros(2), memory=memory
    )
    value = memory["spread"] if part == "memory" else getattr(plan, part)
    value[1, 2] = torch.nan
    assert plan.can_be_continued().tolist() == [True, False]


def test_sampled_posterior_is_random_and_seeded() -> None:
    agent = make_agent(posterior="sample")
    seen = observations(1, 2)[0]
    _, first = agent.act(seen, agent.initial_state(2, seed=0))
    _, same = agent.act(seen, agent.initial_state(2, seed=0))
    _, other = agent.act(seen, agent.initial_state(2, seed=1))
    assert torch.equal(first.state, same.state)
    assert not torch.equal(first.state, other.state)


def test_act_builds_no_graph() -> None:
    agent = make_agent()
    action, memory = agent.act(observations(1, 2)[0], agent.initial_state(2))
    assert not action.requires_grad
    assert not memory.state.requires_grad
    assert not memory.plan.cost.requires_grad


def test_memory_is_a_pytree() -> None:
    agent = make_agent()
    _, memory = agent.act(observations(1, 2)[0], agent.initial_state(2))
    leaves, spec = torch.utils._pytree.tree_flatten(memory)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    rebuilt = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert isinstance(rebuilt, AgentState)
    assert torch.equal(rebuilt.plan.actions, memory.plan.actions)


@pytest.mark.parametrize("every", [0, 7])
def test_replan_every_outside_the_horizon_is_refused(every: int) -> None:
    with pytest.raises(
        ArgumentError, match=f"replan_every: expected 1 … 6.*got {every}"
    ):
        make_agent(replan_every=every)


def test_sampling_needs_to_know_the_posterior_size() -> None:
    class Nameless(LinearModel):
        state_size = property()

    model = Nameless()
    with pytest.raises(ArgumentError, match="posterior: 'sample' needs"):
        PlanningAgent(
            model,
            GreedyPlanner(),
            NegativeReturn(model.reward),
            BOX,
            posterior="sample",
        )


def test_wrong_batch_sizes_are_refused() -> None:
    agent = make_agent()
    memory = agent.initial_state(2)
    with pytest.raises(ShapeError, match=r"observation: expected \[2, …\]"):
        agent.act(torch.zeros(3, 1), memory)
    with pytest.raises(ShapeError, match=r"mask: expected \[2\]"):
        agent.reset(memory, torch.tensor([True]))


def noisy_agent() -> PlanningAgent:
    """Random in all that can be: planner, posterior and exploration."""
    return make_agent(
        GreedyPlanner(noise=0.3),
        replan_every=2,
        exploration=GaussianNoise(0.3),
        posterior="sample",
    )


def test_an_environment_with_its_key_acts_alike_in_any_batch() -> None:
    agent, seen = noisy_agent(), observations(5, 6)
    keys = torch.tensor([5, 3, 2**62, 8, -1, 0])
    together, _ = play(agent, seen, agent.initial_state(6, keys=keys), explore=True)
    for index in ([0], [4], [2, 1], [5, 4, 3, 2, 1, 0]):
        memory = agent.initial_state(len(index), keys=keys[index])
        alone, _ = play(agent, seen[:, index], memory, explore=True)
        torch.testing.assert_close(alone, together[:, index])
    other, _ = play(agent, seen, agent.initial_state(6), explore=True)
    assert (other != together).any(dim=0).all()


def test_a_reset_with_a_key_begins_that_episode_and_one_without_goes_on() -> None:
    agent, seen = noisy_agent(), observations(4, 2)
    start = agent.initial_state(2, keys=torch.tensor([1, 2]))
    first, memory = play(agent, seen, start, explore=True)
    mask, keys = torch.tensor([True, False]), torch.tensor([9, 9])
    fresh = agent.reset(memory, mask, keys=keys)
    assert fresh.keys.tolist() == [9, 2]
    assert fresh.decision.tolist() == [0, 4]
    second, _ = play(agent, seen, fresh, explore=True)
    memory = agent.initial_state(1, keys=torch.tensor([9]))
    alone, _ = play(agent, seen[:, :1], memory, explore=True)
    torch.testing.assert_close(second[:, :1], alone)
    _, memory = play(agent, seen, start, explore=True)
    again, _ = play(agent, seen, agent.reset(memory, mask), explore=True)
    assert (again[:, 0] != first[:, 0]).any()


def trained_agent(gain: float = 0.3) -> PlanningAgent:
    """Parameters of the model, buffers of the planner and of the objective."""
    model, planner = LinearModel(gain), GreedyPlanner(noise=0.1)
    planner.register_buffer("memory", torch.ones(1))
    objective = GoalDistance(torch.full((1,), 0.2))
    return PlanningAgent(model, planner, objective, BOX, posterior="sample")


def test_an_agent_lists_the_parameters_of_its_parts() -> None:
    agent = trained_agent()
    names = [name for name, _ in agent.named_parameters()]
    assert names == ["model.gain", "model.scale"]
    assert list(agent.state_dict()) == [*names, "planner.memory", "objective.goal"]


def test_an_agent_moves_with_all_its_parts() -> None:
    agent = trained_agent().to(torch.float64)
    memory = agent.initial_state(2)
    assert memory.state.dtype == torch.float64
    action, memory = agent.act(observations(1, 2)[0].double(), memory)
    assert action.dtype == memory.state.dtype == torch.float64
    assert agent.problem.objective.goal.dtype == torch.float64


def test_a_saved_agent_is_loaded_into_another() -> None:
    agent, other = trained_agent(), trained_agent(gain=-0.7)
    with torch.no_grad():
        agent.objective.goal.fill_(0.4)
    seen = observations(3, 2)
    before, _ = play(other, seen, other.initial_state(2))
    expected, _ = play(agent, seen, agent.initial_state(2))
    assert not torch.equal(before, expected)
    other.load_state_dict(agent.state_dict())
    actual, _ = play(other, seen, other.initial_state(2))
    assert torch.equal(actual, expected)
    assert other.problem.objective.goal.item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))]
)
def test_a_copy_acts_alike_and_learns_alone(
    copied: Callable[[PlanningAgent], PlanningAgent],
) -> None:
    agent, seen = trained_agent(), observations(3, 2)
    other = copied(agent)
    expected, _ = play(agent, seen, agent.initial_state(2))
    actual, _ = play(other, seen, other.initial_state(2))
    assert torch.equal(actual, expected)
    # All that the copy plans and filters with is its own model.
    assert other.model is not agent.model
    assert other.filter.model is other.model
    assert other.problem.dynamics.__self__ is other.model
    with torch.no_grad():
        other.model.gain.mul_(3)
    after, _ = play(other, seen, other.initial_state(2))
    again, _ = play(agent, seen, agent.initial_state(2))
    assert torch.equal(again, expected)
    assert not torch.equal(after, expected)


def test_keys_of_another_kind_are_refused() -> None:
    agent = make_agent()
    with pytest.raises(ShapeError, match=r"keys: expected \[2\]"):
        agent.initial_state(2, keys=torch.arange(3))
    with pytest.raises(TensorTypeError, match="keys: expected an int64 tensor"):
        agent.initial_state(2, keys=torch.zeros(2))
    memory = agent.initial_state(2)
    with pytest.raises(ShapeError, match=r"keys: expected \[2\]"):
        agent.reset(memory, torch.ones(2, dtype=torch.bool), keys=torch.arange(1))
