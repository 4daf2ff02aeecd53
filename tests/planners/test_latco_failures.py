"""A failed element harms nobody: collocation, its engines, strategies and settings.

The oracle is the batch without the failed element.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import GradientError, NumericsWarning
from diffplan.objectives import ResidualObjective
from diffplan.planners import LogarithmicRule
from diffplan.planners.request import PlanRequest

FAR = torch.tensor([9.0, 1.0], dtype=torch.float64)
NEAR = torch.tensor([[0.3, 0.1], [-0.5, 0.2], [0.8, 0.0]], dtype=torch.float64)
BATCH = torch.cat([FAR[None], NEAR])  # the failed one first: no stand-in by itself


def place(state: Tensor) -> Tensor:
    return state[..., :1]


# What goes wrong beyond a place of 5, where only the first element is.
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cliff": lambda x, y: torch.where(place(x) > 5, torch.nan, y),
    "infinite": lambda x, y: torch.where(place(x) > 5, torch.inf, y),
    "overflow": lambda x, y: y + 1e-3 * (200 * (place(x) - 5)).exp(),
    "root": lambda x, y: y + 0.01 * (25 - place(x).square()).sqrt(),
    "logarithm": lambda x, y: y + 0.01 * (5 - place(x)).log(),
    "derivative": lambda x, y: (
        y + torch.where(place(x) == 9, (place(x) - 9).abs().sqrt(), 0 * place(x))
    ),
    "objective": lambda x, y: y,
}
STRATEGIES = [
    dp.Unroll(),
    dp.Truncated(2),
    dp.Implicit(),
    dp.Implicit(on_failure="zero"),
    dp.Implicit(on_failure="nan"),
]


class Cost(ResidualObjective):
    """Distance to the origin, with a parameter; beyond 5 it may be NaN."""

    def __init__(self, weight: Tensor, fails: bool) -> None:
        super().__init__()
        self.weight = weight
        self.fails = fails

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        distance = self.weight * state
        if self.fails:
            distance = distance + 0.01 * (25 - place(state).square()).sqrt()
        return torch.cat([distance, 0.3 * action], dim=-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        return self.weight * state


@dataclass
class Inputs:
    """All that a plan can be differentiated by."""

    state: Tensor
    kind: str
    wall: float | None = None
    push: Tensor = field(default_factory=lambda: leaf(1.0))
    weight: Tensor = field(default_factory=lambda: leaf(1.0))
    half_width: Tensor = field(default_factory=lambda: leaf(1.0))

    @property
    def problem(self) -> dp.PlanningProblem:
        def step(state: Tensor, action: Tensor) -> Tensor:
            where, speed = state.split(1, dim=-1)
            following = torch.cat(
                [where + 0.3 * speed, speed + 0.3 * self.push * action], dim=-1
            )
            return KINDS[self.kind](state, following)

        def beyond(state: Tensor, action: Tensor | None = None) -> Tensor:
            return self.weight * place(state) - self.wall

        half = self.half_width[None]
        walls = [] if self.wall is None else [dp.constraints.StateConstraint(beyond)]
        cost = Cost(self.weight, self.kind == "objective")
        return dp.PlanningProblem(step, cost, dp.Box(-half, 1.1 * half), walls)

    def slopes(self, planner: dp.Planner, plan: dp.Plan, rows: slice) -> list[Tensor]:
        """The gradients of the planned actions of some rows."""
        wanted = [self.push, self.weight, self.half_width, *planner.parameters()]
        loss = plan.actions[rows].sin().sum()
        return list(torch.autograd.grad(loss, [*wanted, self.state]))


def leaf(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def check_that_nobody_is_harmed(
    planner: dp.Planner, kind: str, wall: float | None = None
) -> None:
    found = []
    for rows in (slice(0, None), slice(1, None)):  # with the failed one, and without
        inputs = Inputs(BATCH[rows].clone().requires_grad_(), kind, wall)
        noise = planner.draw_noise(inputs.problem, BATCH)
        given = inputs.problem, inputs.state, noise[rows], None, wall is not None
        plan = planner.plan_for(PlanRequest(*given))
        good = slice(1, None) if rows.start == 0 else slice(0, None)
        found.append((plan, inputs.slopes(planner, plan, good)))
    (both, slopes), (alone, expected) = found
    assert both.status[0] in (
        dp.Status.NON_FINITE,
        dp.Status.FACTORIZATION_FAILED,
        dp.Status.NOT_STATIONARY,
    )
    assert torch.equal(both.status[1:], alone.status)
    torch.testing.assert_close(both.actions[1:], alone.actions)
    *shared, by_state = slopes
    torch.testing.assert_close(shared, expected[:-1])
    torch.testing.assert_close(by_state[1:], expected[-1])
    assert torch.equal(by_state[0], torch.zeros_like(by_state[0]))


def latco(gradient: dp.GradientStrategy, **settings: object) -> dp.LatCo:
    if isinstance(gradient, dp.Unroll | dp.Truncated):
        damping = nn.Parameter(torch.tensor(1e-3, dtype=torch.float64))
        settings = {"damping": damping, **settings}
    return dp.LatCo(4, iterations=5, gradient=gradient, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", STRATEGIES, ids=repr)
def test_the_others_have_the_gradient_of_a_batch_without_it(
    kind: str, gradient: dp.GradientStrategy
) -> None:
    check_that_nobody_is_harmed(latco(gradient), kind)


@pytest.mark.parametrize("gradient", STRATEGIES[:3], ids=repr)
@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "theseus"},
        {"num_starts": 3},
        {"init": "rollout"},
        {"multiplier_rule": LogarithmicRule.paper()},
        {"initial_multipliers": (1e8, 1.0)},
        {"normalize": False},
    ],
    ids=str,
)
def test_every_setting_keeps_that(
    gradient: dp.GradientStrategy, settings: dict[str, object]
) -> None:
    if settings.get("engine") == "theseus":
        pytest.importorskip("theseus")
    check_that_nobody_is_harmed(latco(gradient, **settings), "root")


@pytest.mark.parametrize("kind", ["cliff", "root", "objective"])
def test_the_constraints_of_the_others_keep_their_gradient(kind: str) -> None:
    inner = latco(dp.Unroll())
    planner = dp.AugmentedLagrangian(inner, outer_iterations=3)
    check_that_nobody_is_harmed(planner, kind, wall=0.25)


def test_planned_states_where_the_model_fails_are_a_failure_of_that_element() -> None:
    # The given states are harmless; random ones lie beyond ±1.5, where a root is NaN.
    def step(state: Tensor, action: Tensor) -> Tensor:
        return push * (state + action) + 0.1 * (2.25 - state.square()).sqrt()

    push, state = leaf(0.9), torch.zeros(64, 1, dtype=torch.float64)
    problem = dp.PlanningProblem(
        step, dp.objectives.GoalDistance(torch.zeros(1)), dp.Box([-1.0], [1.0])
    )
    planner = dp.LatCo(4, iterations=5)
    noise = planner.draw_noise(problem, state)
    plan = planner.plan_for(PlanRequest(problem, state, noise))
    failed = plan.status == dp.Status.NON_FINITE
    assert failed.any()
    assert not failed.all()
    (slope,) = torch.autograd.grad(plan.actions[~failed].sum(), push)
    alone = planner.plan_for(PlanRequest(problem, state[~failed], noise[~failed]))
    (expected,) = torch.autograd.grad(alone.actions.sum(), push)
    torch.testing.assert_close(slope, expected)


def failed_plan(on_failure: str, rows: int) -> tuple[Inputs, dp.Plan]:
    inputs = Inputs(BATCH[:rows].clone().requires_grad_(), "cliff")
    planner = latco(dp.Implicit(on_failure=on_failure))
    return inputs, planner(inputs.problem, inputs.state, evaluate=False)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_failed_element_raises_where_its_gradient_is_asked_for(rows: int) -> None:
    _, plan = failed_plan("raise", rows)
    with pytest.raises(GradientError, match=r"elements \[0\]"):
        plan.actions.sum().backward()


@pytest.mark.parametrize("rows", [1, 4])
def test_a_failed_element_has_the_gradient_zero_where_that_is_asked_for(
    rows: int,
) -> None:
    inputs, plan = failed_plan("zero", rows)
    with pytest.warns(NumericsWarning, match=r"elements \[0\]"):
        plan.actions.sum().backward()
    for value in (inputs.push, inputs.weight, inputs.state):
        assert value.grad is None or torch.isfinite(value.grad).all()
    if inputs.state.grad is not None:
        assert (inputs.state.grad[0] == 0).all()


def test_a_failed_element_has_the_gradient_nan_where_that_is_asked_for() -> None:
    inputs, plan = failed_plan("nan", 4)
    plan.actions.sum().backward()
    assert inputs.push.grad.isnan()
    assert inputs.state.grad[0].isnan().all()
    assert torch.isfinite(inputs.state.grad[1:]).all()


def test_a_warm_start_that_failed_is_no_failure_of_the_next_plan() -> None:
    inputs = Inputs(BATCH, "cliff")
    planner = dp.LatCo(4, iterations=60, initial_multipliers=(1e3, 1.0))
    failed = planner(inputs.problem, BATCH).detach()
    states = {"states": torch.full_like(failed.memory["states"], torch.nan)}
    broken = dp.Plan(failed.actions, failed.states, failed.cost, memory=states)
    plan = planner(inputs.problem, NEAR[[0, 0, 1, 2]], warm_start=broken)
    assert (plan.status != dp.Status.NON_FINITE).all()
