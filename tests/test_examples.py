"""The examples do what their first lines say."""

import ast
import io
import tokenize
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from planner_cases import ProportionalPolicy
from torch import Tensor

import diffplan as dp
from diffplan.errors import ShapeError
from diffplan.objectives import Ensemble, NegativeReturn, mean
from diffplan.planners import follow
from diffplan.testing import check_planner, point_mass_problem
from examples.imitation import imitate, planners
from examples.planners.dream_mpc import ReturnAndValue, cautious_return, dream_mpc
from examples.planners.grasp import GRASP
from examples.planners.icem import ICEM
from examples.planners.mrsq import search_return
from examples.planners.policy_mppi import PolicyMPPI

PAPERS = sorted((Path(__file__).parents[1] / "examples" / "planners").glob("*.py"))
SPACE = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_paper_takes_at_most_sixty_lines(path: Path) -> None:
    """Lines of code: neither docstrings nor comments nor empty ones."""
    text = path.read_text(encoding="utf-8")
    words: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            words |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SPACE:
            code |= set(range(token.start[0], token.end[0] + 1))
    assert 10 < len(code - words) <= 60


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((ICEM, {"num_kept": kept}) for kept in (0, 11)),  # of 10 elites
        *((ICEM, {"decay": decay}) for decay in (0.0, 0.5)),
        *((ICEM, {"momentum": momentum}) for momentum in (-0.1, 2.0)),
        *((GRASP, {name: 0}) for name in ("horizon", "sync_every")),
        *((GRASP, {name: -1}) for name in ("iterations", "sync_steps")),
        *((GRASP, {name: -0.1}) for name in ("step_size", "state_step_size")),
        (GRASP, {"iterations": 10**30}),
        *((PolicyMPPI, {"num_proposals": count}) for count in (-1, 513)),  # of 512
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_a_setting_out_of_range_is_named(
    kind: type[dp.Planner], wrong: dict[str, float]
) -> None:
    needed = {"policy": slow_policy} if kind is PolicyMPPI else {}
    (name,) = wrong
    with pytest.raises(dp.errors.ArgumentError, match=f"^{name}: expected .* got"):
        kind(**{"horizon": 3, **needed, **wrong})


@pytest.mark.parametrize("name", list(planners()))
def test_a_pendulum_is_learnt_from_actions_alone(name: str) -> None:
    errors = imitate(planners()[name])
    assert set(errors) == {"gravity", "mass", "effort"}
    assert max(errors.values()) < 0.05, errors


def test_icem_needs_a_quarter_of_the_samples() -> None:
    problem = dp.PlanningProblem(
        dp.models.Pendulum(),
        dp.objectives.SumOfResiduals(
            [
                dp.objectives.GoalDistance(torch.zeros(2)),
                dp.objectives.ActionPenalty(0.1),
            ]
        ),
        dp.Box([-1.0], [1.0]),
    )
    state = torch.tensor([[1.0, 0.0]]).repeat(16, 1)
    few = ICEM(30, num_samples=50, num_elites=10)(problem, state)
    many = dp.CEM(30, num_samples=200, num_elites=20, iterations=3)(problem, state)
    assert few.cost.mean() < many.cost.mean()


def reach_origin() -> tuple[dp.PlanningProblem, Tensor]:
    matrices = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([[0.0], [0.1]])
    dynamics = dp.models.LinearDynamics(*matrices)
    cost = dp.objectives.GoalDistance(torch.zeros(2))
    problem = dp.PlanningProblem(dynamics, cost, dp.Box([-1.0], [1.0]))
    return problem, torch.tensor([[2.0, 0.5], [-1.0, 0.0]])


def test_a_policy_that_is_right_is_as_good_as_thousands_of_samples() -> None:
    problem, state = reach_origin()
    best = dp.ILQR(20)(problem, state)

    def policy(state: torch.Tensor) -> torch.Tensor:
        return (-3 * state[..., :1] - 3 * state[..., 1:]).clamp(-1, 1)

    few = {"num_samples": 32, "num_proposals": 4, "num_elites": 4, "temperature": 0.1}
    told = PolicyMPPI(20, policy, **few)(problem, state)
    alone = PolicyMPPI(20, lambda state: 0 * state[..., :1], **few)(problem, state)
    assert ((told.cost - best.cost) < 0.5 * (alone.cost - best.cost)).all()


