"""ShootingGN against cvxpy and dense Levenberg-Marquardt; starts and damping."""

import math

import pytest
import torch
from lqr_problems import cvxpy_lqr, planning_lqr
from problems import cost_of, pendulum, states_of
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import ArgumentError, UnsupportedProblemError
from diffplan.functional import rollout
from diffplan.objectives import ActionPenalty, GoalDistance, SumOfResiduals
from diffplan.planners import ShootingGN
from diffplan.solvers import AdaptiveDamping

SIZES = [(6, 2, 1), (10, 4, 2), (15, 6, 3)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bounded_problems_agree_with_cvxpy(sizes: tuple[int, int, int]) -> None:
    pytest.importorskip("cvxpy")
    problem, starts, oracles = planning_lqr(*sizes, limit=0.5, seed=3)
    plan = ShootingGN(sizes[0], iterations=30, tolerance=1e-9)(problem, starts)
    assert (plan.status == dp.Status.CONVERGED).all()
    held = plan.actions.abs() > 0.5 - 1e-9
    assert held.any()
    assert not held.all()
    for index, oracle in enumerate(oracles):
        _, actions = cvxpy_lqr(oracle, limit=0.5)
        torch.testing.assert_close(plan.actions[index], actions, rtol=0, atol=1e-6)


def free_pendulum() -> dp.PlanningProblem:
    problem = pendulum()
    return dp.PlanningProblem(problem.dynamics, problem.objective, dp.Box([-99], [99]))


def warm(actions: Tensor, problem: dp.PlanningProblem, start: Tensor) -> dp.Plan:
    states = rollout(problem.dynamics, start, actions)
    return dp.Plan(actions, states, problem.objective(states, actions)).detach()


@pytest.mark.parametrize("damping", [1e-2, 1.0])
def test_a_step_is_that_of_dense_levenberg_marquardt(damping: float) -> None:
    problem, start = free_pendulum(), states_of(1)
    given = 0.3 * torch.arange(5.0, dtype=torch.float64).sin().reshape(1, 5, 1)
    planner = ShootingGN(5, iterations=1, damping=damping, step_sizes=(1.0,))
    plan = planner(problem, start, warm_start=warm(given, problem, start))

    def residuals(flat: Tensor) -> Tensor:
        actions = flat.reshape(5, 1)
        states = rollout(problem.dynamics, start[0], actions)
        running = problem.objective.running_residual(states[:-1], actions)
        last = problem.objective.terminal_residual(states[-1])
        return torch.cat([running.flatten(), last])

    flat = given.flatten()
    jacobian = torch.func.jacrev(residuals)(flat).detach()
    normal = jacobian.mT @ jacobian + damping * torch.eye(5, dtype=torch.float64)
    step = torch.linalg.solve(normal, jacobian.mT @ residuals(flat).detach())
    torch.testing.assert_close(plan.actions.flatten(), flat - step)


def test_a_fixed_damping_takes_every_step_in_full() -> None:
    # On a quadratic a tenth of each step leaves nine tenths of the way, as released.
    problem, starts, oracles = planning_lqr(6, 3, 2, limit=float("inf"), seed=3)
    zero = torch.zeros(3, 6, 2, dtype=torch.float64)
    planner = ShootingGN(6, iterations=8, damping=1e-12, step_sizes=(0.1,))
    plan = planner(problem, starts, warm_start=warm(zero, problem, starts))
    assert (plan.diagnostics["step_size"] == 0.1).all()
    assert (plan.diagnostics["damping"] == 1e-12).all()
    for index, oracle in enumerate(oracles):
        best = dp.functional.lqr(oracle).actions
        torch.testing.assert_close(plan.actions[index], (1 - 0.9**8) * best)


def saturated() -> tuple[dp.PlanningProblem, Tensor, dp.Plan]:
    """A motor whose effect saturates, and a plan so far out that steps overshoot."""
    problem = dp.PlanningProblem(
        lambda state, action: state + (8 * action).tanh(),
        GoalDistance(torch.tensor([0.9], dtype=torch.float64), running_weight=0.0),
        dp.Box([-20.0], [20.0]),
    )
    start = torch.zeros(1, 1, dtype=torch.float64)
    return problem, start, warm(start[:, None] + 0.5, problem, start)


def test_a_fixed_damping_may_go_uphill_and_an_adaptive_one_never_does() -> None:
    problem, start, far = saturated()
    # One action u, residual tanh 8u - 0.9: the first full step, by hand.
    residual, slope = math.tanh(4) - 0.9, 8 / math.cosh(4) ** 2
    moved = 0.5 - slope * residual / (slope**2 + 1e-6)
    uphill = 0.5 * (math.tanh(8 * moved) - 0.9) ** 2
    assert uphill > 0.5 * residual**2
    fixed = ShootingGN(1, iterations=2, damping=1e-6, step_sizes=(1.0,))
    plan = fixed(problem, start, warm_start=far)
    after = plan.diagnostics["cost"][0, 1]  # the answer is the best that was seen
    torch.testing.assert_close(after.item(), uphill, rtol=1e-6, atol=0)
    assert plan.cost <= 0.5 * residual**2
    adaptive = ShootingGN(
        1, iterations=12, damping=AdaptiveDamping(1e-6), step_sizes=(1.0,)
    )
    trace = adaptive(problem, start, warm_start=far).diagnostics["cost"][0]
    assert (trace.diff() <= 0).all()
    assert trace[-1] < 1e-9


def test_damping_grows_after_failure_and_shrinks_after_success() -> None:
    problem, start, far = saturated()
    rule = AdaptiveDamping(initial=1e-6, shrink=0.5, grow=7.0)
    planner = ShootingGN(1, iterations=12, damping=rule, step_sizes=(1.0,))
    plan = planner(problem, start, warm_start=far)
    damping, taken = (plan.diagnostics[name][0] for name in ("damping", "step_size"))
    expected = torch.where(taken[:-1] > 0, 0.5, 7.0).double()
    torch.testing.assert_close(damping[1:] / damping[:-1], expected)
    assert (taken == 0).any()
    assert (taken == 1).any()


def two_wells() -> dp.PlanningProblem:
    """Position 2 is a local minimum of the end's cost, position -1 the global one."""

    class Wells(GoalDistance):
        def terminal_residual(self, state: Tensor) -> Tensor:
            place = state[..., :1]
            return torch.cat([(place + 1) * (place - 2), 0.3 * (place + 1)], dim=-1)

    return dp.PlanningProblem(
        lambda state, action: state + action,
        SumOfResiduals(
            [Wells(torch.zeros(1), running_weight=0.0), ActionPenalty(1e-4)]
        ),
        dp.Box([-1.0], [1.0]),
    )


def test_more_starts_find_the_better_minimum() -> None:
    start = torch.full((8, 1), 0.8)
    one = ShootingGN(3, iterations=30)(two_wells(), start)
    many = ShootingGN(3, iterations=30, num_starts=16)(two_wells(), start)
    assert (one.states[:, -1, 0] > 1.5).any()  # some starts end in the worse well
    assert (many.states[:, -1, 0] < -0.5).all()
    assert (many.cost <= one.cost + 1e-6).all()
    assert many.diagnostics["cost"].shape == (8, 30)
    assert many.memory["damping"].shape == (8, 1, 1)


def test_a_warm_start_takes_the_place_of_the_first_start() -> None:
    problem, start = two_wells(), torch.full((2, 1), 0.8)
    good = ShootingGN(3, iterations=30, num_starts=16)(problem, start).detach()
    assert "damping" in good.memory
    again = ShootingGN(3, iterations=3)(problem, start, warm_start=good)
    assert (again.cost <= good.cost + 1e-6).all()
    first = again.diagnostics["damping"][:, 0]
    assert torch.equal(first, good.memory["damping"][:, 0, 0])


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_starts_lie_in_the_box(init: str) -> None:
    box = dp.Box([-0.5, 0.2], [0.5, 3.0])
    goal = GoalDistance(torch.zeros(2))
    problem = dp.PlanningProblem(lambda x, u: x + u, goal, box)
    plan = ShootingGN(40, iterations=0, init=init)(problem, torch.zeros(20, 2))
    assert box.contains(plan.actions).all()
    box = box.to(plan.actions)
    middle, half = plan.actions.mean((0, 1)), plan.actions.std((0, 1))
    torch.testing.assert_close(middle, box.center, rtol=0, atol=0.1)
    spread = {"normal": 0.72, "uniform": 3**-0.5}[init]  # N(0, 1) clipped to [-1, 1]
    torch.testing.assert_close(
        half / box.scale, torch.full((2,), spread), atol=0.04, rtol=0
    )


def test_the_damping_may_be_learnt() -> None:
    damping = nn.Parameter(torch.tensor(0.5))
    planner = ShootingGN(3, iterations=1, damping=damping)
    assert list(planner.parameters()) == [damping]
    plan = planner(free_pendulum(), states_of(1))
    (gradient,) = torch.autograd.grad(plan.actions.square().sum(), damping)
    assert gradient != 0


def test_rewards_need_a_residual_form() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.NegativeReturn(lambda state: state[..., 0]),
        dp.Box([-1.0], [1.0]),
    )
    with pytest.raises(UnsupportedProblemError, match="ShootingGN needs a Residual"):
        ShootingGN(3)(problem, torch.zeros(1))


def test_stationary_plans_are_minima() -> None:
    problem, start = pendulum(), states_of(3)
    plan = ShootingGN(10, iterations=60, tolerance=1e-7)(problem, start)
    assert (plan.status == dp.Status.CONVERGED).all()
    leaf = plan.actions.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cost_of(problem, start, leaf).sum(), leaf)
    projected = (leaf - gradient).clamp(-1, 1) - leaf
    assert projected.abs().max() < 1e-7


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"damping": -1.0}, "damping"),
        ({"num_starts": 0}, "num_starts"),
        ({"iterations": -1}, "iterations"),
    ],
)
def test_wrong_arguments_are_named(changes: dict, name: str) -> None:
    with pytest.raises(ArgumentError, match=name):
        ShootingGN(3, **changes)
