"""A failed element harms nobody: the others' loss has the gradient that it always had.

The oracle is the same batch with a healthy element in the place of the one that fails.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import diffplan as dp
from diffplan.errors import GradientError

FAR = 50.0
"""Where the failing element starts; the others never get to the half of it."""

HEALTHY, FAILING = (0.4, -0.2), (FAR, 1.0)
KEPT = [0, 2]


def far(state: Tensor) -> Tensor:
    return state[..., :1] > FAR / 2


# What becomes of the next state, given the state that it follows.
MODELS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    # not true of NaN: what follows the first NaN has to be NaN by itself
    "nan": lambda s, n: torch.where(far(s), torch.nan, n),
    "sticky nan": lambda s, n: torch.where(~(s[..., :1] <= FAR / 2), torch.nan, n),
    "infinite": lambda s, n: torch.where(far(s), torch.inf, n),
    "overflow": lambda s, n: torch.where(far(s), 1e200 * n, n).square() / n,
    # its own derivative is NaN for a finite argument
    "square root": lambda s, n: n + 0.01 * (FAR / 2 - s[..., :1]).sqrt(),
}
DERIVATIVE = "derivative"
"""Finite, but for the derivative: a mask over a square root."""


class Model(nn.Module):
    """A point on a line, pushed by `strength`, that fails far away."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.strength = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        place, speed = state.split(1, dim=-1)
        following = torch.cat([place + 0.3 * speed, speed + self.strength * action], -1)
        if self.kind == DERIVATIVE:
            rest = FAR / 2 - self.strength * state[..., :1] / 0.3
            return following + torch.where(rest > 0, rest.sqrt(), 0.0) * 0.01
        if self.kind in MODELS:
            return MODELS[self.kind](state, following)
        return following


class Goal(dp.objectives.ResidualObjective):
    """Residuals to a learned goal, which are NaN far away if that is the kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.goal = nn.Parameter(torch.tensor([0.5, 0.0], dtype=torch.float64))

    def terminal_residual(self, state: Tensor) -> Tensor:
        residual = state - self.goal
        if self.kind == "objective":
            room = (FAR / 2 - state[..., :1] + self.goal[:1]).sqrt()
            residual = torch.cat([residual, 0.1 * room], -1)
        return residual

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([0.3 * self.terminal_residual(state), 0.3 * action], -1)


def gradients(
    planner: dp.Planner, kind: str, element: tuple[float, float], cost: bool = False
) -> tuple[dp.Plan, dict[str, Tensor]]:
    """The plan, and the gradient of a loss over the elements that are kept."""
    low, high = (torch.full((1,), v, dtype=torch.float64) for v in (-0.7, 1.0))
    model, goal = Model(kind), Goal(kind)
    bounds = (low.requires_grad_(), high.requires_grad_())
    problem = dp.PlanningProblem(model, goal, dp.Box(*bounds))
    state = torch.tensor([[0.0, 0.1], element, [-0.6, 0.3]], dtype=torch.float64)
    state.requires_grad_()
    plan = planner(problem, state)
    loss = plan.cost[KEPT].sum() if cost else plan.actions[KEPT].sin().sum()
    wrt = {
        "state": state,
        "low": low,
        "high": high,
        "strength": model.strength,
        "goal": goal.goal,
        **dict(planner.named_parameters()),
    }
    found = torch.autograd.grad(loss, list(wrt.values()), materialize_grads=True)
    return plan, dict(zip(wrt, found, strict=True))


def check(planner: dp.Planner, kind: str, cost: bool = False) -> dp.Plan:
    plan, found = gradients(planner, kind, FAILING, cost)
    _, expected = gradients(planner, kind, HEALTHY, cost)
    assert (found["state"][1] == 0).all()
    assert any(gradient.abs().sum() > 0 for gradient in expected.values())
    for name, gradient in found.items():
        assert torch.isfinite(gradient).all(), f"{kind}: {name}"
        expect = expected[name]
        torch.testing.assert_close(
            gradient, expect, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )
    return plan


def small(case: PlannerCase, gradient: dp.GradientStrategy) -> dp.Planner:
    changes = {"num_samples": 32} if "CEM" in case.name or "MPPI" in case.name else {}
    return case.build(horizon=3, iterations=3, gradient=gradient, **changes).double()


def each_kind(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds)


@each_planner_that(lambda case: dp.Unroll in case.gradients)
@each_kind("nan", "overflow", "square root", "objective")
def test_unrolled_gradients_of_the_others(case: PlannerCase, kind: str) -> None:
    plan = check(small(case, dp.Unroll()), kind)
    assert plan.status[1] == dp.Status.NON_FINITE


class Unseen(TorchDispatchMode):
    """Does nothing, but under it no number may be looked at, as on a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


@each_planner_that(
    lambda case: dp.Unroll in case.gradients and "LatCo" not in case.name
)
@each_kind("nan", "infinite")
def test_unrolled_gradients_where_nobody_may_look(case: PlannerCase, kind: str) -> None:
    with Unseen():
        plan = check(small(case, dp.Unroll()), kind)
    assert plan.status[1] == dp.Status.NON_FINITE


@each_planner_that(lambda case: dp.Truncated in case.gradients)
@each_kind("sticky nan")
def test_truncated_gradients_of_the_others(case: PlannerCase, kind: str) -> None:
    check(small(case, dp.Truncated(2)), kind)


@each_planner
@each_kind("infinite", "square root")
def test_gradients_of_the_others_costs(case: PlannerCase, kind: str) -> None:
    check(small(case, dp.Detach()), kind, cost=True)


@each_planner_that(lambda case: dp.Implicit in case.gradients)
@each_kind("nan", "objective", DERIVATIVE)
@pytest.mark.filterwarnings("ignore::diffplan.errors.NumericsWarning")
def test_implicit_gradients_of_the_others(case: PlannerCase, kind: str) -> None:
    plan = check(small(case, dp.Implicit(on_failure="zero")), kind)
    assert not plan.succeeded[1]


@each_planner_that(lambda case: case.build().needs_derivatives)
def test_a_derivative_that_alone_is_nan(case: PlannerCase) -> None:
    if dp.Unroll in case.gradients:
        check(small(case, dp.Unroll()), DERIVATIVE)


@each_planner_that(lambda case: dp.Implicit in case.gradients)
def test_a_loss_that_reaches_a_failed_element_says_so(case: PlannerCase) -> None:
    problem = dp.PlanningProblem(Model("nan"), Goal("nan"), dp.Box([-1.0], [1.0]))
    state = torch.tensor([HEALTHY, FAILING], dtype=torch.float64, requires_grad=True)
    plan = small(case, dp.Implicit())(problem, state)
    plan.actions[0].sum().backward(retain_graph=True)  # no word, nobody asks
    with pytest.raises(GradientError, match=r"\[1\]"):
        plan.actions.sum().backward()
