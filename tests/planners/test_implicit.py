"""`Implicit()`: equal to unrolling to convergence, and honest where it cannot be."""

import pytest
import torch
from gradient_problems import (
    GradientProblem,
    cartpole,
    linear_quadratic,
    pendulum_near_upright,
    small_rssm,
)
from planner_cases import CASES, PlannerCase
from torch import Tensor

import diffplan as dp
from diffplan.errors import GradientError, UnsupportedGradientError
from diffplan.planners.collocation import FixedMultiplier
from diffplan.testing import check_gradients

PROBLEMS = [linear_quadratic(0.7), cartpole(), pendulum_near_upright(), small_rssm()]
IMPLICIT = [case for case in CASES if dp.Implicit in case.gradients]
each_implicit = pytest.mark.parametrize(
    "case",
    [case for case in IMPLICIT if "-" not in case.name],
    ids=lambda case: case.name,
)
ITERATIONS = {"LatCo": 120, "ILQR": 40, "ShootingGN": 100}


def class_of(case: PlannerCase) -> str:
    return type(case.build()).__name__


def converging(
    case: PlannerCase,
    gradient: dp.GradientStrategy,
    iterations: int | None = None,
) -> dp.Planner:
    """A planner that ends in a minimum of the function that `Implicit` differentiates.

    For LatCo that needs multipliers that stay, and no damping that grows with them, or
    those that end at the constrained minimum.
    """
    changes: dict = {"iterations": iterations or ITERATIONS[class_of(case)]}
    if case.name == "LatCo-duals":
        changes |= {"fall_back": False}
    elif class_of(case) == "LatCo":
        changes |= {
            "multiplier_rule": FixedMultiplier(),
            "initial_multipliers": (30.0, 30.0),
            "damping": 1e-4,
            "normalize": False,
            "fall_back": False,  # the minimum has forces: it is no plan to be executed
        }
    return case.build(4, gradient=gradient, **changes)


def gradients(
    planner: dp.Planner, problem: GradientProblem
) -> tuple[dp.Plan, dict[str, Tensor]]:
    """The plan, and the gradient of a weighting of its actions to everything."""
    leaves = {k: v.clone().requires_grad_() for k, v in problem.values.items()}
    state = problem.state.clone().requires_grad_()
    plan = planner(problem.with_values(**leaves), state)
    weights = torch.arange(1.0, 1 + plan.actions.numel(), dtype=torch.float64).cos()
    loss = (weights.reshape(plan.actions.shape) * plan.actions).sum()
    wrt = {"state": state, **leaves}
    found = torch.autograd.grad(loss, list(wrt.values()), materialize_grads=True)
    return plan, dict(zip(wrt, found, strict=True))


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        pytest.param(case, problem, id=f"{case.name}-{problem.name}")
        for case in IMPLICIT
        for problem in PROBLEMS
        # other solvers and engines take the same steps: one problem is enough
        if "-" not in case.name or problem.name == "pendulum"
    ],
)
def test_implicit_equals_unrolled_to_convergence(
    case: PlannerCase, problem: GradientProblem
) -> None:
    unrolled, expected = gradients(converging(case, dp.Unroll()), problem)
    plan, found = gradients(converging(case, dp.Implicit()), problem)
    torch.testing.assert_close(plan.actions, unrolled.actions, rtol=0, atol=1e-6)
    assert plan.succeeded.all()
    assert (plan.diagnostics["stationarity"] < 1e-9).all()
    for name, gradient in found.items():
        scale = max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(
            gradient / scale, expected[name] / scale, rtol=0, atol=1e-6
        )


@each_implicit
def test_truncation_approaches_the_implicit_gradient(case: PlannerCase) -> None:
    problem = pendulum_near_upright()
    _, expected = gradients(converging(case, dp.Implicit()), problem)
    errors = []
    for kept in (1, 4, 16):
        _, found = gradients(converging(case, dp.Truncated(kept)), problem)
        errors.append(
            max(float((found[name] - expected[name]).abs().max()) for name in found)
        )
    assert errors[2] < 1e-3 * max(1.0, errors[0])
    rounding = 1e-12
    assert errors[2] <= errors[1] + rounding
    assert errors[1] <= errors[0] + rounding


def test_the_true_hessian_is_right_where_that_of_gauss_newton_is_not() -> None:
    # One Gauss-Newton step from the minimum is what implicit modes of least-squares
    # libraries differentiate, and so does Truncated(1) here; unrolling is the oracle.
    problem = small_rssm()
    case = next(case for case in IMPLICIT if case.name == "LatCo")
    implicit, gauss_newton, oracle = (
        gradients(converging(case, strategy), problem)[1]["state"]
        for strategy in (dp.Implicit(), dp.Truncated(1), dp.Unroll())
    )
    assert (implicit - oracle).norm() < 1e-4 * (gauss_newton - oracle).norm()


def test_the_distance_to_the_whole_planner_of_latco() -> None:
    # Multipliers follow violations; `Implicit` holds them. With multipliers as large
    # as a finished run leaves them that hardly matters: 1 % here.
    problem = pendulum_near_upright()
    planner = dp.LatCo(
        4, iterations=150, dynamics_tolerance=1e-6, gradient=dp.Implicit()
    )
    _, found = gradients(planner, problem)
    whole = dp.LatCo(4, iterations=150, dynamics_tolerance=1e-6, gradient=dp.Unroll())
    _, expected = gradients(whole, problem)
    for name in ("state", "dynamics", "objective"):
        gap = (found[name] - expected[name]).norm() / expected[name].norm()
        assert gap < 0.01, name


def test_an_element_without_a_minimum_is_reported_and_refused() -> None:
    planner = next(c for c in IMPLICIT if c.name == "LatCo").build(
        3, iterations=0, gradient=dp.Implicit(polish=0), init="rollout"
    )
    problem = pendulum_near_upright()
    plan = planner(problem.with_values(), problem.state.clone().requires_grad_())
    assert plan.status.tolist() == [int(dp.Status.NOT_STATIONARY)] * 2
    assert not plan.succeeded.any()
    assert "Implicit" in plan.explain()
    with pytest.raises(GradientError, match=r"elements \[0, 1\]"):
        plan.actions.sum().backward()


def test_planner_numbers_that_are_not_differentiated_are_refused() -> None:
    damping = torch.nn.Parameter(torch.tensor(1e-3, dtype=torch.float64))
    planner = dp.LatCo(3, iterations=2, damping=damping, gradient=dp.Implicit())
    problem = pendulum_near_upright()
    with pytest.raises(UnsupportedGradientError, match="damping"):
        planner(problem.with_values(), problem.state)
    damping.requires_grad_(False)
    planner(problem.with_values(), problem.state)


@each_implicit
def test_the_public_verifier_agrees(
    case: PlannerCase, capsys: pytest.CaptureFixture
) -> None:
    problem = linear_quadratic(0.7)
    leaves = {k: v.clone().requires_grad_() for k, v in problem.values.items()}
    report = check_gradients(
        converging(case, dp.Implicit(order=2), iterations=10),
        problem.with_values(**leaves),
        problem.state,
        {name: leaves[name] for name in ("dynamics", "objective")},
        order=2,
    )
    assert report.largest_error < 1e-5
    assert capsys.readouterr().out.count("\n") == 2 + len(report.rows)
