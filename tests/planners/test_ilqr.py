"""ILQR against cvxpy, scipy and autodiff; regularisation, line search, early exit."""

import math

import pytest
import torch
from lqr_problems import cvxpy_lqr, planning_lqr
from problems import (
    LinearDynamics,
    QuadraticCost,
    cost_of,
    pendulum,
    same_to_rounding,
    states_of,
)
from scipy.optimize import minimize
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, UnsupportedProblemError
from diffplan.objectives import GoalDistance, NegativeReturn, StageObjective
from diffplan.planners import ILQR, ShootingGN
from diffplan.solvers import AdaptiveDamping

SIZES = [(6, 2, 1), (10, 4, 2), (15, 6, 3)]


def test_an_objective_whose_terms_do_not_add_up_is_refused() -> None:
    class Doubled(GoalDistance):
        def forward(self, states: Tensor, actions: Tensor) -> Tensor:
            return 2 * super().forward(states, actions)

    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        Doubled(torch.zeros(1)),
        dp.Box([-1.0], [1.0]),
    )
    for planner in (dp.ILQR(3), dp.ShootingGN(3), dp.LatCo(3)):
        with pytest.raises(UnsupportedProblemError, match="`forward` is its own"):
            planner(problem, torch.zeros(2, 1))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("gauss_newton", [None, False], ids=["residuals", "exact"])
def test_bounded_problems_agree_with_cvxpy(
    sizes: tuple[int, int, int], gauss_newton: bool | None
) -> None:
    pytest.importorskip("cvxpy")
    problem, starts, oracles = planning_lqr(*sizes, limit=0.5, seed=3)
    planner = ILQR(sizes[0], iterations=20, gauss_newton=gauss_newton, tolerance=1e-9)
    plan = planner(problem, starts)
    assert (plan.status == dp.Status.CONVERGED).all()
    held = plan.actions.abs() > 0.5 - 1e-9
    assert held.any()
    assert not held.all()
    for index, oracle in enumerate(oracles):
        states, actions = cvxpy_lqr(oracle, limit=0.5)
        torch.testing.assert_close(plan.actions[index], actions, rtol=0, atol=1e-6)
        torch.testing.assert_close(plan.states[index], states, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_without_bounds_one_iteration_is_exact(sizes: tuple[int, int, int]) -> None:
    problem, starts, oracles = planning_lqr(*sizes, limit=float("inf"), seed=2)
    tiny = AdaptiveDamping(initial=1e-12)
    planner = ILQR(sizes[0], iterations=1, damping=tiny, tolerance=1e-8, feedback=True)
    plan = planner(problem, starts)
    assert (plan.status == dp.Status.CONVERGED).all()
    for index, oracle in enumerate(oracles):
        expected = dp.functional.lqr(oracle)
        torch.testing.assert_close(plan.actions[index], expected.actions)
        torch.testing.assert_close(plan.diagnostics["gains"][index], expected.gains)


@pytest.mark.parametrize("gauss_newton", [True, False])
def test_a_nonlinear_plan_is_a_bounded_minimum(gauss_newton: bool) -> None:
    problem = pendulum()
    starts = torch.tensor([[0.5, 0.0], [-0.3, 1.0], [1.2, 0.3]], dtype=torch.float64)
    planner = ILQR(12, iterations=40, gauss_newton=gauss_newton, tolerance=1e-7)
    plan = planner(problem, starts)
    assert (plan.status == dp.Status.CONVERGED).all()
    gradient = slope(problem, starts, plan.actions)
    moved = (plan.actions - gradient).clamp(-1, 1)
    assert (moved - plan.actions).abs().max() < 1e-7
    assert (plan.actions.abs() == 1).any()
    for index, start in enumerate(starts):
        polished = by_scipy(problem, start, plan.actions[index])
        assert plan.cost[index] <= polished + 1e-9


def slope(problem: dp.PlanningProblem, starts: Tensor, actions: Tensor) -> Tensor:
    """Gradient of the cost by the actions, by autograd through the rollout."""
    leaf = actions.detach().clone().requires_grad_()
    return torch.autograd.grad(cost_of(problem, starts, leaf).sum(), leaf)[0]


def by_scipy(problem: dp.PlanningProblem, start: Tensor, guess: Tensor) -> float:
    """Least cost that L-BFGS-B finds from a guess."""

    def both(flat: object) -> tuple[float, object]:
        actions = torch.as_tensor(flat).view_as(guess)
        cost = cost_of(problem, start, actions)
        gradient = slope(problem, start, actions)
        return float(cost.detach()), gradient.flatten().numpy()

    found = minimize(
        both,
        guess.detach().flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1, 1)] * guess.numel(),
    )
    return float(found.fun)