def slow_policy(state: Tensor) -> Tensor:
    return (-state[..., :1] - state[..., 1:]).clamp(-1, 1)


def test_dream_mpc_improves_on_its_policy_and_on_its_last_plan() -> None:
    problem, state = reach_origin()
    planner, plan = dream_mpc(10, slow_policy), None
    still = torch.zeros(2, 1, 10, 1)
    own = follow(lambda x, _: slow_policy(x), problem, state, still)[:, 0]
    costs = [problem.cost(state, own)]
    for _ in range(8):  # the state stays: what is reused has been improved before
        plan = planner(problem, state, warm_start=plan)
        costs.append(plan.cost)
    assert all((later < before).all() for before, later in pairwise(costs))


@pytest.mark.parametrize(
    "policy",
    [
        lambda state: torch.zeros(1).to(state),
        lambda state: state[..., :1].mean(0, keepdim=True),
    ],
    ids=["a constant", "a mean over the batch"],
)
def test_policies_that_would_broadcast_are_refused(
    policy: Callable[[Tensor], Tensor],
) -> None:
    problem, state = reach_origin()
    heads = [lambda state, action: (state * action).sum(-1)]
    searched = search_return(lambda state: state[..., 0], heads, policy)
    posed = dp.PlanningProblem(problem.dynamics, searched, problem.action_space)
    for plan in (
        lambda: PolicyMPPI(3, policy)(problem, state),
        lambda: dream_mpc(3, policy)(problem, state),
        lambda: dp.CEM(3)(posed, state),
    ):
        with pytest.raises(ShapeError, match=r"^policy: expected <lambda> to return "):
            plan()


def test_a_constant_as_value_of_the_cautious_return_is_refused() -> None:
    objective = ReturnAndValue(lambda state: state[..., 0], value=lambda state: 0.0)
    with pytest.raises(ShapeError, match=r"to return \[2, 1\]"):
        objective(torch.ones(2, 4, 2), torch.zeros(2, 3, 1))


def test_dream_mpc_mixes_its_proposals_with_what_they_became_last_time() -> None:
    problem, state = reach_origin()
    planner = dream_mpc(10, slow_policy, iterations=0, std=0.0, reuse=0.1)
    first = planner(problem, state)
    before = torch.full_like(first.memory["candidates"], 0.5)
    again = replace(first, memory={**first.memory, "candidates": before})
    mixed = planner(problem, state, warm_start=again).memory["candidates"]
    torch.testing.assert_close(mixed, 0.1 * before + 0.9 * first.memory["candidates"])


def test_dream_mpc_asks_the_model_little() -> None:
    problem, state = reach_origin()
    asked = []

    def counted(state: Tensor, action: Tensor) -> Tensor:
        asked.append(state.shape[:-1].numel())
        return problem.dynamics(state, action)

    watched = dp.PlanningProblem(counted, problem.objective, problem.action_space)
    planner = dream_mpc(3, slow_policy)
    planner(watched, state[:1])  # tries the functions, once
    asked.clear()
    planner(watched, state[:1])
    assert sum(asked) <= 60


def test_dream_mpc_leaves_what_its_values_disagree_about() -> None:
    # Both sides promise the same on average, but on one the heads disagree.
    heads = [
        lambda state: state[..., 0].abs() + 3 * state[..., 0].relu(),
        lambda state: state[..., 0].abs() - 3 * state[..., 0].relu(),
    ]
    plans = []
    for penalty in (0.0, 1.0):
        objective = cautious_return(
            lambda state: 0 * state[..., 0], heads, penalty=penalty
        )
        problem = dp.PlanningProblem(
            lambda state, action: state + action, objective, dp.Box([-1.0], [1.0])
        )
        planner = dream_mpc(3, lambda state: 1.0 + 0 * state, std=0.0, iterations=20)
        plans.append(planner(problem, torch.tensor([[0.1]])))
    assert plans[0].states[0, -1, 0] > 3
    assert plans[1].states[0, -1, 0] < 0.1


