"""What has no gradient is not called optimal, and what has one is not cut silently."""

import warnings
from collections.abc import Callable, Mapping

import pytest
import torch
from planner_cases import PlannerCase, each_planner, each_planner_that
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import (
    ConstantPlanWarning,
    UnsupportedGradientError,
    UnsupportedProblemError,
)
from diffplan.testing import point_mass_problem

each_descent = each_planner_that(lambda case: case.build().needs_derivatives)

PROBLEM, STATE = point_mass_problem(torch.float64)


class Through(dp.objectives.ResidualObjective):
    """The residuals of an objective, passed through a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return self.function(PROBLEM.objective.running_residual(state, action))

    def terminal_residual(self, state: Tensor) -> Tensor:
        return self.function(PROBLEM.objective.terminal_residual(state))


@torch.no_grad()
def without_grad(value: Tensor) -> Tensor:
    return value.clone()


# Ways to cut a graph; each gives the right numbers.
CUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no_grad": without_grad,
    "detach": lambda value: value.detach(),
    "numpy": lambda value: torch.from_numpy(value.numpy().copy()),
    "detached numpy": lambda value: torch.from_numpy(value.detach().numpy().copy()),
    "constant": lambda value: torch.ones_like(value),
    # what has a graph to a parameter has none to the actions
    "parameter": lambda value: value.detach() * nn.Parameter(torch.ones(()).double()),
}


@each_descent
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("grad", [True, False])
def test_dynamics_that_are_cut_are_refused(
    case: PlannerCase, cut: str, grad: bool
) -> None:
    problem = dp.PlanningProblem(
        lambda state, action: CUTS[cut](PROBLEM.dynamics(state, action)),
        PROBLEM.objective,
        PROBLEM.action_space,
    )
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(UnsupportedProblemError, match="dynamics: "),
    ):
        case.build(horizon=2, iterations=1)(problem, STATE)


@each_descent
@pytest.mark.parametrize("cut", ["detach", "no_grad"])
def test_actions_that_are_cut_off_inside_of_the_dynamics_are_refused(
    case: PlannerCase, cut: str
) -> None:
    # Dynamics have a graph, to the state, and so has the objective: both lead nowhere.
    problem = dp.PlanningProblem(
        lambda state, action: PROBLEM.dynamics(state, CUTS[cut](action)),
        dp.objectives.GoalDistance(torch.ones_like(STATE[0])),
        PROBLEM.action_space,
    )
    with pytest.raises(UnsupportedProblemError, match=r"leads? to (the|its) action"):
        case.build(horizon=2, iterations=1)(problem, STATE)


@each_descent
def test_a_cost_of_actions_does_not_hide_dynamics_that_are_cut(
    case: PlannerCase,
) -> None:
    goal = dp.objectives.GoalDistance(torch.ones_like(STATE[0]))
    problem = dp.PlanningProblem(
        lambda state, action: without_grad(PROBLEM.dynamics(state, action)),
        dp.objectives.SumOfResiduals([goal, dp.objectives.ActionPenalty(0.1)]),
        PROBLEM.action_space,
    )
    with pytest.raises(UnsupportedProblemError, match="dynamics: "):
        case.build(horizon=2, iterations=1)(problem, STATE)


@each_descent
@pytest.mark.parametrize("cut", CUTS)
def test_an_objective_that_is_cut_is_refused(case: PlannerCase, cut: str) -> None:
    problem = dp.PlanningProblem(
        PROBLEM.dynamics, Through(CUTS[cut]), PROBLEM.action_space
    )
    with pytest.raises(UnsupportedProblemError, match="objective: "):
        case.build(horizon=2, iterations=1)(problem, STATE)


@each_planner_that(lambda case: not case.build().needs_derivatives)
def test_planners_that_ask_for_costs_only_take_what_is_cut(case: PlannerCase) -> None:
    problem = dp.PlanningProblem(
        lambda state, action: without_grad(PROBLEM.dynamics(state, action)),
        Through(CUTS["detached numpy"]),
        PROBLEM.action_space,
    )
    plan = case.build(horizon=2, iterations=2)(problem, STATE)
    assert torch.isfinite(plan.cost).all()


@each_descent
def test_a_graph_that_leads_past_actions_or_states_is_one(case: PlannerCase) -> None:
    # Legal: dynamics that only drift, and a cost of actions or of the last state alone.
    drift = dp.PlanningProblem(
        lambda state, action: 0.9 * state, PROBLEM.objective, PROBLEM.action_space
    )
    assert torch.isfinite(case.build(horizon=2, iterations=2)(drift, STATE).cost).all()


def test_the_question_is_asked_once_per_problem() -> None:
    calls = []

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return PROBLEM.dynamics(state, action)

    problem = dp.PlanningProblem(dynamics, PROBLEM.objective, PROBLEM.action_space)
    planner = dp.ILQR(2, iterations=0)
    counts = []
    for _ in range(3):
        calls.clear()
        with torch.no_grad():
            planner(problem, STATE)
        counts.append(len(calls))
    assert counts[0] > counts[1] == counts[2]


def test_particles_without_a_graph_are_refused() -> None:
    class Blind:
        @torch.no_grad()
        def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(state + action, 0.1)

    problem = dp.StochasticProblem(
        Blind(), dp.objectives.GoalDistance(torch.ones(1)), dp.Box([-1.0], [1.0])
    )
    with pytest.raises(UnsupportedProblemError, match="GradMPC"):
        dp.GradMPC(2, iterations=1, num_starts=2)(problem, torch.zeros(3, 1))


def test_dynamics_that_know_their_jacobian_need_no_graph_to_act() -> None:
    class Known(nn.Module):
        @torch.no_grad()
        def forward(self, state: Tensor, action: Tensor) -> Tensor:
            return state + 0.3 * action

        def linearize(
            self, state: Tensor, action: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            eye = torch.eye(1).expand(*state.shape, 1)
            return self(state, action), eye, 0.3 * eye

    goal = dp.objectives.GoalDistance(torch.ones(1))
    problem = dp.PlanningProblem(Known(), goal, dp.Box([-1.0], [1.0]))
    with torch.no_grad():
        assert dp.ILQR(3)(problem, torch.zeros(2, 1)).succeeded.all()
    assert dp.ILQR(3, gradient=dp.Detach())(problem, torch.zeros(2, 1)).succeeded.all()
    with pytest.raises(UnsupportedProblemError, match="dynamics"):
        dp.ILQR(3)(problem, torch.zeros(2, 1))  # to be unrolled


@each_planner_that(lambda case: dp.Implicit in case.gradients)
def test_implicit_gradients_say_that_inference_mode_forbids_them(
    case: PlannerCase,
) -> None:
    planner = case.build(horizon=2, iterations=2, gradient=dp.Implicit())
    with (
        torch.inference_mode(),
        pytest.raises(UnsupportedGradientError, match="inference_mode"),
    ):
        planner(PROBLEM, STATE)
    with torch.no_grad():
        assert torch.isfinite(planner(PROBLEM, STATE).cost).all()


@each_planner
def test_plans_can_be_made_in_inference_mode(case: PlannerCase) -> None:
    planner = case.build(horizon=2, iterations=2, gradient=dp.Detach())
    expected = planner(PROBLEM, STATE)
    with torch.inference_mode():
        got = planner(PROBLEM, STATE.clone())
        torch.testing.assert_close(got.actions, expected.actions)


@pytest.mark.parametrize("kind", [dp.GradMPC, dp.ShootingGD])
def test_checkpointed_descent_descends_in_inference_mode(
    kind: type[dp.GradMPC | dp.ShootingGD],
) -> None:
    plain, saving = (kind(4, iterations=5, checkpoint=c) for c in (False, True))
    expected = plain(PROBLEM, STATE)
    with torch.inference_mode():
        got = saving(PROBLEM, STATE.clone())
        torch.testing.assert_close(got.actions, expected.actions)


# One default for all planners.


@each_planner
def test_the_default_gradient_is_to_unroll_where_that_is_declared(
    case: PlannerCase,
) -> None:
    expected = dp.Unroll if dp.Unroll in case.gradients else dp.Detach
    assert isinstance(case.build().gradient, expected)


def test_a_policy_with_a_regulariser_trains_through_shooting() -> None:
    encoder = nn.Linear(2, 2).double()
    planner = dp.ShootingGD(3, iterations=5)
    loss = planner(PROBLEM, encoder(STATE)).action.square().mean()
    loss = loss + 1e-3 * sum(p.square().sum() for p in encoder.parameters())
    without = 2e-3 * encoder.weight.detach()
    loss.backward()
    assert (encoder.weight.grad - without).abs().max() > 1e-6


@each_planner
def test_a_plan_that_nobody_asked_to_cut_says_so_once(case: PlannerCase) -> None:
    state = STATE.clone().requires_grad_()
    if dp.Unroll in case.gradients:
        assert case.build(horizon=2, iterations=1)(PROBLEM, state).actions.requires_grad
        return
    planner = case.build(horizon=2, iterations=1)
    assert isinstance(planner.gradient, dp.Detach)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        planner(PROBLEM, STATE)
        with torch.no_grad():
            planner(PROBLEM, state)
        assert not told  # nobody would have got a gradient
        for _ in range(2):
            assert not planner(PROBLEM, state).actions.requires_grad
        assert [item.category for item in told] == [ConstantPlanWarning]
        assert "gradient=Detach()" in str(told[0].message)
        meant = case.build(horizon=2, iterations=1, gradient=dp.Detach())
        meant(PROBLEM, state)
        assert len(told) == 1
