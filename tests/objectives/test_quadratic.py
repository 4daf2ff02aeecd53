"""The quadratic cost against its formula, autodiff, and the regulator's own."""

import pytest
import torch
from lqr_problems import lqr_cost, random_lqr
from torch import Tensor

import diffplan as dp
from diffplan.errors import NonFiniteError, ShapeError, TensorTypeError
from diffplan.objectives import QuadraticCost, Quadratizable


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def full() -> QuadraticCost:
    return QuadraticCost(
        drawn(3, 3, seed=1),
        drawn(2, 2, seed=2),
        cross_cost=drawn(2, 3, seed=3),
        state_linear=drawn(3, seed=4),
        action_linear=drawn(2, seed=5),
        final_cost=drawn(3, 3, seed=6),
        final_linear=drawn(3, seed=7),
    )


COSTS = [full(), QuadraticCost(drawn(3, 3, seed=8), drawn(2, 2, seed=9))]
each = pytest.mark.parametrize("cost", COSTS, ids=["full", "plain"])


def test_it_costs_what_the_regulator_says() -> None:
    problem = random_lqr((), 4, 3, 2, seed=0)
    one = problem._replace(
        state_cost=problem.state_cost[:1].expand(5, -1, -1),
        action_cost=problem.action_cost[:1].expand(4, -1, -1),
        cross_cost=problem.cross_cost[:1].expand(4, -1, -1),
        state_linear=problem.state_linear[:1].expand(5, -1),
        action_linear=problem.action_linear[:1].expand(4, -1),
    )
    cost = QuadraticCost(
        one.state_cost[0],
        one.action_cost[0],
        cross_cost=one.cross_cost[0],
        state_linear=one.state_linear[0],
        action_linear=one.action_linear[0],
    )
    states, actions = drawn(6, 5, 3), drawn(6, 4, 2, seed=1)
    torch.testing.assert_close(cost(states, actions), lqr_cost(one, states, actions))


@each
def test_derivatives_are_those_of_autodiff(cost: QuadraticCost) -> None:
    assert isinstance(cost, Quadratizable)
    states, actions = drawn(2, 5, 3), drawn(2, 4, 2, seed=1)
    hessian, gradient, end_hessian, end_gradient = cost.quadratize(states, actions)
    for b in range(2):
        for t in range(4):

            def running(z: Tensor) -> Tensor:
                return cost.running_cost(z[2:], z[:2])

            point = torch.cat((actions[b, t], states[b, t]))
            expected = torch.func.grad(running)(point)
            torch.testing.assert_close(gradient[b, t], expected)
            torch.testing.assert_close(
                hessian[b, t], torch.func.jacrev(torch.func.grad(running))(point)
            )
        last = states[b, -1]
        expected = torch.func.grad(cost.terminal_cost)(last)
        torch.testing.assert_close(end_gradient[b], expected)
        bend = torch.func.jacrev(torch.func.grad(cost.terminal_cost))(last)
        torch.testing.assert_close(end_hessian[b], bend)


def test_a_plan_is_the_regulators() -> None:
    problem = random_lqr((4,), 5, 3, 2, seed=1)
    forms = (problem.state_cost[0, 0], problem.action_cost[0, 0])
    by_state, by_action = (
        matrix[0, 0] for matrix in (problem.state_jacobian, problem.action_jacobian)
    )
    wide = torch.full((2,), torch.inf, dtype=torch.float64)
    planning = dp.PlanningProblem(
        lambda x, u: x @ by_state.mT + u @ by_action.mT,
        QuadraticCost(*forms),
        dp.Box(-wide, wide),
    )
    start = problem.initial_state
    plan = dp.ILQR(5, iterations=3, tolerance=1e-9)(planning, start)
    zero = {"offset", "state_linear", "action_linear", "cross_cost"}
    fixed = {
        "state_cost": forms[0].expand(4, 6, 3, 3),
        "action_cost": forms[1].expand(4, 5, 2, 2),
        "state_jacobian": by_state.expand(4, 5, 3, 3),
        "action_jacobian": by_action.expand(4, 5, 3, 2),
        **{name: torch.zeros_like(getattr(problem, name)) for name in zero},
    }
    expected = dp.functional.lqr(problem._replace(**fixed))
    torch.testing.assert_close(plan.actions, expected.actions, rtol=0, atol=1e-9)


def test_parameters_are_learnt_through_a_plan() -> None:
    effort = torch.nn.Parameter(torch.tensor([[0.3]], dtype=torch.float64))
    cost = QuadraticCost(torch.eye(2, dtype=torch.float64), effort)
    assert dict(cost.named_parameters()) == {"action_cost": effort}
    problem = dp.PlanningProblem(
        lambda x, u: torch.stack(
            (x[..., 0] + 0.1 * x[..., 1], x[..., 1] + u[..., 0]), -1
        ),
        cost,
        dp.Box([-1.0], [1.0]),
    )
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    planner = dp.ILQR(6, iterations=20, gradient=dp.Implicit())

    def first(value: Tensor) -> Tensor:
        cost.action_cost.data = value
        return planner(problem, start).actions[0, 0]

    (found,) = torch.autograd.grad(first(effort.data), effort)
    step = torch.full_like(effort, 1e-5)
    with torch.no_grad():
        high, low = first(effort + step), first(effort - 2 * step)
    torch.testing.assert_close(
        found.item(), ((high - low) / 2e-5).item(), rtol=1e-5, atol=0
    )


def test_bad_matrices_are_refused_by_name() -> None:
    eye = torch.eye(2)
    with pytest.raises(ShapeError, match="state_cost"):
        QuadraticCost(torch.ones(2), eye)
    with pytest.raises(ShapeError, match="cross_cost"):
        QuadraticCost(eye, torch.eye(1), cross_cost=torch.zeros(2, 1))
    with pytest.raises(ShapeError, match="final_linear"):
        QuadraticCost(eye, eye, final_linear=torch.zeros(3))
    with pytest.raises(NonFiniteError, match="action_cost"):
        QuadraticCost(eye, eye * torch.nan)
    with pytest.raises(TensorTypeError, match="state_cost"):
        QuadraticCost(torch.eye(2, dtype=torch.long), eye)
