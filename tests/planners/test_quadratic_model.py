"""The model about a trajectory against derivatives of each step by itself."""

import pytest
import torch
from problems import PendulumDynamics, QuadraticCost
from torch import Tensor

import diffplan as dp
from diffplan.functional import lqr, rollout
from diffplan.objectives import (
    ActionPenalty,
    GoalDistance,
    NegativeReturn,
    ResidualObjective,
    SoftplusReward,
    StageObjective,
    SumOfResiduals,
)
from diffplan.planners import ILQR
from diffplan.planners._quadratic_model import quadratic_model


def curved(state: Tensor) -> Tensor:
    return (state[..., 0] * state[..., 1]).sin() + state[..., 0].square()


class Swinging(StageObjective):
    """A cost with cross terms, and another one for the first step."""

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return curved(state) + (state[..., 0] * action[..., 0]).exp()

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return action[..., 0].cosh()

    def terminal_cost(self, state: Tensor) -> Tensor:
        return 2 * curved(state)


EXACT = [
    QuadraticCost(torch.tensor([0.5, 0.1], dtype=torch.float64)),
    NegativeReturn(curved),
    Swinging(),
]
RESIDUALS = [
    QuadraticCost(torch.tensor([0.5, 0.1], dtype=torch.float64)),
    SumOfResiduals([SoftplusReward(curved), ActionPenalty(0.3)]),
    GoalDistance(torch.zeros(2, dtype=torch.float64), running_weight=0.0),
]


def trajectory(
    objective: StageObjective, horizon: int
) -> tuple[dp.PlanningProblem, Tensor, Tensor]:
    problem = dp.PlanningProblem(PendulumDynamics(), objective, dp.Box([-1.0], [1.0]))
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(2, horizon, 1, generator=generator, dtype=torch.float64)
    start = torch.tensor([[0.3, -0.2], [-0.5, 0.4]], dtype=torch.float64)
    return problem, rollout(problem.dynamics, start, actions), actions


def functions(objective: StageObjective, kind: str, horizon: int) -> list:
    """Of z = (u, x): what each step costs, or its residual."""

    def of(method: object) -> object:
        return lambda point: method(point[1:], point[:1])

    steps = [of(getattr(objective, f"initial_{kind}"))]
    return steps + (horizon - 1) * [of(getattr(objective, f"running_{kind}"))]


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("objective", EXACT, ids=lambda o: type(o).__name__)
def test_exact_forms_are_gradients_and_hessians(
    objective: StageObjective, horizon: int
) -> None:
    problem, states, actions = trajectory(objective, horizon)
    model, finite = quadratic_model(problem, states, actions, gauss_newton=False)
    assert finite.all()
    for b in range(2):
        for t, cost in enumerate(functions(objective, "cost", horizon)):
            point = torch.cat([actions[b, t], states[b, t]])
            slope = torch.func.grad(cost)
            hessian = torch.func.jacrev(slope)(point)
            torch.testing.assert_close(model.hessian[b, t], hessian)
            torch.testing.assert_close(model.gradient[b, t], slope(point))
        last = states[b, -1]
        slope = torch.func.grad(objective.terminal_cost)
        torch.testing.assert_close(model.end_gradient[b], slope(last))
        hessian = torch.func.jacrev(slope)(last)
        torch.testing.assert_close(model.end_hessian[b], hessian)


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("objective", RESIDUALS, ids=lambda o: type(o).__name__)
def test_gauss_newton_forms_are_squares_of_jacobians(
    objective: ResidualObjective, horizon: int
) -> None:
    problem, states, actions = trajectory(objective, horizon)
    model, _ = quadratic_model(problem, states, actions, gauss_newton=True)
    for b in range(2):
        for t, residual in enumerate(functions(objective, "residual", horizon)):
            point = torch.cat([actions[b, t], states[b, t]])
            jacobian, value = torch.func.jacrev(residual)(point), residual(point)
            torch.testing.assert_close(model.hessian[b, t], jacobian.mT @ jacobian)
            torch.testing.assert_close(model.gradient[b, t], jacobian.mT @ value)


def test_the_dynamics_are_linearised_along_the_trajectory() -> None:
    problem, states, actions = trajectory(EXACT[0], 3)
    model, _ = quadratic_model(problem, states, actions, gauss_newton=True)
    for t in range(3):
        by_state, by_action = torch.func.jacrev(problem.dynamics, argnums=(0, 1))(
            states[1, t], actions[1, t]
        )
        torch.testing.assert_close(model.state_jacobian[1, t], by_state)
        torch.testing.assert_close(model.action_jacobian[1, t], by_action)
    unpacked = model.unpacked()
    assert (unpacked.offset == 0).all()
    assert (unpacked.initial_state == 0).all()


def test_the_regulator_of_the_model_is_a_gauss_newton_step() -> None:
    problem, states, actions = trajectory(EXACT[0], 4)
    model, _ = quadratic_model(problem, states, actions, gauss_newton=True)

    def residuals(flat: Tensor) -> Tensor:
        moved = rollout(problem.dynamics, states[0, 0], flat.view(4, 1))
        running = problem.objective.running_residual(moved[:-1], flat.view(4, 1))
        return torch.cat(
            [running.flatten(), problem.objective.terminal_residual(moved[-1])]
        )

    flat = actions[0].flatten()
    jacobian = torch.func.jacrev(residuals)(flat).detach()
    step = -torch.linalg.lstsq(jacobian, residuals(flat)[:, None].detach()).solution
    torch.testing.assert_close(lqr(model.unpacked()).actions[0].detach(), step)


def test_objectives_that_know_their_derivatives_are_asked() -> None:
    goal = torch.tensor([0.5, 0.1], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    known = dp.objectives.QuadraticCost(
        eye, 0.2 * eye[:1, :1], state_linear=-eye @ goal
    )
    unknown = SumOfResiduals([GoalDistance(goal), ActionPenalty(0.2)])
    plans = []
    for objective in (known, unknown):
        problem, states, actions = trajectory(objective, 4)
        model, _ = quadratic_model(problem, states, actions, gauss_newton=True)
        plans.append((*model, ILQR(4, iterations=3)(problem, states[:, 0]).actions))
    for got, wanted in zip(*plans, strict=True):
        torch.testing.assert_close(got, wanted)


def test_an_element_that_is_not_finite_is_a_constant_zero() -> None:
    problem, states, actions = trajectory(NegativeReturn(lambda x: x[..., 0].sqrt()), 3)
    states = states.detach().abs() + 0.1
    states[1, 2, 0] = -1.0
    states.requires_grad_()
    model, finite = quadratic_model(problem, states, actions, gauss_newton=False)
    assert finite.tolist() == [True, False]
    for tensor in model:
        assert (tensor[1] == 0).all()
        assert tensor[0].abs().sum() > 0
