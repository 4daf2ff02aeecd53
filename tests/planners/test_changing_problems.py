"""Dynamics and quadratic costs of each step and problem: LinDx, tracking."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from problems import quadratic_optimum
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import DiffplanError, ShapeError
from diffplan.models import LinearDynamics
from diffplan.objectives import QuadraticCost, SumOfResiduals, Tracking

BATCH, STEPS, SIZE, WIDTH = 2, 5, 3, 1


class Numbers(NamedTuple):
    """Of each problem and step: x' = A x + B u + c and the costs of both."""

    a: Tensor
    b: Tensor
    c: Tensor
    q: Tensor
    r: Tensor
    n: Tensor
    q_linear: Tensor
    r_linear: Tensor
    final: Tensor
    final_linear: Tensor
    state: Tensor


def numbers() -> Numbers:
    generator = torch.Generator().manual_seed(3)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(BATCH, *sizes, generator=generator, dtype=torch.float64)

    eye = torch.eye(SIZE, dtype=torch.float64)
    root, end = 0.3 * draw(STEPS, SIZE, SIZE), 0.3 * draw(SIZE, SIZE)
    return Numbers(
        a=0.8 * eye + 0.2 * draw(STEPS, SIZE, SIZE),
        b=0.6 * draw(STEPS, SIZE, WIDTH),
        c=0.2 * draw(STEPS, SIZE),
        q=root @ root.mT + 0.3 * eye,
        r=0.4 + 0.2 * draw(STEPS, WIDTH, WIDTH).abs(),
        n=0.05 * draw(STEPS, WIDTH, SIZE),
        q_linear=0.3 * draw(STEPS, SIZE),
        r_linear=0.1 * draw(STEPS, WIDTH),
        final=end @ end.mT + eye,
        final_linear=0.3 * draw(SIZE),
        state=draw(SIZE),
    )


def by_hand(given: Numbers, index: int, actions: Tensor) -> float:
    """What actions `[T, A]` of one problem cost, by a loop over numpy arrays."""
    one = Numbers(*(value[index].detach().numpy() for value in given))
    x, total = one.state, 0.0
    for t, u in enumerate(actions.detach().numpy()):
        total += 0.5 * x @ one.q[t] @ x + u @ one.n[t] @ x + 0.5 * u @ one.r[t] @ u
        total += one.q_linear[t] @ x + one.r_linear[t] @ u
        x = one.a[t] @ x + one.b[t] @ u + one.c[t]
    return float(total + 0.5 * x @ one.final @ x + one.final_linear @ x)


def optimum(given: Numbers, index: int, limit: float) -> Tensor:
    """The best actions `[T, A]` of one problem, by bounded least squares."""
    count = STEPS * WIDTH

    def cost(u: np.ndarray) -> float:
        return by_hand(given, index, torch.as_tensor(u.reshape(STEPS, WIDTH)))

    ends = np.full(count, limit)
    return quadratic_optimum(cost, -ends, ends).reshape(STEPS, WIDTH)


def quadratic(given: Numbers) -> QuadraticCost:
    return QuadraticCost(
        given.q,
        given.r,
        cross_cost=given.n,
        state_linear=given.q_linear,
        action_linear=given.r_linear,
        final_cost=given.final,
        final_linear=given.final_linear,
    )


def problem_of(given: Numbers, limit: float = 0.5) -> dp.PlanningProblem:
    system = LinearDynamics(given.a, given.b, given.c)
    return dp.PlanningProblem(system, quadratic(given), dp.Box([-limit], [limit]))


def takes(case: PlannerCase, problem: dp.PlanningProblem) -> bool:
    try:
        case.build().check_problem(problem)
    except DiffplanError:
        return False
    return True


@each_planner_that(lambda case: takes(case, problem_of(numbers())))
def test_a_changing_regulator_is_solved_and_counted(case: PlannerCase) -> None:
    given = numbers()
    plan = case.build()(problem_of(given), given.state)
    bests = torch.stack([optimum(given, index, 0.5) for index in range(BATCH)])
    assert (bests.abs() > 0.5 - 1e-6).any()
    for index, best in enumerate(bests):
        expected = by_hand(given, index, plan.actions[index])
        assert plan.cost[index].item() == pytest.approx(expected, rel=1e-9)
        least = by_hand(given, index, best)
        passive = by_hand(given, index, torch.zeros_like(best))
        assert case.is_near(plan.cost[index].item(), least, passive)
        if case.optimum_gap <= 1e-8:
            torch.testing.assert_close(plan.actions[index], best, rtol=0, atol=1e-4)


