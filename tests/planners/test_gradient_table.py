"""Every cell of the gradient table is right: planner x strategy x argument x order."""

import pytest
import torch
from gradient_problems import (
    HORIZON,
    QUICK,
    THOROUGH,
    GradientProblem,
    cartpole,
    linear_quadratic,
    settings,
    small_rssm,
)
from planner_cases import CASES, PlannerCase, parameter
from torch import Tensor

import diffplan as dp

PROBLEMS = [linear_quadratic(0.7), cartpole(), small_rssm()]


def cells() -> list:
    """One parameter set per cell that promises a derivative."""
    found = []
    for case in CASES:
        if case.estimator:
            continue  # finite differences disagree; it has tests of its own
        for kind, promise in case.build().supported_gradients.items():
            if kind in (dp.Detach, dp.Truncated):
                continue  # constants; and a test of its own below
            for wrt in promise.wrt:
                names = [n for n, _ in case.learnable] if wrt == "planner" else [wrt]
                found += [
                    pytest.param(
                        case,
                        kind,
                        name,
                        promise.order,
                        problem,
                        id=f"{case.name}-{kind.__name__}-{name}-{problem.name}",
                        marks=[pytest.mark.skipif(bool(case.missing), reason="absent")],
                    )
                    for name in names
                    for problem in PROBLEMS
                    # other solvers and engines take the same steps
                    if "-" not in case.name or problem is PROBLEMS[0]
                ]
    return found


@pytest.mark.parametrize(("case", "kind", "wrt", "order", "problem"), cells())
def test_the_cell_is_right(
    case: PlannerCase,
    kind: type[dp.GradientStrategy],
    wrt: str,
    order: int,
    problem: GradientProblem,
) -> None:
    table = QUICK if kind is dp.Unroll else THOROUGH
    changes = settings(table, case)
    if wrt in dict(case.learnable):
        changes = {**changes, wrt: parameter(dict(case.learnable)[wrt])}
    gradient = dp.Implicit(order=2) if kind is dp.Implicit else kind()
    planner = case.build(HORIZON, gradient=gradient, **changes)

    def actions(value: Tensor) -> Tensor:
        if wrt == "state":
            return planner(problem.with_values(), value).actions
        if wrt == "warm start":
            given = problem.with_values()
            plan = planner(given, problem.state).detach()
            warm = dp.Plan(value, plan.states, plan.cost)
            return planner(given, problem.state, warm_start=warm).actions
        if wrt in dict(case.learnable):
            arguments = (problem.with_values(), problem.state)
            return torch.func.functional_call(planner, {wrt: value}, arguments).actions
        return planner(problem.with_values(**{wrt: value}), problem.state).actions

    at = start(case, wrt, problem).requires_grad_()
    # fast_mode compares along random directions instead of entry by entry
    assert torch.autograd.gradcheck(actions, (at,), atol=1e-5, fast_mode=True)
    if order > 1:
        assert torch.autograd.gradgradcheck(
            actions, (at,), atol=1e-4, rtol=1e-3, fast_mode=True
        )


def start(case: PlannerCase, wrt: str, problem: GradientProblem) -> Tensor:
    """Where to differentiate."""
    if wrt == "state":
        return problem.state.clone()
    if wrt == "warm start":
        shape = (len(problem.state), HORIZON, 1)
        wave = torch.arange(6.0, dtype=torch.float64).sin().reshape(shape)
        return 0.3 * problem.values["bounds"] * wave
    if wrt in dict(case.learnable):
        return parameter(dict(case.learnable)[wrt]).detach()
    return problem.values[wrt].clone()