class Valley(StageObjective):
    """A double well in the position, far from convex where planning starts."""

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return self.terminal_cost(state) + 0.05 * action.square().sum(-1)

    def terminal_cost(self, state: Tensor) -> Tensor:
        return (state[..., 0].square() - 1).square()


def integrator() -> dp.PlanningProblem:
    return dp.PlanningProblem(
        lambda state, action: state + 0.5 * action, Valley(), dp.Box([-1.0], [1.0])
    )


def test_indefinite_costs_are_met_with_more_damping() -> None:
    start = torch.tensor([[0.02], [-0.1]], dtype=torch.float64)
    plan = ILQR(6, iterations=60, tolerance=1e-6)(integrator(), start)
    damping, taken = plan.diagnostics["damping"], plan.diagnostics["step_size"]
    assert (taken[:, 0] == 0).all()  # Q_uu is indefinite: nothing is tried
    torch.testing.assert_close(damping[:, 1], 100 * damping[:, 0])
    assert (plan.status == dp.Status.CONVERGED).all()
    assert (plan.states[:, -1, 0].abs() - 1).abs().max() < 0.2
    downhill = plan.actions - slope(integrator(), start, plan.actions)
    assert (plan.actions - downhill.clamp(-1, 1)).abs().max() < 1e-6


def test_a_hessian_that_stays_indefinite_is_reported() -> None:
    start = torch.tensor([[0.02], [2.0]], dtype=torch.float64)
    plan = ILQR(6, iterations=2, feedback=True)(integrator(), start)
    assert plan.status[0] == dp.Status.FACTORIZATION_FAILED
    assert plan.status[1] != dp.Status.FACTORIZATION_FAILED
    assert (plan.actions[0] == 0).all()
    assert (plan.diagnostics["gains"][0] == 0).all()


def test_more_damping_shortens_the_step() -> None:
    problem, starts, _ = planning_lqr(6, 3, 2, limit=float("inf"), seed=3)
    moves = [
        ILQR(6, iterations=1, damping=AdaptiveDamping(initial=amount))(
            problem, starts
        ).actions
        for amount in (1e-6, 1.0, 1e3)
    ]
    lengths = [float(move.norm()) for move in moves]
    assert lengths[0] > lengths[1] > 10 * lengths[2] > 0


@pytest.mark.parametrize(("goal", "taken"), [(2.0, 1.0), (3.0, 0.75)])
def test_the_line_search_takes_the_longest_step_that_pays(
    goal: float, taken: float
) -> None:
    # One action u, cost ½ (sin u - goal)²: the whole step is u = goal, and the model
    # expects it to take off everything. It takes off less than a shorter step would,
    # but a tenth of what is expected is enough.
    problem = dp.PlanningProblem(
        lambda state, action: state + action.sin(),
        GoalDistance(torch.tensor([goal], dtype=torch.float64), running_weight=0.0),
        dp.Box([-10.0], [10.0]),
    )
    start = torch.zeros(1, 1, dtype=torch.float64)
    sizes = (1.0, 0.75, 0.5)
    tiny = AdaptiveDamping(initial=1e-12)
    plan = ILQR(1, iterations=1, damping=tiny, step_sizes=sizes)(problem, start)
    drops = [0.5 * (goal**2 - (math.sin(goal * size) - goal) ** 2) for size in sizes]
    pays = [
        drop >= 0.1 * size * 0.5 * goal**2
        for drop, size in zip(drops, sizes, strict=True)
    ]
    assert sizes[pays.index(True)] == taken
    assert max(drops) > drops[0]  # not the one that takes off most
    assert plan.diagnostics["step_size"].item() == taken
    torch.testing.assert_close(plan.actions.item(), goal * taken)