def test_an_unbounded_changing_regulator_takes_one_iteration() -> None:
    given = numbers()
    problem = problem_of(given, limit=float("inf"))
    plan = dp.ILQR(STEPS, iterations=1)(problem, given.state)
    for index in range(BATCH):
        best = optimum(given, index, np.inf)
        torch.testing.assert_close(plan.actions[index], best, rtol=1e-4, atol=1e-6)


@each_planner
def test_a_reference_that_moves_is_tracked(case: PlannerCase) -> None:
    given = numbers()
    reference = 0.5 * given.state[:, None] * torch.linspace(1, 0, STEPS + 1)[:, None]
    weights = torch.linspace(0.5, 2.0, STEPS + 1, dtype=torch.float64)
    weights = torch.stack([weights, weights.flip(0)])[..., None].expand(
        BATCH, STEPS + 1, SIZE
    )
    effort = torch.full_like(given.r, 0.1)
    diagonal = torch.diag_embed(weights)
    same = given._replace(
        q=diagonal[:, :-1],
        r=effort,
        n=torch.zeros_like(given.n),
        q_linear=-(weights * reference)[:, :-1],
        r_linear=torch.zeros_like(given.r_linear),
        final=diagonal[:, -1],
        final_linear=-(weights * reference)[:, -1],
    )
    objective = SumOfResiduals(
        [Tracking(reference, weights), dp.objectives.ActionPenalty(0.1)]
    )
    problem = problem_of(given)
    problem = dp.PlanningProblem(problem.dynamics, objective, problem.action_space)
    plan = case.build()(problem, given.state)
    constant = 0.5 * (weights * reference.square()).sum((1, 2))
    for index in range(BATCH):
        best = optimum(same, index, 0.5)
        least = by_hand(same, index, best) + float(constant[index])
        passive = by_hand(same, index, torch.zeros_like(best)) + float(constant[index])
        assert case.is_near(plan.cost[index].item(), least, passive)
        if case.optimum_gap <= 1e-8:
            torch.testing.assert_close(plan.actions[index], best, rtol=0, atol=1e-4)


