"""Constraints on actions: sets, the problem's projection, every planner's answer."""

import builtins
import math
import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import PlannerCase, each_planner
from problems import double_integrator, states_of
from scipy.optimize import minimize
from torch import Tensor

import diffplan as dp
from diffplan.constraints import (
    ActionConstraint,
    Ball,
    Polytope,
    Simplex,
    StateConstraint,
)
from diffplan.constraints import polytope as polytope_file
from diffplan.errors import (
    ArgumentError,
    MissingDependencyError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.planners.request import PlanRequest

DOUBLE = torch.float64

with_cvxpylayers = pytest.mark.skipif(
    find_spec("cvxpylayers") is None, reason="needs the package cvxpylayers"
)
quiet = pytest.mark.filterwarnings("ignore")  # of the packages that solve cones


def problem_with(
    *constraints: ActionConstraint | StateConstraint,
    low: list[float] | None = None,
    high: list[float] | None = None,
    goal: list[float] | None = None,
) -> dp.PlanningProblem:
    """Push a point with one action per dimension."""
    low = [-1.0] * 3 if low is None else low
    high = [1.0] * len(low) if high is None else high
    goal = [5.0] * len(low) if goal is None else goal
    return dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.tensor(goal, dtype=DOUBLE)),
        dp.Box(torch.tensor(low, dtype=DOUBLE), torch.tensor(high, dtype=DOUBLE)),
        constraints,
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=DOUBLE)


class Above(ActionConstraint):
    """A set of a user's own, which knows its projection only: Σ action ≥ least."""

    def __init__(self, least: float) -> None:
        self.least = least

    def project(self, actions: Tensor) -> Tensor:
        missing = (self.least - actions.sum(-1, keepdim=True)).relu()
        return actions + missing / actions.shape[-1]

    def __repr__(self) -> str:
        return f"Above({self.least})"


# Sets


@pytest.mark.parametrize(
    "constraint",
    [
        Ball(0.7),
        Ball(0.7, [0.1, -0.2, 0.3]),
        Ball(0.7, norm=1),
        Ball(0.7, [0.1, -0.2, 0.3], norm=math.inf),
        Simplex(0.8),
        Above(0.5),
    ],
    ids=repr,
)
def test_sets_agree_with_themselves(constraint: ActionConstraint) -> None:
    actions = 2 * draw(50, 3)
    nearest = constraint.project(actions)
    assert constraint.contains(nearest).all()
    assert constraint.excess(nearest).abs().max() < 1e-12
    torch.testing.assert_close(constraint.project(nearest), nearest)
    outside = ~constraint.contains(actions)
    assert outside.sum() > 20
    assert (constraint.excess(actions).abs().amax(-1)[outside] > 1e-6).all()
    # What is inside by contains, is inside by any tolerance, and the other way round.
    assert constraint.contains(actions, tolerance=100.0).all()
    assert torch.equal(constraint.contains(actions, tolerance=0.0), ~outside)


def test_tolerances_follow_dtype_and_size() -> None:
    ball = Ball(100.0)
    beyond = torch.tensor([100.0 + 5e-4, 0.0])
    assert ball.contains(beyond)  # 1e-5 of 100 in float32
    assert not ball.contains(beyond.double())  # 1e-6 of 100
    assert not Ball(1.0).contains(torch.tensor([1.0 + 5e-5, 0.0]))
    assert Simplex(1.0).contains(torch.tensor([0.5, 0.5 + 5e-6]))


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_impossible_sizes_are_refused(radius: float) -> None:
    with pytest.raises(ArgumentError, match="radius"):
        Ball(radius)
    with pytest.raises(ArgumentError, match="total"):
        Simplex(radius)


def test_malformed_sets_are_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="norm: expected one of"):
        Ball(1.0, norm=3)
    with pytest.raises(ShapeError, match=r"center: expected \[A\]"):
        Ball(1.0, torch.zeros(1, 2))
    with pytest.raises(ArgumentError, match="radius: expected one number"):
        Ball(torch.ones(2))


# The problem


def test_without_constraints_the_projection_is_the_box() -> None:
    problem = problem_with()
    actions = 3 * draw(4, 5, 3)
    assert torch.equal(problem.project(actions), actions.clamp(-1, 1))
    assert torch.equal(
        problem.contains(actions), problem.action_space.contains(actions)
    )


