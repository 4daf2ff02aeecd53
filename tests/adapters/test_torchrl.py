"""A planner as a policy in TorchRL's environments, collectors and losses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    Compose,
    EnvBase,
    GymEnv,
    InitTracker,
    StepCounter,
    TransformedEnv,
    check_env_specs,
)

import diffplan as dp
from diffplan.adapters.torchrl import PlannerModule
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError


class Point(EnvBase):
    """A point in the plane; each environment of the batch ends after its own steps."""

    def __init__(self, count: int = 3, seed: int = 0) -> None:
        super().__init__(batch_size=[count])
        self.observation_spec = Composite(
            observation=Unbounded((count, 2)), shape=(count,)
        )
        self.action_spec = Bounded(-1.0, 1.0, (count, 2))
        self.reward_spec = Unbounded((count, 1))
        self.lengths = torch.arange(count)[:, None] + 4
        self._set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self.rng = torch.Generator().manual_seed(seed or 0)

    def _reset(self, tensordict: TensorDictBase | None) -> TensorDictBase:
        count = self.batch_size[0]
        fresh = torch.rand(count, 2, generator=self.rng) * 4 - 2
        ages = torch.zeros(count, 1, dtype=torch.int64)
        if tensordict is not None and tensordict.get("_reset", None) is not None:
            mask = tensordict["_reset"].reshape(count, 1)
            fresh = torch.where(mask, fresh, self.place)
            ages = torch.where(mask, ages, self.ages)
        self.place, self.ages = fresh, ages
        done = torch.zeros(count, 1, dtype=torch.bool)
        entries = {"observation": fresh, "done": done, "terminated": done.clone()}
        return TensorDict(entries, batch_size=[count])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.place = self.place + 0.4 * tensordict["action"]
        self.ages = self.ages + 1
        done = self.ages >= self.lengths
        entries = {
            "observation": self.place,
            "reward": -self.place.square().sum(-1, keepdim=True),
            "done": done,
            "terminated": done.clone(),
        }
        return TensorDict(entries, batch_size=self.batch_size)


def make_problem(goal: Tensor | None = None) -> dp.PlanningProblem:
    return dp.PlanningProblem(
        lambda state, action: state + 0.4 * action,
        dp.objectives.GoalDistance(torch.zeros(2) if goal is None else goal),
        dp.Box([-1.0] * 2, [1.0] * 2),
    )


def cem(**settings: Any) -> dp.CEM:
    return dp.CEM(5, num_samples=50, num_elites=10, iterations=3, **settings)


PLANNERS: dict[str, Callable[[], dp.Planner]] = {
    "CEM": cem,
    "MPPI": partial(dp.MPPI, 5, num_samples=50, iterations=2),
    "GradMPC": partial(dp.GradMPC, 5, iterations=3, num_starts=4),
    "ShootingGD": partial(dp.ShootingGD, 5, iterations=5),
    "ILQR": partial(dp.ILQR, 5, iterations=4),
    "LatCo": partial(dp.LatCo, 5, iterations=4),
}


def primed(policy: PlannerModule, env: EnvBase | None = None) -> TransformedEnv:
    env = Point() if env is None else env
    primer = policy.primer(env.reset()["observation"])
    return TransformedEnv(env, Compose(InitTracker(), primer))


def test_a_rollout_reaches_the_goal() -> None:
    policy = PlannerModule(cem(), make_problem(), parts=["cost", "status", "actions"])
    env = TransformedEnv(GymEnv("Pendulum-v1"))
    assert env.action_spec.shape == (1,)
    env = primed(policy, Point(2))
    check_env_specs(env)
    history = env.rollout(20, policy, break_when_any_done=False)
    assert history.batch_size == (2, 20)
    assert history["plan", "actions"].shape == (2, 20, 5, 2)
    assert torch.equal(history["plan", "actions"][:, :, 0], history["action"])
    assert (history["plan", "status"] <= int(dp.Status.COMPLETED)).all()
    first, last = history["next", "observation"][:, 0], history["observation"][0, 3]
    assert last.norm() < 0.5 * first[0].norm()


@pytest.mark.parametrize("name", PLANNERS)
def test_a_rollout_is_the_loop_with_shifted_plans(name: str) -> None:
    problem, planner = make_problem(), PLANNERS[name]()
    policy = PlannerModule(planner, problem)
    history = primed(policy).rollout(4, policy)
    plan, state = None, history["observation"][:, 0]
    for step in range(4):
        start = None if plan is None else plan.shifted()
        plan = planner(problem, state, warm_start=start)
        torch.testing.assert_close(history["action"][:, step], plan.action)
        state = state + 0.4 * plan.action
        torch.testing.assert_close(history["next", "observation"][:, step], state)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_replayed_entry_gives_the_same_action(name: str) -> None:
    policy = PlannerModule(PLANNERS[name](), make_problem())
    history = primed(policy).rollout(9, policy, break_when_any_done=False)
    # All steps of all environments in one batch; place and noise go together.
    for step in (0, 3, 8):
        again = policy(history[:, step].exclude("action", "next"))
        torch.testing.assert_close(again["action"], history["action"][:, step])
        memory = again["next", "plan_memory", "memory", "plan_index"]
        counted = history["next", "plan_memory", "memory", "plan_index"][:, step]
        assert torch.equal(memory, counted)
    whole = policy(history.exclude("action", "next"))
    assert whole["action"].shape == history["action"].shape


@pytest.mark.parametrize("way", ["primer", "is_init"])
def test_the_memory_is_reset_where_an_episode_begins(way: str) -> None:
    problem, planner = make_problem(), cem()
    policy = PlannerModule(planner, problem)
    history = primed(policy).rollout(9, policy, break_when_any_done=False)
    count = history["next", "plan_memory", "memory", "plan_index"].squeeze((-1, -2))
    expected = [[step % length + 1 for step in range(9)] for length in (4, 5, 6)]
    assert count.tolist() == expected
    entry = history[:, 4].exclude("action", "next")  # The first one begins anew.
    assert entry["is_init"].flatten().tolist() == [True, False, False]
    if way == "primer":
        del entry["is_init"]
    else:
        entry["plan_memory"] = history["next", "plan_memory"][:, 3]
    state = entry["observation"]
    afresh = planner(problem, state).action
    torch.testing.assert_close(policy(entry)["action"][0], afresh[0])
    assert not torch.equal(policy(entry)["action"][1:], afresh[1:])


def test_a_plan_that_failed_is_no_start() -> None:
    problem, planner = make_problem(), PLANNERS["ILQR"]()
    policy = PlannerModule(planner, problem)
    entry = primed(policy).rollout(3, policy)[:, -1].exclude("action", "next")
    good = entry["observation"].clone()
    entry["observation"] = torch.where(torch.arange(3)[:, None] == 0, 1e30, good)
    failed = policy(entry.clone())
    assert failed["next", "plan_memory", "memory", "plan_index"].flatten()[0] == 0
    entry["observation"], entry["plan_memory"] = good, failed["next", "plan_memory"]
    torch.testing.assert_close(
        policy(entry)["action"][0], planner(problem, good).action[0]
    )


def test_without_a_primer_or_memory_every_plan_starts_afresh() -> None:
    problem, planner = make_problem(), cem()
    for policy in (
        PlannerModule(planner, problem),
        PlannerModule(planner, problem, memory_key=None),
    ):
        history = Point().rollout(3, policy)
        for step in range(3):
            plan = planner(problem, history["observation"][:, step])
            assert torch.equal(plan.action, history["action"][:, step])
    with pytest.raises(ArgumentError, match="primer: expected a memory_key"):
        policy.primer(torch.zeros(2))


def test_a_generator_gives_fresh_noise_that_repeats_with_its_seed() -> None:
    def acted(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        policy = PlannerModule(cem(), make_problem(), generator=generator)
        entry = TensorDict(observation=torch.ones(2, 2), batch_size=[2])
        return torch.stack([policy(entry.clone())["action"] for _ in range(2)])

    assert torch.equal(acted(0), acted(0))
    assert (acted(0) != acted(1)).any()
    assert (acted(0)[0] != acted(0)[1]).any()


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)])
def test_any_batch_dimensions(batch: tuple[int, ...]) -> None:
    goals = torch.rand(*batch, 2)
    problem = make_problem(goals)
    policy = PlannerModule(cem(), problem, parts=["cost"])
    state = torch.rand(*batch, 2)
    entry = policy(TensorDict(observation=state, batch_size=batch))
    plan = cem()(problem, state)
    assert torch.equal(entry["action"], plan.action)
    assert torch.equal(entry["plan", "cost"], plan.cost)
    entry["plan_memory"] = entry["next", "plan_memory"]
    following = policy(entry)["action"]
    expected = cem()(problem, state, warm_start=plan.shifted()).action
    torch.testing.assert_close(following, expected)


def test_a_collector_collects_with_it() -> None:
    policy = PlannerModule(cem(), make_problem())
    env = primed(policy)
    env.append_transform(StepCounter())
    collector = Collector(env, policy, frames_per_batch=30, total_frames=60)
    seen = [batch.clone() for batch in collector]
    collector.shutdown()
    assert [batch.batch_size for batch in seen] == [(3, 10)] * 2
    history = torch.cat(seen, dim=1)
    made = history["plan_memory", "memory", "plan_index"].squeeze((-1, -2))
    assert torch.equal(made, history["step_count"].squeeze(-1))
    entry = history[:, 13].exclude("action", "next")
    torch.testing.assert_close(policy(entry)["action"], history["action"][:, 13])


def test_gradients_go_through_the_action_into_planner_and_encoder() -> None:
    encoder = torch.nn.Linear(4, 2)
    step_size = torch.nn.Parameter(torch.tensor(0.1))
    planner = dp.GradMPC(3, iterations=4, num_starts=3, step_size=step_size)
    policy = PlannerModule(planner, make_problem(), encode=encoder)
    entry = TensorDict(observation=torch.rand(5, 4), batch_size=[5])
    policy(entry)["action"].square().sum().backward()
    assert step_size.grad.abs() > 0
    assert encoder.weight.grad.abs().sum() > 0
    names = {name for name, _ in policy.named_parameters()}
    assert names == {"planner.step_size", "encode.weight", "encode.bias"}
    assert not entry["next", "plan_memory", "actions"].requires_grad


def test_it_stands_in_a_sequence() -> None:
    encoder = TensorDictModule(torch.nn.Linear(4, 2), ["pixels"], ["state"])
    planner = dp.DCEM(3, num_samples=20, num_elites=5, iterations=2)
    policy = PlannerModule(planner, make_problem(), observation_key="state")
    sequence = TensorDictSequential(encoder, policy)
    entry = sequence(TensorDict(pixels=torch.rand(5, 4), batch_size=[5]))
    assert entry["action"].shape == (5, 2)
    assert "pixels" in sequence.in_keys


def test_an_environment_of_gymnasium_is_solved() -> None:
    def step(state: Tensor, action: Tensor) -> Tensor:
        angle, speed = torch.atan2(state[..., 1], state[..., 0]), state[..., 2]
        speed = (speed + 0.05 * (15 * angle.sin() + 3 * action[..., 0])).clamp(-8, 8)
        angle = angle + 0.05 * speed
        return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)

    def cost(states: Tensor, actions: Tensor) -> Tensor:
        angle = torch.atan2(states[..., 1], states[..., 0])
        return (angle.square() + 0.1 * states[..., 2].square()).sum(-1)

    problem = dp.PlanningProblem(step, cost, dp.Box([-2.0], [2.0]))
    planner = dp.MPPI(20, num_samples=200, iterations=2, temperature=1.0)
    policy = PlannerModule(planner, problem)
    env = primed(policy, GymEnv("Pendulum-v1"))
    env.set_seed(3)
    planned = env.rollout(120, policy)["next", "reward"].sum()
    env.set_seed(3)
    drawn = env.rollout(120)["next", "reward"].sum()
    assert planned > 0.5 * drawn  # rewards are negative
    assert isinstance(env.base_env._env.unwrapped, gymnasium.Env)


def test_what_does_not_fit_is_refused() -> None:
    # TypeError: the type checker of the tests may come before our own words.
    with pytest.raises((TensorTypeError, TypeError), match="problem"):
        PlannerModule(cem(), cem())
    with pytest.raises((ArgumentError, TypeError), match="parts"):
        PlannerModule(cem(), make_problem(), parts=["costs"])
    policy = PlannerModule(cem(), make_problem())
    entry = TensorDict(observation=torch.ones(5, 2), batch_size=[])
    with pytest.raises(ShapeError, match="observation: expected planning states"):
        policy(entry)
    entry = TensorDict(observation=torch.ones(5, 2), batch_size=[5])
    other = PlannerModule(PLANNERS["ILQR"](), make_problem())
    entry["plan_memory"] = policy(entry)["next", "plan_memory"]
    with pytest.raises(ShapeError, match="plan_memory: expected the entries"):
        other(entry)