def test_shapes_of_costs_mix() -> None:
    # Each tensor may depend on the step, on the problem, on both or on neither.
    given = numbers()
    states = torch.randn(BATCH, 4, STEPS + 1, SIZE, dtype=torch.float64)
    actions = torch.randn(BATCH, 4, STEPS, WIDTH, dtype=torch.float64)
    mixed = QuadraticCost(
        given.q[0, 0],
        given.r[0],
        cross_cost=given.n[:, :1],
        state_linear=given.q_linear,
        final_cost=given.final[0],
    )
    full = QuadraticCost(
        given.q[:1, :1].expand_as(given.q),
        given.r[:1].expand_as(given.r),
        cross_cost=given.n[:, :1].expand_as(given.n),
        state_linear=given.q_linear,
        action_linear=torch.zeros_like(given.r_linear),
        final_cost=given.final[:1].expand_as(given.final),
        final_linear=given.q_linear[:, -1],  # None stands for the step before
    )
    torch.testing.assert_close(mixed(states, actions), full(states, actions))
    for got, expected in zip(
        mixed.quadratize(states[:, 0], actions[:, 0]),
        full.quadratize(states[:, 0], actions[:, 0]),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_quadratized_costs_are_their_derivatives() -> None:
    given = numbers()
    cost = quadratic(given)
    states = torch.randn(BATCH, STEPS + 1, SIZE, dtype=torch.float64)
    actions = torch.randn(BATCH, STEPS, WIDTH, dtype=torch.float64)
    hessian, gradient, end_hessian, end_gradient = cost.quadratize(states, actions)
    slope = torch.func.grad(lambda x, u: cost(x, u).sum(), argnums=(0, 1))
    by_state, by_action = slope(states, actions)
    torch.testing.assert_close(gradient[..., :WIDTH], by_action)
    torch.testing.assert_close(gradient[..., WIDTH:], by_state[:, :-1])
    torch.testing.assert_close(end_gradient, by_state[:, -1])
    torch.testing.assert_close(hessian[..., WIDTH:, WIDTH:], given.q)
    torch.testing.assert_close(hessian[..., :WIDTH, WIDTH:], given.n)
    torch.testing.assert_close(end_hessian, given.final)


def test_matrices_of_each_step_and_problem_are_learned() -> None:
    given = numbers()
    system = LinearDynamics(nn.Parameter(given.a), given.b, given.c)
    problem = dp.PlanningProblem(system, quadratic(given), dp.Box([-0.5], [0.5]))
    plan = dp.ILQR(STEPS, iterations=20, gradient=dp.Implicit())(problem, given.state)
    (slope,) = torch.autograd.grad(plan.actions.sin().sum(), system.state_matrix)

    def loss(matrix: Tensor) -> Tensor:
        other = problem_of(given._replace(a=matrix))
        return dp.ILQR(STEPS, iterations=20)(other, given.state).actions.sin().sum()

    way = torch.linspace(0, 3, given.a.numel(), dtype=torch.float64).cos()
    way = way.reshape(given.a.shape)
    with torch.no_grad():
        ahead, behind = loss(given.a + 1e-5 * way), loss(given.a - 1e-5 * way)
    expected = (ahead - behind) / 2e-5
    torch.testing.assert_close((slope * way).sum(), expected, rtol=1e-4, atol=1e-6)


def test_jacobians_of_changing_dynamics_are_found_and_right() -> None:
    given = numbers()
    for system in (
        LinearDynamics(given.a, given.b, given.c),
        LinearDynamics(*given[:2]),
    ):
        for dynamics in (system, system.step, system.forward):
            problem = problem_of(given)
            problem = dp.PlanningProblem(
                dynamics, problem.objective, problem.action_space
            )
            assert problem.capabilities()["linearize"]
            assert problem.uses_time
    constant = LinearDynamics(given.a[0, 0], given.b[0, 0])
    for dynamics in (constant, constant.step, constant.forward):
        plain = dp.PlanningProblem(dynamics, quadratic(given), dp.Box([-1.0], [1.0]))
        assert plain.capabilities()["linearize"]
        assert not plain.uses_time


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("handed", [False, True])
@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_one_step_is_linearized_at_a_time(
    step: int, handed: bool, batch: tuple[int, ...]
) -> None:
    given = numbers()
    a, b, c = (value if batch else value[0] for value in (given.a, given.b, given.c))
    state = given.state if batch else given.state[0]
    action = 0.3 * torch.ones(*batch, WIDTH, dtype=torch.float64)
    system = LinearDynamics(a, b, c)
    # A Jacobian is handed over, or that of the dynamics is found.
    own = {"linearize": system.linearize} if handed else {}
    box = dp.Box([-1.0], [1.0])
    problem = dp.PlanningProblem(system, quadratic(given), box, **own)
    found = problem.linearize(state, action, torch.tensor(step))
    expected_a, expected_b = a[..., step, :, :], b[..., step, :, :]
    following = torch.einsum("...ij,...j->...i", expected_a, state)
    following = following + torch.einsum("...ij,...j->...i", expected_b, action)
    expected = (following + c[..., step, :], expected_a, expected_b)
    for part, value in zip(found, expected, strict=True):
        torch.testing.assert_close(part, value)


def test_data_for_another_horizon_or_batch_are_refused() -> None:
    given = numbers()
    problem = problem_of(given)
    with pytest.raises(ShapeError, match="horizon: dynamics LinearDynamics have data"):
        dp.CEM(STEPS + 1)(problem, given.state)
    plain = copy.copy(problem)
    plain.dynamics = LinearDynamics(given.a[0, 0], given.b[0, 0])
    other = dp.PlanningProblem(plain.dynamics, problem.objective, problem.action_space)
    with pytest.raises(ShapeError, match="horizon: QuadraticCost has data for 5"):
        dp.CEM(STEPS + 1)(other, given.state)
    with pytest.raises(ShapeError, match=r"state_cost: expected \[3, 5, 3, 3\]"):
        dp.CEM(STEPS)(other, torch.zeros(3, SIZE, dtype=torch.float64))
    with pytest.raises(ShapeError, match="action_cost: expected costs of 5 steps"):
        QuadraticCost(given.q, given.r[:, 1:])
    with pytest.raises(ShapeError, match="one number of steps"):
        LinearDynamics(given.a, given.b[:, 1:])
