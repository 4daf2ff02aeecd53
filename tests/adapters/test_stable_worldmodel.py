"""Planners as solvers of stable-worldmodel, in its own policy and beside its own."""

from functools import partial
from typing import Any

import gymnasium
import import_stable_worldmodel  # noqa: F401  (first)
import numpy as np
import pytest
import torch
from stable_worldmodel.policy import PlanConfig, WorldModelPolicy
from stable_worldmodel.solver import CEMSolver, Solver
from torch import Tensor, nn

import diffplan as dp
from diffplan.adapters.stable_worldmodel import (
    PlannerSolver,
    TrajectoryCost,
    planning_problem,
)
from diffplan.errors import (
    ArgumentError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)

SPACE = gymnasium.spaces.Box(-1.0, 1.0, (3, 2), np.float32)
CONFIG = PlanConfig(horizon=4, receding_horizon=2)


class Reach(nn.Module):
    """A point that moves by its actions times `speed`; its distance to a goal."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.encoded = 0

    def get_cost(self, info_dict: dict, action_candidates: Tensor) -> Tensor:
        assert action_candidates.dtype == self.speed.dtype
        if "goal_emb" not in info_dict:
            self.encoded += 1
            info_dict["goal_emb"] = info_dict["goal"][:, :, -1]
        steps = self.speed * action_candidates
        reached = info_dict["position"][:, :, -1] + steps.sum(-2)
        missed = (reached - info_dict["goal_emb"]).square().sum(-1)
        return missed + 1e-3 * action_candidates.square().sum((-1, -2))


class Actor(Reach):
    """Knows where to go; counts how often it is asked, and for how many steps."""

    def get_action(
        self, info: dict, horizon: int = 1, prefix_actions: Tensor | None = None
    ) -> Tensor:
        self.asked = (horizon, None if prefix_actions is None else prefix_actions.shape)
        actions = torch.full((len(info["goal"]), horizon, 2), 0.25)
        return actions[:, 0] if horizon == 1 else actions


def infos(count: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(count, 1, 4, generator=generator) * 2 - 1
    return {
        "position": draws[..., :2],
        "goal": draws[..., 2:].double(),
        "id": np.arange(count)[:, None],
        "name": ["abc"[i % 3] for i in range(count)],
        "scalar": 1.5,
    }


def exact(known: dict[str, Any], horizon: int = 4) -> Tensor:
    """Return the best actions: all alike, the minimum of a quadratic in their sum."""
    gap = (known["goal"] - known["position"])[:, 0].float()
    best = 0.5 * gap / (0.25 * horizon + 1e-3)
    return best.unsqueeze(1).expand(-1, horizon, -1)


def configured(solver: PlannerSolver, **settings: Any) -> PlannerSolver:
    settings = {"action_space": SPACE, "n_envs": 3, "config": CONFIG, **settings}
    solver.configure(**settings)
    return solver


PLANNERS = {
    "CEM": lambda horizon: dp.CEM(horizon, num_samples=200, iterations=20),
    "MPPI": lambda horizon: dp.MPPI(horizon, num_samples=400, iterations=15),
    "DCEM": lambda horizon: dp.DCEM(horizon, num_samples=300, iterations=25),
    "ShootingGD": lambda horizon: dp.ShootingGD(horizon, iterations=200),
    "GradMPC": lambda horizon: dp.GradMPC(horizon, num_starts=8, step_size=0.5),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_planners_find_the_cheapest_actions(name: str) -> None:
    solver = configured(PlannerSolver(PLANNERS[name], Reach()))
    assert isinstance(solver, Solver)
    assert (solver.n_envs, solver.action_dim, solver.horizon) == (3, 2, 4)
    found = solver(infos())
    best = exact(infos())
    assert found["actions"].shape == (3, 4, 2)
    reached, wanted = found["actions"].sum(1), best.sum(1)
    torch.testing.assert_close(reached, wanted, atol=0.05, rtol=0)
    cost = planning_problem(Reach(), infos(), dp.Box([-1.0] * 2, [1.0] * 2))[0].cost
    start = torch.arange(3.0)[:, None]
    torch.testing.assert_close(
        torch.tensor(found["costs"]), cost(start, found["actions"]).detach()
    )
    assert (found["status"] <= int(dp.Status.COMPLETED)).all()


def test_a_planner_finds_what_their_solver_finds() -> None:
    theirs = CEMSolver(Reach(), batch_size=3, num_samples=200, n_steps=20, topk=20)
    theirs.configure(action_space=SPACE, n_envs=3, config=CONFIG)
    known = {name: infos()[name] for name in ("position", "goal")}
    ours = configured(PlannerSolver(PLANNERS["CEM"], Reach()))
    reached = [solver.solve(known)["actions"].sum(1) for solver in (theirs, ours)]
    torch.testing.assert_close(*reached, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["CEM", "GradMPC"])
def test_plans_depend_neither_on_the_batch_size_nor_on_other_situations(
    name: str,
) -> None:
    together = configured(PlannerSolver(PLANNERS[name], Reach())).solve(infos())
    apart = configured(PlannerSolver(PLANNERS[name], Reach(), batch_size=2))
    torch.testing.assert_close(apart.solve(infos())["actions"], together["actions"])
    # Each call draws fresh noise.
    if name == "CEM":
        again = apart.solve(infos())["actions"]
        assert not torch.equal(again, together["actions"])
    other = configured(PlannerSolver(PLANNERS[name], Reach(), seed=1)).solve(infos())
    assert not torch.equal(other["actions"], together["actions"])


def test_their_policy_acts_with_a_planner() -> None:
    class Environments:
        num_envs = 2
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32)
        single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    known = {name: infos(2)[name].numpy() for name in ("position", "goal")}
    config = PlanConfig(horizon=5, receding_horizon=1)
    solver = PlannerSolver(PLANNERS["CEM"], Reach())
    policy = WorldModelPolicy(solver, config)
    policy.set_env(Environments())
    for _ in range(12):
        action = policy.get_action(dict(known))
        assert (np.abs(action) <= 1).all()
        known["position"] = known["position"] + 0.5 * action[:, None]
    assert np.abs(known["position"] - known["goal"]).max() < 0.05


def test_blocks_of_actions_are_planned_as_one() -> None:
    space = gymnasium.spaces.Box(
        np.tile([-1.0, -0.5], (3, 1)), np.tile([1.0, 0.5], (3, 1)), dtype=np.float64
    )

    class Blocks:
        def get_cost(self, info_dict: dict, action_candidates: Tensor) -> Tensor:
            assert action_candidates.shape[-2:] == (4, 6)
            return -action_candidates.sum((-1, -2))  # The bounds hold it.

    config = PlanConfig(horizon=4, receding_horizon=2, action_block=3)
    solver = PlannerSolver(PLANNERS["ShootingGD"], Blocks())
    solver.configure(action_space=space, n_envs=3, config=config)
    assert solver.action_dim == 6
    actions = solver.solve({})["actions"]
    expected = torch.tensor([1.0, 0.5]).repeat(3).expand(3, 4, 6)
    torch.testing.assert_close(actions, expected)


def test_a_space_of_rescaled_actions_takes_the_place_of_the_environments() -> None:
    known = infos()
    known["goal"] = known["goal"] * 50
    free = dp.Box([-torch.inf] * 2, [torch.inf] * 2)
    descent = partial(dp.ShootingGD, iterations=300, step_size=0.5)
    solver = configured(PlannerSolver(descent, Reach(), action_space=free))
    found = solver.solve(known)["actions"].sum(1)
    torch.testing.assert_close(found, exact(known).sum(1), rtol=1e-2, atol=0.5)
    bounded = configured(PlannerSolver(descent, Reach())).solve(known)["actions"]
    assert bounded.abs().max() <= 1


def test_the_start_is_what_the_policy_hands_over_and_the_actor_knows() -> None:
    still = partial(dp.MPPI, num_samples=2, iterations=0)
    given = torch.full((3, 2, 2), 0.75)
    # Without iterations a planner answers with its start.
    solver = configured(PlannerSolver(still, Reach()))
    actions = solver.solve(infos(), init_action=given)["actions"]
    assert actions[:, :, 0].tolist() == [[0.75, 0.75, 0.0, 0.0]] * 3
    actor = Actor()
    solver = configured(PlannerSolver(still, actor))
    actions = solver.solve(infos(), init_action=given)["actions"]
    assert actions[:, :, 0].tolist() == [[0.75, 0.75, 0.25, 0.25]] * 3
    assert actor.asked == (2, (3, 2, 2))
    assert solver.solve(infos())["actions"].unique().tolist() == [0.25]
    assert actor.asked == (4, None)
    three = torch.full((3, 3, 2), 0.75)
    actions = solver.solve(infos(), init_action=three)["actions"]
    assert actions[:, :, 0].tolist() == [[0.75, 0.75, 0.75, 0.25]] * 3
    for wrong in (torch.zeros(3, 5, 2), torch.zeros(2, 2, 2), torch.zeros(3, 2)):
        with pytest.raises(ShapeError, match=r"init_action: expected \[3, t, 2\]"):
            solver.solve(infos(), init_action=wrong)


def test_the_model_is_in_its_own_precision() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        solver = configured(PlannerSolver(PLANNERS["CEM"], Reach(dtype)))
        reached = solver.solve(infos())["actions"].sum(1)
        wanted = exact(infos()).sum(1).to(reached)
        torch.testing.assert_close(reached, wanted, atol=0.2, rtol=0)


def test_what_a_model_keeps_in_the_infos_is_there_in_the_next_iteration() -> None:
    model = Reach()
    planner = partial(dp.CEM, num_samples=20, num_elites=5, iterations=10)
    configured(PlannerSolver(planner, model)).solve(infos())
    # Once for the candidates, once for the answer, and where the problem is tried.
    assert model.encoded <= 5
    assert "goal_emb" not in infos()


def test_gradients_go_through_plans_into_the_model() -> None:
    model = Reach(torch.float64)
    box = dp.Box([-10.0] * 2, [10.0] * 2)
    problem, state = planning_problem(model, infos(), box)
    planner = dp.GradMPC(4, iterations=300, num_starts=1, step_size=0.2)
    plan = planner(problem, state)
    plan.actions.sum().backward()
    gap = (infos()["goal"] - infos()["position"]).sum()

    def total(speed: Tensor) -> Tensor:  # closed form of all actions' sum
        return 4 * speed * gap / (4 * speed.square() + 1e-3)

    slope = torch.func.grad(total)(model.speed.detach())
    torch.testing.assert_close(model.speed.grad, slope, rtol=1e-3, atol=0)


def test_infos_of_a_situation_belong_to_its_actions_in_any_layout() -> None:
    cost = TrajectoryCost(Reach(), infos())
    actions = torch.rand(3, 5, 4, 2)
    states = torch.arange(3.0)[:, None, None, None].expand(3, 5, 5, 1)
    together = cost(states, actions)
    assert together.shape == (3, 5)
    order = torch.tensor([2, 0, 2, 1])
    torch.testing.assert_close(cost(states[order], actions[order]), together[order])
    alone = cost(states[1, 3], actions[1, 3])
    torch.testing.assert_close(alone, together[1, 3])
    wide = states[:, :4].unflatten(1, (2, 2)), actions[:, :4].unflatten(1, (2, 2))
    deep = cost(*wide)
    torch.testing.assert_close(deep.flatten(1), together[:, :4])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="call configure first"):
        PlannerSolver(dp.CEM, Reach()).solve(infos())
    with pytest.raises(ArgumentError, match="configuration's horizon 4, got 5"):
        configured(PlannerSolver(dp.CEM(5), Reach()))
    low = np.array([[-1.0, -1.0], [-1.0, -1.0], [-0.5, -1.0]])
    unequal = gymnasium.spaces.Box(low, np.ones((3, 2)), dtype=np.float64)
    for space, kind, words in (
        (gymnasium.spaces.Discrete(5), TensorTypeError, "action_space: .*got Discrete"),
        (unequal, ArgumentError, "one low for all environments"),
    ):
        with pytest.raises(kind, match=words):
            configured(PlannerSolver(dp.CEM, Reach()), action_space=space)
    wide = PlannerSolver(dp.CEM, Reach(), action_space=dp.Box([-1.0] * 3, [1.0] * 3))
    with pytest.raises(ShapeError, match=r"bounds \[2\] of an action"):
        configured(wide)
    with pytest.raises(ArgumentError, match="batch_size"):
        PlannerSolver(dp.CEM, Reach(), batch_size=0)
    # TypeError: the type checker of the tests may come before our own words.
    with pytest.raises(TypeError, match="model"):
        planning_problem(nn.Linear(1, 1), infos(), SPACE)
    with pytest.raises(ShapeError, match=r"infos\['goal'\]: expected 3 situations"):
        planning_problem(Reach(), {**infos(), "goal": torch.zeros(2, 1, 2)}, SPACE)
    with pytest.raises(ShapeError, match="infos: expected tensors"):
        planning_problem(Reach(), {}, SPACE)

    class Flat:
        def get_cost(self, info_dict: dict, action_candidates: Tensor) -> Tensor:
            return action_candidates.sum((-1, -2, -3))

    with pytest.raises(ShapeError, match=r"model: expected .*get_cost to return"):
        configured(PlannerSolver(dp.CEM, Flat())).solve(infos())
    # What a second-order planner needs is not there, and it says so.
    with pytest.raises(UnsupportedProblemError, match="ILQR needs a StageObjective"):
        configured(PlannerSolver(dp.ILQR, Reach())).solve(infos())