@pytest.mark.parametrize(
    "planner", [ILQR(8, iterations=12), ShootingGN(8, iterations=12)]
)
def test_looking_at_numbers_changes_nothing(planner: dp.Planner) -> None:
    problem = pendulum()
    starts = torch.tensor([[0.5, 0.0], [-0.3, 1.0], [2.8, 0.3]], dtype=torch.float64)
    planner.configure_gradient(dp.Detach())
    looked = planner(problem, starts)
    planner.may_look = lambda value: False  # type: ignore[method-assign]
    blind = planner(problem, starts)
    torch.testing.assert_close(looked.actions, blind.actions, rtol=0, atol=1e-9)
    assert torch.equal(looked.iterations, blind.iterations)
    assert torch.equal(looked.status, blind.status)


def test_feedback_gains_correct_a_disturbed_start() -> None:
    problem = pendulum()
    start = torch.tensor([0.3, 0.0], dtype=torch.float64)
    plan = ILQR(15, iterations=20, feedback=True)(problem, start)
    disturbed = start + torch.tensor([0.05, -0.1], dtype=torch.float64)
    state, actions = disturbed, []
    for t in range(15):
        gain = plan.diagnostics["gains"][t]
        action = plan.actions[t] + gain @ (state - plan.states[t])
        actions.append(action.clamp(-1, 1))
        state = problem.dynamics(state, actions[-1])
    closed = cost_of(problem, disturbed, torch.stack(actions))
    best = ILQR(15, iterations=20)(problem, disturbed).cost
    open_loop = cost_of(problem, disturbed, plan.actions)
    assert best < closed < best + 0.05 * (open_loop - best)


def test_early_exit_stops_where_all_have_converged() -> None:
    problem, starts = pendulum(), states_of(4)
    full = ILQR(8, iterations=40, tolerance=1e-6)(problem, starts)
    plan = ILQR(8, iterations=40, tolerance=1e-6, early_exit=True)(problem, starts)
    assert (plan.status == dp.Status.CONVERGED).all()
    trace = plan.diagnostics["gradient_norm"]
    assert trace.shape[1] < 10
    # an element counts what it used, and then stays
    assert plan.iterations.tolist() == (trace > 1e-6).sum(1).tolist()
    assert (plan.diagnostics["step_size"][trace <= 1e-6] == 0).all()
    torch.testing.assert_close(plan.actions, full.actions, rtol=0, atol=1e-5)


def test_early_exit_keeps_elements_independent() -> None:
    problem, starts = pendulum(), states_of(4)
    planner = ILQR(8, iterations=40, early_exit=True)
    together = planner(problem, starts)
    assert len(set(together.iterations.tolist())) > 1
    for index, start in enumerate(starts):
        alone = planner(problem, start[None])
        same_to_rounding(alone.actions[0], together.actions[index])


@pytest.mark.parametrize("kept", [1, 5, 60])
def test_early_exit_leaves_truncated_its_iterations(kept: int) -> None:
    problem = pendulum()
    found = []
    for early in (True, False):
        start = states_of(2).requires_grad_()
        planner = ILQR(
            6,
            iterations=40,
            tolerance=1e-9,
            early_exit=early,
            gradient=dp.Truncated(kept),
        )
        plan = planner(problem, start)
        loss = (plan.actions * torch.arange(6.0).cos()[:, None]).sum()
        found.append(torch.autograd.grad(loss, start)[0])
    assert found[0].abs().max() > 0.1
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


def test_a_warm_start_goes_on_with_its_damping() -> None:
    problem, starts = pendulum(), states_of(2)
    first = ILQR(6, iterations=2)(problem, starts).detach()
    assert first.memory["damping"].shape == (2, 1, 1)
    second = ILQR(6, iterations=2)(problem, starts, warm_start=first)
    both = ILQR(6, iterations=4)(problem, starts)
    torch.testing.assert_close(second.actions, both.actions)
    kept = second.diagnostics["damping"][:, 0]
    assert torch.equal(kept, first.memory["damping"][:, 0, 0])


def test_no_iterations_report_on_the_start() -> None:
    plan = ILQR(5, iterations=0)(pendulum(), states_of(2))
    assert plan.diagnostics["cost"].shape == (2, 0)
    assert plan.iterations.tolist() == [0, 0]
    assert plan.status.tolist() == [int(dp.Status.ITERATION_LIMIT)] * 2


