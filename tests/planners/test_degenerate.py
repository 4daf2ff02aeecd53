"""Inputs at the border of what is allowed are planned like any others.

Those that concern strangers' planners too are checks of `diffplan.testing._degenerate`.
"""

from dataclasses import replace

import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from planted_functions import Identity
from problems import (
    LinearDynamics,
    QuadraticCost,
    bounded_actions,
    cost_of,
    double_integrator,
    states_of,
)
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, GradientError
from diffplan.testing import point_mass_problem
from diffplan.testing._degenerate import check_constant_objective


def with_a_narrow_action(
    half_width: float, dtype: torch.dtype = torch.float64
) -> dp.PlanningProblem:
    """The double integrator with a second action of little effect and choice."""
    control = torch.tensor([[0.05, 0.02], [0.3, -0.04]], dtype=dtype)
    middle = torch.tensor([0.0, 0.3], dtype=dtype)
    half = torch.tensor([0.6, half_width], dtype=dtype)
    problem = double_integrator(dtype)
    return dp.PlanningProblem(
        LinearDynamics(problem.dynamics.transition.detach(), control),
        QuadraticCost(problem.objective.goal.detach()),
        dp.Box(middle - half, middle + half),
    )


each_of_many_actions = each_planner_that(lambda case: case.action_dim is None)


@each_of_many_actions
@pytest.mark.parametrize("half_width", [0.0, 1e-6, 1e-3])
def test_a_narrow_side_of_a_box_does_not_hold_up_the_others(
    case: PlannerCase, half_width: float
) -> None:
    # The oracle is scipy's bounded least squares.
    problem, state = with_a_narrow_action(half_width), states_of(2)
    plan = case.build()(problem, state)
    assert (plan.status <= int(dp.Status.COMPLETED)).all(), plan.explain()
    assert problem.action_space.contains(plan.actions).all()
    best = torch.stack([bounded_actions(problem, x, horizon=5) for x in state])
    least = cost_of(problem, state, best)
    # the gap is declared for one action, and this is a search for two
    assert (plan.cost <= least * (1 + 2 * case.optimum_gap)).all()
    assert (plan.cost >= least * (1 - 1e-9)).all()


@pytest.mark.parametrize("engine", ["native", "theseus"])
@pytest.mark.parametrize("half_width", [0.0, 1e-6])
def test_a_narrow_side_does_not_hold_up_collocation_as_released(
    half_width: float, engine: str
) -> None:
    if engine == "theseus":
        pytest.importorskip("theseus")
    problem, state = with_a_narrow_action(half_width), states_of(2)
    least = cost_of(
        problem,
        state,
        torch.stack([bounded_actions(problem, x, horizon=5) for x in state]),
    )
    given = with_a_narrow_action(half_width, torch.float32)
    plan = dp.LatCo(5, iterations=100, engine=engine)(given, state.float())
    assert (plan.status == int(dp.Status.CONVERGED)).all(), plan.explain()
    assert given.action_space.contains(plan.actions).all()
    assert torch.isfinite(plan.memory["multipliers"]).all()
    # as near as in a problem without that action: the tolerance is that of the paper
    assert (plan.cost <= 1.1 * least).all()


@each_planner
def test_a_horizon_of_one_reaches_its_optimum(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)
    plan = case.build(horizon=1)(problem, state)
    assert (plan.status <= int(dp.Status.COMPLETED)).all(), plan.explain()
    best = torch.stack([bounded_actions(problem, x, horizon=1) for x in state])
    least = cost_of(problem, state, best)
    assert (plan.cost <= least * (1 + case.optimum_gap)).all()


@each_planner
def test_zero_iterations_claim_no_convergence(case: PlannerCase) -> None:
    problem, state = double_integrator(limit=0.6), states_of(2)
    try:
        planner = case.build(iterations=0)
    except ArgumentError as error:
        assert "iterations" in str(error)  # noqa: PT017 - a refusal is an answer too
        return
    plan = planner(problem, state)
    assert torch.isfinite(plan.cost).all()
    assert (plan.status != int(dp.Status.CONVERGED)).all()
    assert (plan.status <= int(dp.Status.ITERATION_LIMIT)).all()
    assert (plan.iterations == 0).all() or case.name.startswith("Augmented")