def test_the_price_of_doubt_is_what_its_formula_says() -> None:
    states, actions = torch.tensor([[0.0], [1.0], [3.0]]), torch.zeros(2, 1)
    heads = [lambda state: 2 * state[..., 0], lambda state: 4 * state[..., 0]]
    objective = cautious_return(
        lambda state: state[..., 0], heads, discount=0.5, penalty=0.1
    )
    # Reward 1, deviations 1 and 3, and 9 is the mean value of the end, reward included.
    expected = -(1 - 0.1 * 1) - 0.5 * (9 - 0.1 * 3)
    torch.testing.assert_close(objective(states, actions), torch.tensor(expected))


def test_grasp_takes_no_gradient_through_the_state() -> None:
    problem, state = reach_origin()
    blind = dp.PlanningProblem(
        lambda state, action: problem.dynamics(state.detach(), action),
        problem.objective,
        problem.action_space,
    )
    for steps, same in ((0, True), (5, False)):  # without and with rollouts' slopes
        planner = GRASP(10, iterations=20, step_size=0.05, sync_steps=steps)
        plans = [planner(given, state).actions for given in (problem, blind)]
        assert torch.equal(*plans) == same


def test_grasp_plans_with_a_model_that_is_brittle_in_its_state() -> None:
    # Slopes through a rollout grow by up to five in each step, and mean nothing.
    problem = dp.PlanningProblem(
        lambda state, action: state + 0.1 * action + 0.01 * (400 * state).sin(),
        dp.objectives.GoalDistance(torch.ones(1, dtype=torch.float64)),
        dp.Box([-1.0], [1.0]),
    )
    state = torch.linspace(-0.5, 2.5, 16, dtype=torch.float64).unsqueeze(-1)
    planner = GRASP(30, step_size=0.3, state_step_size=0.3, sync_steps=0)
    with torch.no_grad():
        descent = dp.ShootingGD(30, iterations=100)(problem, state)
        assert planner(problem, state).cost.mean() < 0.5 * descent.cost.mean()


def test_the_least_value_is_not_led_astray() -> None:
    # Nine heads know that the right is good; one has never seen the left.
    def knows(state: Tensor, action: Tensor) -> Tensor:
        return state[..., 0] + 0 * action[..., 0]

    def dreams(state: Tensor, action: Tensor) -> Tensor:
        return knows(state, action) + 100 * (-1 - state[..., 0]).relu()

    def policy(state: Tensor) -> Tensor:
        return 0 * state

    heads, space = [*[knows] * 9, dreams], dp.Box([-1.0], [1.0])
    least = search_return(lambda state: 0 * state[..., 0], heads, policy)
    value = Ensemble([lambda x, head=head: head(x, policy(x)) for head in heads], mean)
    average = NegativeReturn(lambda state: 0 * state[..., 0], value=value)
    ends = []
    for objective in (least, average):
        problem = dp.PlanningProblem(lambda x, action: x + action, objective, space)
        plan = PolicyMPPI(3, policy)(problem, torch.zeros(2, 1))
        ends.append(plan.states[:, -1, 0])
    assert (ends[0] > 2).all()
    assert (ends[1] < -2).all()


@pytest.mark.parametrize("paper", ["MRS.Q", "Dream-MPC"])
def test_planners_keep_their_promises_with_a_papers_objective(paper: str) -> None:
    plain, state = point_mass_problem(torch.float64)
    goal = torch.tensor([0.5, 0.0], dtype=torch.float64)

    def reward(state: Tensor) -> Tensor:
        return -(state - goal).square().sum(-1)

    def reward_of_action(state: Tensor, action: Tensor) -> Tensor:
        return reward(state) - 0.1 * action.square().sum(-1)

    policy = ProportionalPolicy()
    heads = [lambda x, action, scale=scale: scale * reward(x) for scale in (1.0, 2.0)]
    values = [lambda x, head=head: head(x, None) for head in heads]
    if paper == "MRS.Q":
        objective = search_return(reward_of_action, heads, policy)
        few = {"num_samples": 64, "num_proposals": 8, "num_elites": 8, "iterations": 3}
        planner: dp.Planner = PolicyMPPI(3, policy, **few)
    else:
        objective = cautious_return(reward, values)
        planner = dream_mpc(3, policy)
    problem = dp.PlanningProblem(plain.dynamics, objective, plain.action_space)
    check_planner(planner, problem, state)