def nearest(actions: Tensor, problem: dp.PlanningProblem, sets: list[dict]) -> Tensor:
    """The nearest allowed actions by SLSQP, one at a time."""
    low, high = problem.action_space.low.numpy(), problem.action_space.high.numpy()
    found = []
    for y in actions.detach().numpy():
        answer = minimize(
            lambda x, y=y: 0.5 * np.sum((x - y) ** 2),
            np.clip(y, low, high),
            jac=lambda x, y=y: x - y,
            bounds=list(zip(low, high, strict=True)),
            constraints=sets,
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        found.append(torch.as_tensor(answer.x))
    return torch.stack(found)


ROUND = {"type": "ineq", "fun": lambda x: 0.7**2 - np.sum(x**2)}
OTHER = {"type": "ineq", "fun": lambda x: 0.8**2 - np.sum((x - 0.3) ** 2)}
CUBE = {"type": "ineq", "fun": lambda x: np.concatenate([0.45 - x, x + 0.45])}
SHARES = {"type": "eq", "fun": lambda x: np.sum(x) - 1}
MOST = {"type": "ineq", "fun": lambda x: np.sum(x) - 0.5}


@pytest.mark.parametrize(
    ("constraints", "sets", "positive"),
    [
        ([Ball(0.7)], [ROUND], False),
        ([Ball(0.7), Ball(0.45, norm=math.inf)], [ROUND, CUBE], False),
        ([Ball(0.7), Simplex()], [ROUND, SHARES], True),
        ([Ball(0.8, [0.3, 0.3, 0.3]), Ball(0.7)], [ROUND, OTHER], False),
        ([Above(0.5), Ball(0.7)], [ROUND, MOST], False),
    ],
    ids=["ball", "cube", "simplex", "lens", "own"],
)
def test_several_constraints_meet_in_the_nearest_point(
    constraints: list[ActionConstraint], sets: list[dict], positive: bool
) -> None:
    low = [0.0] * 3 if positive else [-0.5, -0.9, -0.9]
    problem = problem_with(*constraints, low=low, high=[0.9] * 3)
    actions = 1.5 * draw(10, 3, seed=2)
    got = problem.project(actions)
    assert problem.contains(got).all()
    expected = nearest(actions, problem, sets)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


def test_numbers_of_a_constraint_can_be_learned() -> None:
    radius = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    total = torch.tensor(0.9, dtype=DOUBLE, requires_grad=True)
    center = torch.tensor([0.2, 0.1, 0.3], dtype=DOUBLE, requires_grad=True)
    actions = draw(4, 3).requires_grad_()

    def projected(
        actions: Tensor, radius: Tensor, total: Tensor, center: Tensor
    ) -> Tensor:
        problem = problem_with(Ball(radius, center), Simplex(total))
        return problem.project(actions)

    values = (actions, radius, total, center)
    assert torch.autograd.gradcheck(projected, values, fast_mode=True)


def test_sets_that_miss_the_box_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"constraints\[1\]: .*Ball.*Box"):
        problem_with(Simplex(), Ball(1.0, [3.0, 0.0, 0.0]))
    with pytest.raises(ArgumentError, match=r"constraints\[0\]: .*Simplex"):
        problem_with(Simplex(4.0))


def test_sets_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"constraints\[0\]: expected a center \[3\]"):
        problem_with(Ball(1.0, [0.0, 0.0]))


def test_sets_that_miss_each_other_are_reported_by_status() -> None:
    problem = problem_with(Ball(0.4, [0.6, 0.0, 0.0]), Ball(0.4, [-0.6, 0.0, 0.0]))
    plan = dp.CEM(horizon=2, num_samples=8, num_elites=2, iterations=1)(
        problem, torch.zeros(2, 3, dtype=DOUBLE)
    )
    assert plan.status.tolist() == [int(dp.Status.CONSTRAINT_VIOLATED)] * 2
    assert problem.action_space.contains(plan.actions).all()
    assert "breaks a constraint" in plan.explain()