def test_dynamics_that_know_their_jacobian_are_asked() -> None:
    class Known(LinearDynamics):
        calls = 0

        def linearize(
            self, state: Tensor, action: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            Known.calls += 1
            lead = action.shape[:-1]
            return (
                self(state, action),
                self.transition.expand(*lead, -1, -1),
                self.control.expand(*lead, -1, -1),
            )

    transition = torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64)
    control = torch.tensor([[0.05], [0.3]], dtype=torch.float64)
    cost = QuadraticCost(torch.tensor([0.5, 0.0], dtype=torch.float64))
    plans = [
        ILQR(5, iterations=5)(
            dp.PlanningProblem(kind(transition, control), cost, box), states_of(2)
        )
        for kind in (Known, LinearDynamics)
        for box in [dp.Box([-0.6], [0.6])]
    ]
    assert Known.calls == 6  # five steps, and the report on the last
    torch.testing.assert_close(plans[0].actions, plans[1].actions)


class Broken(LinearDynamics):
    """x' = A x + B u, whose Jacobian is NaN where the state is negative."""

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hole = (state[..., :1] < 0).unsqueeze(-1)
        by_state = torch.where(hole, torch.nan, self.transition)
        return self(state, action), by_state, torch.where(hole, torch.nan, self.control)


def test_a_jacobian_of_nan_spoils_nobody_else() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    dynamics = Broken(0.9 * one, 0.5 * one)
    goal = GoalDistance(torch.ones(1, dtype=torch.float64))
    problem = dp.PlanningProblem(dynamics, goal, dp.Box([-1.0], [1.0]))
    start = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    results = []
    for given in (start, start[1:]):
        plan = ILQR(3, iterations=4)(problem, given)
        parameters = list(dynamics.parameters())
        results.append((plan, torch.autograd.grad(plan.actions.sum(), parameters)))
    (plan, gradients), (alone, expected) = results
    assert plan.status.tolist()[0] == int(dp.Status.FACTORIZATION_FAILED)
    assert (plan.actions[0] == 0).all()
    assert torch.isinf(plan.diagnostics["gradient_norm"][0]).all()
    torch.testing.assert_close(plan.actions[1], alone.actions[0])
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("gauss_newton", [True, False])
def test_two_actions_with_active_bounds_have_right_gradients(
    gauss_newton: bool,
) -> None:
    problem, starts, _ = planning_lqr(4, 3, 2, limit=0.5, seed=4)
    planner = ILQR(4, iterations=2, gauss_newton=gauss_newton)

    def actions(start: Tensor, half_width: Tensor) -> Tensor:
        box = dp.Box(-half_width, half_width)
        given = dp.PlanningProblem(problem.dynamics, problem.objective, box)
        return planner(given, start).actions

    leaves = (
        starts[:2].clone().requires_grad_(),
        torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True),
    )
    plan = actions(*leaves)
    held = (plan.abs() == leaves[1]).detach()
    assert held.any()
    assert not held.all()
    assert torch.autograd.gradcheck(actions, leaves)
    assert torch.autograd.gradgradcheck(actions, leaves, fast_mode=True)


def test_what_is_needed_is_asked_for() -> None:
    state, box = torch.zeros(1), dp.Box([-1.0], [1.0])

    def step(state: Tensor, action: Tensor) -> Tensor:
        return state + action

    whole = dp.PlanningProblem(step, lambda x, u: x.square().sum((-1, -2)), box)
    with pytest.raises(UnsupportedProblemError, match="ILQR needs a StageObjective"):
        ILQR(3)(whole, state)
    staged = dp.PlanningProblem(step, NegativeReturn(lambda x: -(x[..., 0] ** 2)), box)
    assert ILQR(3)(staged, state).cost == 0
    with pytest.raises(UnsupportedProblemError, match="needs a ResidualObjective"):
        ILQR(3, gauss_newton=True)(staged, state)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"iterations": -1}, "iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"step_sizes": ()}, "step_sizes"),
        ({"step_sizes": (1.0, 0.0)}, "step_sizes"),
        ({"step_sizes": (2.0,)}, "step_sizes"),
        ({"feedback": True, "form": "condensed"}, "form: .*feedback=True"),
    ],
)
def test_wrong_arguments_are_named(changes: dict, name: str) -> None:
    with pytest.raises(ArgumentError, match=name):
        ILQR(3, **changes)