@each_planner
@pytest.mark.parametrize("gradient", [dp.Unroll(), dp.Implicit(on_failure="zero")])
def test_a_model_without_parameters_is_differentiated(
    case: PlannerCase, gradient: dp.GradientStrategy
) -> None:
    if type(gradient) not in case.gradients:
        gradient = dp.Detach()
    problem = dp.PlanningProblem(
        lambda state, action: 0.9 * state + 0.3 * action,
        cost_without_parameters(),
        dp.Box([-1.0], [1.0]),
    )
    state = torch.tensor([[0.3], [-0.2]], dtype=torch.float64, requires_grad=True)
    plan = case.build(gradient=gradient)(problem, state)
    (slope,) = torch.autograd.grad(plan.cost.sum(), state)
    assert torch.isfinite(slope).all()
    assert (slope != 0).all()


@each_planner_that(lambda case: dp.Implicit in case.gradients)
@pytest.mark.parametrize("on_failure", ["raise", "zero", "nan"])
def test_a_constant_objective_without_an_implicit_derivative_keeps_its_promise(
    case: PlannerCase, on_failure: str
) -> None:
    gradient = dp.Implicit(on_failure=on_failure)
    planner = case.build(horizon=3, iterations=6, gradient=gradient)
    check_constant_objective(planner, *case.problem(torch.float64))


class SpoiledGradient(Identity):
    """A NaN in backward."""

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, torch.nan)


class NoGradient(Identity):
    """No derivative at all."""

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        raise GradientError("gradient: none")


@pytest.mark.parametrize(
    ("planted", "gradient", "words"),
    [
        (SpoiledGradient, dp.Implicit(), "the gradient to the state is"),
        (SpoiledGradient, dp.Implicit(on_failure="zero"), "the gradient to the state"),
        (SpoiledGradient, dp.Unroll(), "the gradient to the state is"),
        (NoGradient, dp.Implicit(on_failure="zero"), "expected an answer, got Grad"),
        (NoGradient, dp.Implicit(on_failure="nan"), "expected an answer, got Grad"),
        (NoGradient, dp.Unroll(), "expected an answer, got Grad"),
    ],
)
def test_a_wrong_gradient_of_a_constant_objective_is_caught(
    planted: type[Identity], gradient: dp.GradientStrategy, words: str
) -> None:
    class Wrong(dp.ILQR):
        def forward(self, problem, state, **options):  # noqa: ANN001, ANN003, ANN202
            plan = super().forward(problem, state, **options)
            leaf = 0 * state[:, None, :1] + plan.actions.detach()
            return replace(plan, actions=planted.apply(leaf))

    planner = Wrong(3, iterations=2, gradient=gradient)
    with pytest.raises(AssertionError, match=words):
        check_constant_objective(planner, *point_mass_problem())


def test_only_implicit_gradients_may_have_none_at_a_constant_objective() -> None:
    class Wrong(dp.ILQR):
        def forward(self, problem, state, **options):  # noqa: ANN001, ANN003, ANN202
            plan = super().forward(problem, state, **options)
            status = torch.full_like(plan.status, int(dp.Status.NOT_STATIONARY))
            return replace(plan, status=status)

    with pytest.raises(AssertionError, match="no derivative"):
        check_constant_objective(Wrong(3, iterations=2), *point_mass_problem())


def cost_without_parameters() -> dp.objectives.ResidualObjective:
    """A residual objective without parameters."""
    goal = torch.zeros(1, dtype=torch.float64)
    return dp.objectives.SumOfResiduals(
        [dp.objectives.GoalDistance(goal), dp.objectives.ActionPenalty(0.3)]
    )