def test_the_helpers_refuse_by_name() -> None:
    problem = problem_with(Ball(0.5))
    with pytest.raises(UnsupportedProblemError, match=r"iLQR keeps a box.*Ball"):
        problem.refuse_constraints("iLQR")
    problem_with().refuse_constraints("iLQR")
    problem_with().refuse_noise("iLQR")
    walled = problem_with(StateConstraint(lambda state, action: state))
    with pytest.raises(UnsupportedProblemError, match=r"AugmentedLagrangian\(iLQR"):
        walled.refuse_state_constraints("iLQR")
    walled.relaxed(walled.objective).refuse_state_constraints("iLQR")


# Every planner


def answer(
    case: PlannerCase, constraint: ActionConstraint, dtype: torch.dtype
) -> tuple[dp.PlanningProblem, dp.Plan]:
    """Plan against a goal that pulls out of the set, in two dimensions."""
    box = dp.Box([-0.2, -1.0], [1.0, 1.0])
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.tensor([5.0, -3.0], dtype=dtype)),
        box,
        [constraint],
    )
    planner = case.build(horizon=2, iterations=2)
    return problem, planner(problem, torch.zeros(2, 2, dtype=dtype))


def refuses(case: PlannerCase, constraint: ActionConstraint) -> bool:
    """Whether a planner says that it keeps a box only; then so it must."""
    if case.action_constraints:
        return False
    with pytest.raises(UnsupportedProblemError, match="keeps a box of actions"):
        answer(case, constraint, DOUBLE)
    return True


balls = st.tuples(
    st.floats(0.05, 3.0),
    st.tuples(st.floats(-0.2, 1.0), st.floats(-1.0, 1.0)).map(list),
    st.sampled_from([1, 2, math.inf]),
)
simplices = st.tuples(st.floats(0.05, 1.9))


@each_planner
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    numbers=balls | simplices,
    dtype=st.sampled_from([torch.float32, DOUBLE]),
)
def test_plans_keep_any_ball_and_simplex(
    case: PlannerCase, numbers: tuple, dtype: torch.dtype
) -> None:
    constraint = Simplex(*numbers) if len(numbers) == 1 else Ball(*numbers)
    if case.action_dim is not None or refuses(case, constraint):
        return
    problem, plan = answer(case, constraint, dtype)
    tolerance = 1e-6 if dtype == DOUBLE else 1e-5
    assert problem.action_space.contains(plan.actions).all()
    assert constraint.contains(plan.actions, tolerance).all()
    assert torch.isfinite(plan.cost).all()
    assert (plan.status != int(dp.Status.CONSTRAINT_VIOLATED)).all()


@each_planner
def test_plans_are_the_best_inside_a_ball(case: PlannerCase) -> None:
    # One step to a goal far away: the nearest action to it, in closed form.
    if case.action_dim is not None or refuses(case, Ball(0.5)):
        return
    problem = problem_with(Ball(0.5), low=[-1.0, -1.0], goal=[3.0, 4.0])
    plan = case.build(horizon=1)(problem, torch.zeros(1, 2, dtype=DOUBLE))
    expected = torch.tensor([0.3, 0.4], dtype=DOUBLE)
    assert (plan.action[0] - expected).norm() < case.ball_gap
    assert plan.status[0] != int(dp.Status.CONSTRAINT_VIOLATED)


