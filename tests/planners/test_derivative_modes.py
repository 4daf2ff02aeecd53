"""Forward mode, `torch.func`, `torch.export`: right, or refused, for each planner."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from gradient_problems import (
    HORIZON,
    QUICK,
    THOROUGH,
    linear_quadratic,
    settings,
)
from planner_cases import CASES, PlannerCase, each_planner, parameter
from problems import pendulum, states_of
from torch import Tensor

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    UnsupportedGradientError,
    UnsupportedProblemError,
)

Line = Callable[[Tensor], Tensor]

CELLS = [
    pytest.param(
        case,
        kind,
        id=f"{case.name}-{kind.__name__}",
        marks=[pytest.mark.skipif(bool(case.missing), reason="absent")],
    )
    for case in CASES
    for kind in case.build().supported_gradients
]
each_cell = pytest.mark.parametrize(("case", "kind"), CELLS)


def strategy(kind: type[dp.GradientStrategy]) -> dp.GradientStrategy:
    if kind is dp.Truncated:
        return dp.Truncated(2)
    return dp.Implicit(order=2) if kind is dp.Implicit else kind()


def line(case: PlannerCase, kind: type[dp.GradientStrategy]) -> Line:
    """The plan along one direction in all that it can be differentiated by, `[]`."""
    table = THOROUGH if kind is dp.Implicit else QUICK
    wrt = case.build().supported_gradients[kind].wrt
    numbers = dict(case.learnable) if "planner" in wrt else {}
    learned = {name: parameter(value) for name, value in numbers.items()}
    given = {**settings(table, case), **learned}
    planner = case.build(HORIZON, gradient=strategy(kind), **given)
    problem, generator = linear_quadratic(0.7), torch.Generator().manual_seed(1)
    start = 0.2 * torch.randn(2, HORIZON, 1, generator=generator, dtype=torch.float64)

    def way(like: Tensor) -> Tensor:
        wave = torch.arange(1.0, 1 + like.numel(), dtype=like.dtype).mul(1.7).cos()
        return 0.1 * wave.reshape(like.shape)

    def actions(length: Tensor) -> Tensor:
        def moved(value: Tensor) -> Tensor:
            value = value.detach()
            return value + length * way(value)

        values = {name: moved(value) for name, value in problem.values.items()}
        state, warm = moved(problem.state), None
        if "warm start" in wrt:
            states = problem.state[:, None].expand(-1, HORIZON + 1, -1)
            cost = torch.zeros(2, dtype=torch.float64)
            warm = dp.Plan(moved(start), states, cost)
        return torch.func.functional_call(
            planner,
            {name: moved(value) for name, value in learned.items()},
            (problem.with_values(**values), state),
            {"warm_start": warm},
        ).actions.flatten()

    return actions


def by_duals(function: Line, at: Tensor) -> Tensor:
    with forward_mode.dual_level():
        answer = function(forward_mode.make_dual(at, torch.ones_like(at)))
        answer, tangent = forward_mode.unpack_dual(answer)
        return torch.zeros_like(answer) if tangent is None else tangent


def by_jvp(function: Line, at: Tensor) -> Tensor:
    return torch.func.jvp(function, (at,), (torch.ones_like(at),))[1]


@each_cell
def test_forward_mode_is_reverse_mode(
    case: PlannerCase, kind: type[dp.GradientStrategy]
) -> None:
    function, at = line(case, kind), torch.zeros((), dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(function, at)
    if kind is dp.Unroll and not case.estimator:
        step = 1e-6
        with torch.no_grad():
            rise = (function(at + step) - function(at - step)) / (2 * step)
        torch.testing.assert_close(expected, rise, rtol=1e-4, atol=1e-6)
    assert (expected.norm() > 0) == (kind is not dp.Detach)
    torch.testing.assert_close(by_duals(function, at), expected, rtol=1e-7, atol=1e-8)
    if case.name == "LatCo-theseus":
        with pytest.raises(UnsupportedGradientError, match="native"):
            by_jvp(function, at)
        return
    torch.testing.assert_close(by_jvp(function, at), expected, rtol=1e-7, atol=1e-8)
    if "-" in case.name:
        return  # other solvers and settings of the same planner
    # also where no graph is recorded, and where all cotangents go back at once
    with torch.no_grad():
        found = by_jvp(function, at)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    found = torch.func.jacrev(function)(at)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("case", "kind"),
    [cell for cell in CELLS if "Detach" not in cell.id and cell.id.count("-") == 1],
)
def test_forward_over_reverse_mode_is_reverse_mode_twice(
    case: PlannerCase, kind: type[dp.GradientStrategy]
) -> None:
    function, at = line(case, kind), torch.zeros((), dtype=torch.float64)

    def slope(length: Tensor) -> Tensor:
        leaf = length if length.requires_grad else length.clone().requires_grad_()
        total = function(leaf).square().sum()
        return torch.autograd.grad(total, leaf, create_graph=True)[0]

    expected = torch.autograd.functional.jacobian(slope, at)
    torch.testing.assert_close(by_duals(slope, at), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["ILQR", "ShootingGN", "LatCo"])
def test_implicit_gradients_are_not_mapped_but_say_so(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    planner = case.build(3, iterations=2, gradient=dp.Implicit())
    problem = pendulum()
    mapped = torch.func.vmap(lambda x: planner(problem, x).actions, randomness="same")
    with pytest.raises(UnsupportedGradientError, match="cannot be mapped"):
        mapped(states_of(2))


def test_implicit_gradients_of_the_first_order_refuse_a_second_in_any_mode() -> None:
    problem = linear_quadratic(0.7)
    planner = dp.ILQR(HORIZON, iterations=4, gradient=dp.Implicit())

    def total(length: Tensor) -> Tensor:
        return planner(problem.with_values(), problem.state * length).actions.sum()

    at, one = (
        torch.tensor(1.0, dtype=torch.float64),
        torch.ones((), dtype=torch.float64),
    )
    for twice in (
        lambda: torch.func.grad(torch.func.grad(total))(at),
        lambda: torch.func.jvp(torch.func.grad(total), (at,), (one,)),
        lambda: torch.func.grad(lambda x: torch.func.jvp(total, (x,), (one,))[1])(at),
    ):
        with pytest.raises(UnsupportedGradientError, match="no second derivative"):
            twice()


@pytest.mark.parametrize("name", ["ILQR", "ShootingGN"])
def test_large_states_have_the_same_implicit_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By conjugate gradients instead of by a regulator.
    case = next(case for case in CASES if case.name == name)
    function, at = line(case, dp.Implicit), torch.zeros((), dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(function, at)
    monkeypatch.setattr("diffplan.planners._implicit._FEW", 0)
    for found in (
        torch.autograd.functional.jacobian(function, at),
        by_duals(function, at),
        by_jvp(function, at),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(UnsupportedGradientError, match="one transform of torch"):
        torch.func.grad(torch.func.grad(lambda x: function(x).sum()))(at)


@each_planner
def test_numbers_that_left_their_range_are_reported(case: PlannerCase) -> None:
    for name, value in case.learnable:
        planner = case.build(3, iterations=2, **{name: parameter(value)})
        bad = torch.tensor(-value, dtype=torch.float64)
        with torch.no_grad():
            getattr(planner, name).copy_(bad)
        problem, state = pendulum(), states_of(2)
        with pytest.raises(ArgumentError, match=f"{name}: expected a"):
            planner(problem, state)
        if not case.vmapped:
            continue
        # where numbers cannot be looked at, the status of the plan tells
        status = partial(status_with, planner, name, problem, state)
        found = torch.func.vmap(status, randomness="same")(torch.stack([bad, -bad]))
        assert (found[0] == int(dp.Status.NON_FINITE)).all()
        assert (found[1] != int(dp.Status.NON_FINITE)).all()


def status_with(
    planner: dp.Planner,
    name: str,
    problem: dp.PlanningProblem,
    state: Tensor,
    number: Tensor,
) -> Tensor:
    given = (problem, state)
    return torch.func.functional_call(planner, {name: number}, given).status


class Exported(torch.nn.Module):
    """A planner and its problem as a function of the state."""

    def __init__(self, planner: dp.Planner, problem: dp.PlanningProblem) -> None:
        super().__init__()
        self.planner, self.problem = planner, problem
        self.dynamics, self.objective = problem.dynamics, problem.objective

    def forward(self, state: Tensor) -> Tensor:
        return self.planner(self.problem, state).actions


# torch looks at its own placeholders while it exports.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "case", [c for c in CASES if "-" not in c.name], ids=lambda case: case.name
)
def test_planners_are_exported_or_say_that_they_cannot_be(case: PlannerCase) -> None:
    planner = case.build(2, iterations=1, gradient=dp.Detach())
    module, state = Exported(planner, pendulum()), states_of(2)
    if planner.needs_derivatives:
        with pytest.raises(UnsupportedProblemError, match=r"torch\.export: "):
            torch.export.export(module, (state,), strict=False)
        return
    exported = torch.export.export(module, (state,), strict=False).module()
    torch.testing.assert_close(exported(state + 0.1), module(state + 0.1))
