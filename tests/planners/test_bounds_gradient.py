"""Gradients with respect to learned bounds: active, on both sides, and open ones."""

import pytest
import torch
from gradient_problems import QUICK, double, quadratic, settings
from planner_cases import CASES, PlannerCase
from torch import Tensor

import diffplan as dp
from diffplan.planners import MethodOfMultipliers

OPEN = torch.inf
STEPS = 3

CELLS = [
    pytest.param(
        case,
        kind,
        id=f"{case.name}-{kind.__name__}",
        marks=[pytest.mark.skipif(bool(case.missing), reason="absent")],
    )
    for case in CASES
    # other solvers and settings of a planner meet its bounds in the same way
    if "-" not in case.name or case.name == "LatentActions-DCEM"
    for kind, promise in case.build().supported_gradients.items()
    if "bounds" in promise.wrt
]
each_cell = pytest.mark.parametrize(("case", "kind"), CELLS)

# Enough steps to end at the bounds; others are differentiated as far as they got.
CONVERGING = {
    "ILQR": {"iterations": 8},
    "ShootingGN": {"iterations": 10, "num_starts": 1},
}


def strategy(kind: type[dp.GradientStrategy]) -> dp.GradientStrategy:
    return dp.Truncated(2) if kind is dp.Truncated else kind()


def build(case: PlannerCase, kind: type[dp.GradientStrategy]) -> dp.Planner:
    name = type(case.build()).__name__
    given = CONVERGING.get(name, settings(QUICK, case))
    return case.build(STEPS, gradient=strategy(kind), **given)


def problem_of(width: int, bounds: Tensor) -> dp.PlanningProblem:
    """Pull each number to its goal, the first from above its bound and back.

    The first action has no upper bound, the second no lower one; `bounds` are the
    other two.
    """
    push = double([[0.5, 0.1], [-0.1, 0.4]])[:width, :width]

    def step(state: Tensor, action: Tensor) -> Tensor:
        return 0.9 * state + (action @ push.mT).sin()

    sides = bounds.new_full((1,), OPEN)
    low, high = torch.cat([bounds[:1], -sides]), torch.cat([sides, bounds[1:2]])
    goal = double([-1.5, 1.2])[:width]
    return dp.PlanningProblem(
        step, quadratic(goal, 0.3), dp.Box(low[:width], high[:width])
    )


def setting(case: PlannerCase) -> tuple[int, Tensor, Tensor]:
    width = case.action_dim or 2
    state = double([[0.1, -0.2], [0.3, 0.1]])[:, :width]
    return width, state, double([-0.4, 0.3])[:width]


def jacobian(planner: dp.Planner, warm: dp.Plan | None, case: PlannerCase) -> Tensor:
    width, state, at = setting(case)

    def actions(bounds: Tensor) -> Tensor:
        return planner(problem_of(width, bounds), state, warm_start=warm).actions

    return torch.autograd.functional.jacobian(actions, at)


def differences(
    planner: dp.Planner, warm: dp.Plan | None, case: PlannerCase, step: float = 1e-6
) -> Tensor:
    width, state, at = setting(case)

    def actions(bounds: Tensor) -> Tensor:
        return planner(problem_of(width, bounds), state, warm_start=warm).actions

    with torch.no_grad():
        return torch.stack(
            [
                (actions(at + step * way) - actions(at - step * way)) / (2 * step)
                for way in torch.eye(width, dtype=torch.float64)
            ],
            -1,
        )


def held(plan: dp.Plan, case: PlannerCase) -> tuple[Tensor, Tensor]:
    """Which actions a bound holds, and how those follow the bounds."""
    width, _, at = setting(case)
    follows = torch.eye(width, dtype=torch.float64)
    return plan.actions == at, follows.expand(*plan.actions.shape, width)


@each_cell
def test_actions_follow_the_bounds_that_hold_them(
    case: PlannerCase, kind: type[dp.GradientStrategy]
) -> None:
    planner = build(case, kind)
    width, state, at = setting(case)
    plan = planner(problem_of(width, at), state)
    found = jacobian(planner, None, case)
    where, follows = held(plan, case)
    torch.testing.assert_close(found[where], follows[where])
    if type(planner).__name__ in CONVERGING:
        assert where.any(dim=1).all()
    if kind is dp.Unroll:
        expected = differences(planner, None, case)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if kind is dp.Implicit and type(planner).__name__ in CONVERGING:
        unrolled = jacobian(build(case, dp.Unroll), None, case)
        torch.testing.assert_close(found, unrolled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "kind"), [cell for cell in CELLS if cell.id.split("-")[0] in CONVERGING]
)
def test_a_warm_start_on_the_bound_follows_it(
    case: PlannerCase, kind: type[dp.GradientStrategy]
) -> None:
    # Where the answer still depends on such a start, it has a kink there.
    planner = build(case, kind)
    width, state, at = setting(case)
    problem = problem_of(width, at)
    cold = planner(problem, state).detach()
    mixed = torch.where(torch.rand(cold.actions.shape) < 0.7, at, cold.actions)
    for start in (mixed.to(at), cold.actions, cold.shifted().actions):
        warm = dp.Plan(start, cold.states, cold.cost)
        plan = planner(problem, state, warm_start=warm)
        found = jacobian(planner, warm, case)
        where, follows = held(plan, case)
        assert where.any(dim=1).all()
        torch.testing.assert_close(found[where], follows[where])
        if kind is dp.Unroll:
            expected = differences(planner, warm, case)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "planner",
    [
        dp.LatCo(STEPS, iterations=1),
        dp.LatCo(STEPS, iterations=1, multiplier_rule=MethodOfMultipliers()),
        dp.FirstOrderLatCo(STEPS, iterations=2),
    ],
    ids=["LatCo", "LatCo-duals", "FirstOrderLatCo"],
)
@pytest.mark.parametrize("side", [0, 1])
def test_collocation_from_a_bound_is_smooth_in_that_bound(
    planner: dp.Planner, side: int
) -> None:
    # As many boxes as rounding needs to put a bound on both sides of its limit.
    count = 100
    low = -torch.rand(count, 1, 1, dtype=torch.float64)
    box = torch.stack([low, low + 0.1 + torch.rand_like(low)])
    goal = dp.objectives.GoalDistance(double([0.2]))
    state = torch.rand(count, 1, dtype=torch.float64)

    def reached(bound: Tensor) -> Tensor:
        sides = [box[0], bound] if side else [bound, box[1]]
        problem = dp.PlanningProblem(torch.add, goal, dp.Box(*sides))
        start = bound.expand(count, STEPS, 1)
        states = state[:, None].expand(count, STEPS + 1, 1)
        warm = dp.Plan(start, states, state[:, 0])
        plan = planner(problem, state, warm_start=warm)
        return plan.diagnostics["raw_actions"].sum(dim=(1, 2))

    bound = box[side].clone().requires_grad_()
    (slope,) = torch.autograd.grad(reached(bound).sum(), bound)
    with torch.no_grad():
        difference = reached(box[side] + 1e-6) - reached(box[side] - 1e-6)
    torch.testing.assert_close(slope.flatten(), difference / 2e-6, rtol=1e-5, atol=1e-7)