@pytest.mark.parametrize(
    "planner",
    [
        dp.GradMPC(2, iterations=3, num_starts=2),
        dp.MPPI(2, num_samples=6, iterations=2, temperature=1.0),
        dp.LatCo(2, iterations=4, init="rollout"),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_gradients_pass_through_constrained_plans(planner: dp.Planner) -> None:
    radius = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    goal = torch.tensor([0.9, 0.4], dtype=DOUBLE, requires_grad=True)
    state = 0.1 * draw(2, 2)

    def actions(radius: Tensor, goal: Tensor) -> Tensor:
        objective = dp.objectives.GoalDistance(goal.detach())
        objective.goal = goal
        problem = dp.PlanningProblem(
            lambda state, action: state + action,
            objective,
            dp.Box([-1.0, -1.0], [1.0, 1.0]),
            [Ball(radius)],
        )
        return planner(problem, state).actions

    assert actions(radius, goal).requires_grad
    assert torch.autograd.gradcheck(actions, (radius, goal), atol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    "planner",
    [
        dp.GradMPC(2, iterations=3, num_starts=2),
        dp.MPPI(2, num_samples=6, iterations=2, temperature=1.0),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_vmap_over_states_equals_a_loop(planner: dp.Planner) -> None:
    problem, states = problem_with(Simplex(), Ball(0.9)), draw(3, 3)

    def plan_from(state: Tensor) -> Tensor:
        return planner(problem, state).actions

    mapped = torch.func.vmap(plan_from, randomness="same")(states)
    for index, state in enumerate(states):
        torch.testing.assert_close(mapped[index], plan_from(state))


@pytest.mark.compiled
def test_solve_compiles_into_one_graph() -> None:
    problem, state = problem_with(Ball(0.9)), draw(2, 3)
    planner = dp.GradMPC(2, iterations=2, num_starts=2)
    noise = planner.draw_noise(problem, state)
    compiled = torch.compile(planner.solve, fullgraph=True, backend="aot_eager")
    expected = planner.solve(PlanRequest(problem, state, noise))
    got = compiled(PlanRequest(problem, state, noise))
    torch.testing.assert_close(got.actions, expected.actions)


def test_detached_plans_are_constants_though_the_constraint_is_learned() -> None:
    radius = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    plan = dp.CEM(horizon=2, num_samples=8, num_elites=2)(
        problem_with(Ball(radius)), torch.zeros(3, dtype=DOUBLE)
    )
    assert not plan.actions.requires_grad


# Polytopes


@quiet
@with_cvxpylayers
def test_nearest_point_of_a_polytope() -> None:
    matrix, offset = draw(4, 3, seed=3), draw(4, seed=4).abs() + 0.1
    polytope = Polytope(matrix, offset)
    problem = problem_with(polytope, high=[0.4, 1.0, math.inf])
    actions = 2 * draw(3, 4, 3, seed=5)
    got = problem.project(actions)
    assert problem.contains(got).all()
    sides = {"type": "ineq", "fun": lambda x: offset.numpy() - matrix.numpy() @ x}
    expected = nearest(actions.reshape(-1, 3), problem, [sides]).reshape(3, 4, 3)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    inside = polytope.project(expected * 0.01)
    assert torch.equal(inside, expected * 0.01)


@quiet
@with_cvxpylayers
def test_derivatives_of_polytopes() -> None:
    matrix = torch.tensor([[1.0, 2.0], [-1.0, 1.0]], dtype=DOUBLE, requires_grad=True)
    offset = torch.tensor([0.5, 0.4], dtype=DOUBLE, requires_grad=True)
    # Beside one side, beside a corner, inside, and where the box holds too.
    actions = torch.tensor(
        [[0.6, 0.5], [-0.3, 1.0], [0.1, -0.2], [2.0, 0.3]],
        dtype=DOUBLE,
        requires_grad=True,
    )

    def projected(actions: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
        problem = problem_with(Polytope(matrix, offset), low=[-1.0, -1.0])
        return problem.project(actions)

    given = (actions, matrix, offset)
    assert torch.autograd.gradcheck(projected, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(projected, given)


@quiet
@with_cvxpylayers
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_polytopes_hold_for_far_actions(dtype: torch.dtype) -> None:
    budget = Polytope([[1.0, 1.0]], [1.0])
    low, high = torch.full((2,), -1.0, dtype=dtype), torch.ones(2, dtype=dtype)
    for scale in (1e3, 1e8):
        actions = scale * torch.tensor(
            [[1.0, 2.0], [2.0, 1.0], [1.0, -3.0], [-1.0, -1.0]], dtype=dtype
        )
        found = budget.project_within(actions, low, high)
        # Far away the nearest point is a corner of the set, or its side's middle.
        expected = torch.tensor([[0, 1], [1, 0], [1, -1], [-1, -1]], dtype=dtype)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert budget.contains(found).all()
        assert not budget.contains(actions[:2]).any()
        middle = budget.project_within(scale * torch.ones(2, dtype=dtype), low, high)
        torch.testing.assert_close(middle, torch.full_like(middle, 0.5))


@quiet
@with_cvxpylayers
@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e19, 2e19, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_scale_of_a_row_does_not_matter(dtype: torch.dtype, scale: float) -> None:
    matrix = torch.tensor([[1.0, 1.0], [2.0, -1.0]], dtype=dtype)
    offset = torch.tensor([1.0, 0.5], dtype=dtype)
    rows = torch.tensor([scale, 1.0], dtype=dtype)
    plain, scaled = (
        Polytope(matrix, offset),
        Polytope(rows[:, None] * matrix, rows * offset),
    )
    actions = 3 * draw(20, 2).to(dtype)
    torch.testing.assert_close(scaled.project(actions), plain.project(actions))
    assert torch.equal(scaled.contains(actions), plain.contains(actions))
    assert not scaled.contains(actions).all()


@quiet
@with_cvxpylayers
def test_polytopes_of_many_kinds_equal_slsqp() -> None:
    for seed in range(6):
        matrix, offset = draw(7, 3, seed=seed), draw(7, seed=seed + 50).abs() + 0.05
        offset[1] = 0.01  # the same side twice, and an equation near the origin
        matrix = torch.cat([matrix, 2 * matrix[:1], -matrix[1:2]])
        offset = torch.cat([offset, 2 * offset[:1], -offset[1:2]])
        polytope, actions = Polytope(matrix, offset), 2 * draw(4, 3, seed=seed + 90)
        problem = problem_with(polytope, low=[-5.0] * 3, high=[5.0] * 3)
        sides = {
            "type": "ineq",
            "fun": lambda x, g=matrix, h=offset: h.numpy() - g.numpy() @ x,
        }
        expected = nearest(actions, problem, [sides])
        assert problem.contains(expected).all()
        torch.testing.assert_close(
            problem.project(actions), expected, rtol=0, atol=1e-5
        )


# Of two problems and three steps; the second problem has the first one's last bounds.
STEP_LOW = torch.tensor(
    [[[-1, -1], [-0.2, -math.inf], [0.1, -0.5]], [[0.1, -0.5]] * 3], dtype=DOUBLE
)
STEP_HIGH = torch.tensor(
    [[[1, 1], [math.inf, 0.3], [0.4, 0.2]], [[0.4, 0.2]] * 3], dtype=DOUBLE
)


@quiet
@with_cvxpylayers
@pytest.mark.parametrize("kind", ["problem and step", "step", "problem"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_polytopes_in_bounds_of_each_step_and_problem_equal_slsqp(
    kind: str, dtype: torch.dtype
) -> None:
    low, high = STEP_LOW, STEP_HIGH
    if kind == "step":
        low, high = low[0], high[0]
    elif kind == "problem":
        low, high = low[:, 1:2], high[:, 1:2]
    matrix, offset = [[1.0, 1.0], [-1.0, 2.0]], [0.5, 0.6]
    polytope = Polytope(matrix, offset)
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.ones(2, dtype=dtype)),
        dp.Box(low, high),
        [polytope],
    )
    actions = 2 * draw(2, 4, 3, 2, seed=5)  # four candidates of each problem
    found = problem.project(actions.to(dtype))
    assert problem.contains(found).all()
    g, h = np.array(matrix), np.array(offset)
    sides = {"type": "ineq", "fun": lambda x: h - g @ x}
    for index in np.ndindex(2, 3):
        side = [v.expand(2, 3, 2)[index].tolist() for v in (low, high)]
        alone = problem_with(polytope, low=side[0], high=side[1])
        rows = (index[0], slice(None), index[1])
        expected = nearest(actions[rows], alone, [sides]).to(dtype)
        torch.testing.assert_close(found[rows], expected, rtol=0, atol=2e-6)
    planner = dp.GradMPC(3, iterations=5, num_starts=1)
    plan = planner(problem, torch.zeros(2, 2, dtype=dtype))
    assert problem.contains(plan.actions).all()
    assert (plan.status != int(dp.Status.CONSTRAINT_VIOLATED)).all()


@quiet
@with_cvxpylayers
def test_polytopes_follow_the_bounds_of_each_step() -> None:
    offset = torch.tensor([0.5], dtype=DOUBLE)
    # The second and the third step have the same bounds, but each has its own.
    low = torch.tensor([[-1, -1], [-0.4, -0.3], [-0.4, -0.3]], dtype=DOUBLE)
    high = torch.tensor([[1, 1], [0.1, 1], [0.1, 1]], dtype=DOUBLE)
    actions = torch.tensor([[2, 0.3], [0.9, 0.8], [-0.9, 1.4]], dtype=DOUBLE)
    given = [v.requires_grad_() for v in (actions, offset, low, high)]

    def projected(
        actions: Tensor, offset: Tensor, low: Tensor, high: Tensor, *more: Ball
    ) -> Tensor:
        problem = dp.PlanningProblem(
            lambda state, action: state + action,
            dp.objectives.GoalDistance(torch.ones(2, dtype=DOUBLE)),
            dp.Box(low, high),
            [Polytope([[1.0, 1.0]], offset), *more],
        )
        return problem.project(actions)

    assert torch.autograd.gradcheck(projected, given)
    together = projected(*given, Ball(0.45))
    alone = torch.stack(
        [
            projected(actions[step], offset, low[step], high[step], Ball(0.45))
            for step in range(3)
        ]
    )
    torch.testing.assert_close(together, alone)
    slopes = [torch.autograd.grad(v.sin().sum(), given) for v in (together, alone)]
    torch.testing.assert_close(*slopes)


@quiet
@with_cvxpylayers
def test_polytopes_in_forward_mode_and_under_vmap() -> None:
    polytope, actions = Polytope([[1.0, 2.0], [-1.0, 1.0]], [0.5, 0.4]), 2 * draw(5, 2)
    expected = torch.autograd.functional.jacobian(polytope.project, actions)
    for jacobian in (
        torch.func.jacrev(polytope.project),
        torch.func.jacfwd(polytope.project),
    ):
        torch.testing.assert_close(jacobian(actions), expected)
    with pytest.raises(UnsupportedProblemError, match="vmap"):
        torch.func.vmap(polytope.project)(actions)


@quiet
@with_cvxpylayers
def test_a_planner_keeps_a_polytope() -> None:
    budget = Polytope([[1.0, 1.0, 1.0]], [0.9])
    problem = problem_with(budget, low=[0.0] * 3, goal=[3.0, 3.0, 3.0])
    planner = dp.GradMPC(1, iterations=40, num_starts=1, step_size=0.5)
    plan = planner(problem, torch.zeros(2, 3, dtype=DOUBLE))
    assert problem.contains(plan.actions).all()
    # Everybody pulls alike: the budget is shared out and spent.
    torch.testing.assert_close(
        plan.actions, torch.full_like(plan.actions, 0.3), rtol=0, atol=1e-6
    )
    soft = dp.LatCo(1, iterations=60)(problem, torch.zeros(2, 3, dtype=DOUBLE))
    assert problem.contains(soft.actions).all()
    torch.testing.assert_close(soft.actions, plan.actions, rtol=0, atol=1e-2)


@quiet
@with_cvxpylayers
def test_malformed_polytopes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"matrix, offset: expected \[C, A\]"):
        Polytope([[1.0, 0.0]], [1.0, 1.0])
    with pytest.raises(ShapeError, match="at least one row"):
        Polytope(torch.zeros(0, 2), torch.zeros(0))
    with pytest.raises(ArgumentError, match="no row of zeros, got row 1"):
        Polytope([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0])
    with pytest.raises(ShapeError, match=r"expected a matrix \[C, 3\]"):
        problem_with(Polytope([[1.0, 0.0]], [1.0]))
    with pytest.raises(ArgumentError, match="polytope has no action inside the box"):
        problem_with(Polytope([[1.0, 0.0, 0.0]], [-3.0]))


def test_a_missing_package_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.split(".")[0] in ("cvxpy", "cvxpylayers"):
            raise ImportError(name)
        return real(name, *rest, **more)

    for name in [name for name in sys.modules if name.startswith("cvxpy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    polytope_file._layer.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[cvx\]"):
        Polytope([[1.0, 0.0]], [1.0])


# State constraints, as functions


def wall(state: Tensor, action: Tensor) -> Tensor:
    return torch.cat([state[..., :1] - 0.5, action - 0.2], dim=-1)


def test_values_along_a_plan() -> None:
    states, actions = draw(2, 4, 3), draw(2, 3, 1)
    constraint = StateConstraint(wall, terminal=lambda state: state[..., :2])
    got = constraint.stages(states, actions)
    assert got.shape == (2, 3, 2)
    torch.testing.assert_close(got[..., 0], states[:, :-1, 0] - 0.5)
    torch.testing.assert_close(got[..., 1], actions[..., 0] - 0.2)
    assert torch.equal(constraint.end(states[:, -1]), states[:, -1, :2])
    assert StateConstraint(wall).end(states[:, -1]).shape == (2, 0)
    later = StateConstraint(wall, initial=False).stages(states, actions)
    assert (later[:, 0] == -math.inf).all()
    assert torch.equal(later[:, 1:], got[:, 1:])
    one = StateConstraint(wall).stages(states[:, :2], actions[:, :1])
    assert torch.equal(one, got[:, :1])


@pytest.mark.parametrize(
    "wrong", [lambda state, action: state[..., 0], lambda state, action: state[0]]
)
def test_functions_of_another_shape_are_refused(
    wrong: Callable[[Tensor, Tensor], Tensor],
) -> None:
    with pytest.raises(ShapeError, match="function: StateConstraint expected"):
        StateConstraint(wrong).stages(draw(2, 4, 3), draw(2, 3, 1))


@each_planner
def test_no_planner_ignores_a_state_constraint(case: PlannerCase) -> None:
    planner = case.build(horizon=3, iterations=2)
    if planner.keeps_state_constraints:
        return
    free = double_integrator(limit=1.0)
    problem = dp.PlanningProblem(
        free.dynamics,
        free.objective,
        free.action_space,
        [StateConstraint(lambda state, action: state[..., :1] - 0.2)],
    )
    with pytest.raises(UnsupportedProblemError, match="AugmentedLagrangian"):
        planner(problem, states_of(2))


class Careless(ActionConstraint):
    """Projects actions onto a point, but returns what it is told to."""

    def __init__(self, project: object, excess: object = None) -> None:
        self.answer, self.distance = project, excess

    def project(self, actions: Tensor) -> object:
        return self.answer(actions)

    def project_within(self, actions: Tensor, low: Tensor, high: Tensor) -> object:
        return self.answer(actions)

    def excess(self, actions: Tensor) -> object:
        return self.distance(actions) if self.distance else 0 * actions


@pytest.mark.parametrize(
    ("project", "excess"),
    [
        (lambda u: u.sum(-1), None),
        (lambda u: u.float(), None),
        (lambda u: None, None),
        (lambda u: 0 * u, lambda u: u.sum(-1)),
        (lambda u: 0 * u, lambda u: True),
    ],
)
def test_a_constraint_of_ones_own_that_returns_another_shape_is_refused(
    project: object, excess: object
) -> None:
    wrong = Careless(project, excess)
    with pytest.raises((ShapeError, TensorTypeError), match=r"constraints\[0\]: "):
        dp.PlanningProblem(
            lambda state, action: state + action,
            dp.objectives.GoalDistance(torch.zeros(2)),
            dp.Box([-1.0, -1.0], [1.0, 1.0]),
            constraints=[wrong],
        )


@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.5), (-math.inf, 0.5), (0, 0.3)])
def test_one_pair_of_bounds_for_all_dimensions_clamps_as_any(
    low: float, high: float
) -> None:
    """Against numpy and central differences; a learned bound has the same values."""
    box = dp.Box([low, low], [high, high])
    actions = torch.tensor(
        [[-3.0, 0.2], [0.5, 9.0], [math.inf, 0.1]], dtype=torch.float64
    )
    expected = np.clip(actions.numpy(), low, high)
    assert np.array_equal(box.project(actions).numpy(), expected)
    learned = torch.tensor([low, low], dtype=torch.float64, requires_grad=True)
    projected = dp.Box(learned, [high, high]).project(actions)
    assert np.array_equal(projected.detach().numpy(), expected)
    (by_bound,) = torch.autograd.grad(projected[0, 0], learned)
    assert by_bound.tolist() == [float(low > -3.0), 0.0]
    moved = torch.zeros(2, dtype=torch.float64)
    _, tangent = torch.func.jvp(
        lambda shift: dp.Box(learned.detach() + shift, [high, high]).project(actions),
        (moved,),
        (torch.ones_like(moved),),
    )
    assert tangent[0].tolist() == [float(low > -3.0), float(low > 0.2)]


def test_projections_keep_leading_dimensions() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.zeros(2)),
        dp.Box([-1.0, -1.0], [1.0, 1.0]),
        constraints=[Careless(lambda u: 0 * u if u.ndim == 1 else 0 * u.sum(0))],
    )
    with pytest.raises(ShapeError, match=r"constraints: .*Careless"):
        problem.project(torch.zeros(4, 2))
