"""State constraints: against cvxpy, SLSQP and the optimality conditions themselves."""

import math
from collections.abc import Callable
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from problems import (
    central_difference,
    double_integrator,
    pendulum,
    same_to_rounding,
    states_of,
)
from scipy.optimize import minimize
from torch import Tensor, nn

import diffplan as dp
from diffplan._problem_data import aligned
from diffplan.constraints import Ball, StateConstraint
from diffplan.errors import (
    ArgumentError,
    ShapeError,
    UnsupportedGradientError,
    UnsupportedProblemError,
)
from diffplan.objectives import (
    ActionPenalty,
    ConstraintMultipliers,
    ConstraintPenalty,
    GoalDistance,
    ResidualObjective,
    StageObjective,
    SumOfResiduals,
    WeightedSum,
    with_action_change,
)
from diffplan.objectives._penalty import add_penalty
from diffplan.planners import ILQR, FixedMultiplier, ShootingGN

DOUBLE = torch.float64
HORIZON = 6

# Dynamics as hard as float64 bears: their softness is the bias of the answer.
HARD = {
    "multiplier_rule": FixedMultiplier(),
    "initial_multipliers": (1e8, 1e8),
    "normalize": False,
    "damping": 1e-8,
}
FIXED = {"gradient": dp.Detach()}  # no graph where no gradient is asked for
INNER = {
    "ILQR": ILQR(HORIZON, iterations=3, tolerance=1e-7, **FIXED),
    "ILQR-exact": ILQR(
        HORIZON, iterations=3, tolerance=1e-7, gauss_newton=False, **FIXED
    ),
    "ShootingGN": ShootingGN(
        HORIZON, iterations=3, tolerance=1e-7, num_starts=2, **FIXED
    ),
    "LatCo": dp.LatCo(HORIZON, iterations=5, num_starts=2, **HARD, **FIXED),
}
LONGER = {
    "ILQR": ILQR(HORIZON, iterations=6, **FIXED),
    "LatCo": dp.LatCo(HORIZON, iterations=8, num_starts=2, **HARD, **FIXED),
}


def corridor(
    *more: StateConstraint, initial: bool = False, limit: float = 1.0
) -> dp.PlanningProblem:
    """The double integrator, with limits on place and speed and a slow end."""

    def slow(state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([state[..., :1] - 0.3, state[..., 1:] - 0.35], dim=-1)

    def end(state: Tensor) -> Tensor:
        return torch.cat([state[..., :1] - 0.3, state[..., 1:] - 0.05], dim=-1)

    free = double_integrator(limit=limit)
    constraint = StateConstraint(slow, terminal=end, initial=initial)
    return dp.PlanningProblem(
        free.dynamics, free.objective, free.action_space, [constraint, *more]
    )


STATES = torch.tensor([[-0.5, 0.2], [0.1, 0.3], [-0.2, -0.1]], dtype=DOUBLE)


def wrap(planner: dp.Planner, **changes: object) -> dp.AugmentedLagrangian:
    settings = {"outer_iterations": 12, "tolerance": 1e-7, **changes}
    return dp.AugmentedLagrangian(planner, **settings)


def values_of(problem: dp.PlanningProblem, plan: dp.Plan) -> tuple[Tensor, Tensor]:
    """All g along a plan, by plain calls: stages `[B, T, C]` and ends `[B, C']`."""
    stage = [c.stages(plan.states, plan.actions) for c in problem.state_constraints]
    end = [c.end(plan.states[..., -1, :]) for c in problem.state_constraints]
    return torch.cat(stage, -1), torch.cat(end, -1)


# Optima


@cache
def corridor_plan(name: str) -> tuple[dp.PlanningProblem, dp.Plan]:
    """A plan with wide bounds on actions, which two tests look at."""
    problem = corridor(limit=5.0)
    return problem, wrap(INNER[name])(problem, STATES)


@pytest.mark.parametrize("name", INNER)
def test_plan_and_multipliers_meet_the_optimality_conditions(name: str) -> None:
    problem, plan = corridor_plan(name)
    assert plan.succeeded.all()
    assert (plan.actions.abs() < 4.9).all()  # no action is at its bound
    stage, end = values_of(problem, plan)
    multipliers = plan.memory["constraint_multipliers"]
    terminal = plan.memory["terminal_multipliers"]
    assert multipliers.shape == (3, HORIZON, 2)
    assert terminal.shape == (3, 1, 2)
    assert (multipliers > 1e-3).any(dim=-1).any(dim=-1).all()  # none is free
    assert stage.max() <= 1e-7
    assert end.max() <= 1e-7
    assert (multipliers >= 0).all()
    assert (multipliers * stage)[:, 1:].abs().max() < 1e-5
    assert (terminal[:, 0] * end).abs().max() < 1e-5
    # Stationarity of the Lagrangian, by a rollout and autograd of our own.
    actions = plan.actions.detach().requires_grad_()
    states = [STATES]
    for step in range(HORIZON):
        states.append(problem.dynamics(states[-1], actions[:, step]))
    rolled = dp.Plan(actions, torch.stack(states, 1), plan.cost)
    stage, end = values_of(problem, rolled)
    lagrangian = (
        problem.objective(rolled.states, actions).sum()
        + (multipliers * stage)[:, 1:].sum()
        + (terminal[:, 0] * end).sum()
    )
    (slope,) = torch.autograd.grad(lagrangian, actions)
    # LatCo's soft dynamics leave a bias of one over their multiplier.
    assert slope.abs().max() < (1e-4 if name == "LatCo" else 1e-5)


@pytest.mark.filterwarnings("ignore")  # of the packages that solve cones
@pytest.mark.parametrize("name", INNER)
def test_solution_and_multipliers_equal_those_of_cvxpy(name: str) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    problem, plan = corridor_plan(name)
    a = problem.dynamics.transition.detach().numpy()
    b = problem.dynamics.control.detach().numpy()
    goal = problem.objective.goal.detach().numpy()
    for index in range(3):
        x, u = cvxpy.Variable((HORIZON + 1, 2)), cvxpy.Variable((HORIZON, 1))
        cost = 0.5 * cvxpy.sum_squares(x[:-1] - np.tile(goal, (HORIZON, 1)))
        cost += 0.05 * cvxpy.sum_squares(u) + 2.5 * cvxpy.sum_squares(x[-1] - goal)
        stage = [x[t] <= np.array([0.3, 0.35]) for t in range(1, HORIZON)]
        end = x[-1] <= np.array([0.3, 0.05])
        model = [x[0] == STATES[index].numpy(), cvxpy.abs(u) <= 5]
        model += [x[t + 1] == a @ x[t] + b @ u[t] for t in range(HORIZON)]
        exact = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
        program = cvxpy.Problem(cvxpy.Minimize(cost), [*stage, end, *model])
        program.solve(solver=cvxpy.CLARABEL, **exact)
        torch.testing.assert_close(
            plan.actions[index], torch.as_tensor(u.value), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            plan.cost[index], torch.tensor(program.value).double(), rtol=0, atol=1e-5
        )
        duals = torch.as_tensor(np.stack([c.dual_value for c in stage]))
        # LatCo's soft dynamics leave a bias of one over their multiplier.
        atol = 1e-4 if name == "LatCo" else 1e-5
        torch.testing.assert_close(
            plan.memory["constraint_multipliers"][index, 1:], duals, rtol=0, atol=atol
        )
        torch.testing.assert_close(
            plan.memory["terminal_multipliers"][index, 0],
            torch.as_tensor(end.dual_value),
            rtol=0,
            atol=atol,
        )


@pytest.mark.parametrize("name", LONGER)
def test_a_pendulum_within_a_speed_limit_as_by_slsqp(name: str) -> None:
    free = pendulum()

    def limits(state: Tensor, action: Tensor) -> Tensor:
        # Slow, and slower away from upright: not linear, and on actions too.
        angle, speed = state[..., 0], state[..., 1]
        return torch.stack(
            [-speed - 0.4 + angle.square(), -action[..., 0] - 0.8], dim=-1
        )

    problem = dp.PlanningProblem(
        free.dynamics, free.objective, free.action_space, [StateConstraint(limits)]
    )
    state = torch.tensor([[0.5, 0.0]], dtype=DOUBLE)
    plan = wrap(LONGER[name])(problem, state)
    assert plan.succeeded.all()

    def rolled(actions: np.ndarray) -> dp.Plan:
        given = torch.as_tensor(actions).reshape(1, HORIZON, 1)
        with torch.no_grad():
            return dp.Plan(given, *problem.evaluate(state, given))

    def cost(actions: np.ndarray) -> float:
        return rolled(actions).cost.item()

    def margin(actions: np.ndarray) -> np.ndarray:
        return -values_of(problem, rolled(actions))[0].numpy().ravel()

    found = minimize(
        cost,
        np.zeros(HORIZON),
        bounds=[(-1.0, 1.0)] * HORIZON,
        constraints={"type": "ineq", "fun": margin},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    assert found.success
    assert cost(found.x) > 1.001 * ILQR(HORIZON)(free, state).cost.item()
    assert plan.cost.item() == pytest.approx(found.fun, rel=1e-5)
    torch.testing.assert_close(
        plan.actions.flatten(), torch.as_tensor(found.x), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    "planner",
    [
        dp.CEM(HORIZON, num_samples=200, num_elites=20),
        dp.MPPI(HORIZON),
        dp.ShootingGD(HORIZON, iterations=40),
        dp.GradMPC(HORIZON, iterations=80, num_starts=1, step_size=0.02, **FIXED),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_other_planners_come_close(planner: dp.Planner) -> None:
    # The best actions are within the narrow bounds as well: one is just at them.
    problem, state = corridor(), STATES[:1]
    best = corridor_plan("ILQR")[1][:1]
    assert best.actions.abs().max() <= 1 + 1e-6
    free = problem.relaxed(problem.objective)
    assert planner(free, state).cost < 0.95 * best.cost  # it breaks the constraints
    plan = wrap(planner, growth=1.0, tolerance=2e-2, outer_iterations=5)(problem, state)
    assert plan.succeeded.all()
    torch.testing.assert_close(plan.cost, best.cost, rtol=0.05, atol=0)


def test_action_constraints_hold_beside_state_constraints() -> None:
    box = dp.Box([-1.0, -1.0], [1.0, 1.0])
    wall = StateConstraint(
        lambda state, action: state[..., :1] - 0.5,
        terminal=lambda state: state[..., :1] - 0.5,
    )
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        GoalDistance(torch.tensor([2.0, 2.0], dtype=DOUBLE)),
        box,
        [Ball(0.4), wall],
    )
    planner = dp.GradMPC(3, iterations=20, num_starts=1, step_size=0.05, **FIXED)
    plan = wrap(planner, growth=1.0, tolerance=2e-3, outer_iterations=6)(
        problem, torch.zeros(1, 2, dtype=DOUBLE)
    )
    assert plan.succeeded.all()
    assert (plan.actions.norm(dim=-1) <= 0.4 + 1e-9).all()
    assert plan.states[..., 0].max() <= 0.5 + 2e-3
    with pytest.raises(UnsupportedProblemError, match="ILQR keeps a box"):
        wrap(INNER["ILQR"])(problem, torch.zeros(1, 2, dtype=DOUBLE))


# The loop


def test_records_of_the_loop() -> None:
    plan = wrap(INNER["ILQR"], outer_iterations=5)(corridor(), STATES.reshape(3, 1, 2))
    assert (plan.iterations == 5).all()
    for name in ("cost", "constraint_violation", "constraint_penalty"):
        assert plan.diagnostics[name].shape == (3, 1, 5)
        assert not plan.diagnostics[name].requires_grad
    assert plan.diagnostics["planner_optimality"].shape == (3, 1)
    assert plan.memory["constraint_multipliers"].shape == (3, 1, HORIZON, 2)
    assert plan.memory["terminal_multipliers"].shape == (3, 1, 1, 2)
    assert plan.memory["constraint_penalty"].shape == (3, 1, 1, 1)
    assert "damping" in plan.memory  # of the wrapped planner
    last = plan.diagnostics["constraint_violation"][..., -1]
    stage, end = values_of(corridor(), plan)
    worst = torch.maximum(stage[..., 1:, :].amax((-1, -2)), end.amax(-1)).relu()
    torch.testing.assert_close(last, worst.detach())
    torch.testing.assert_close(plan.diagnostics["cost"][..., -1], plan.cost.detach())


def test_a_warm_start_goes_on_with_its_multipliers() -> None:
    problem = corridor(limit=5.0)
    plan = corridor_plan("ILQR")[1].detach()
    once = wrap(INNER["ILQR"], outer_iterations=1)
    cold, warm = once(problem, STATES), once(problem, STATES, warm_start=plan)
    assert (cold.status == int(dp.Status.CONSTRAINT_VIOLATED)).all()
    assert warm.succeeded.all()
    torch.testing.assert_close(warm.actions, plan.actions, rtol=0, atol=1e-6)
    # One step ahead in time the multipliers have moved with the plan.
    ahead = plan.shifted(1)
    kept = plan.memory["constraint_multipliers"]
    assert torch.equal(ahead.memory["constraint_multipliers"][:, :-1], kept[:, 1:])
    few = wrap(INNER["ILQR"], outer_iterations=4)
    following = plan.states[:, 1]
    late = few(problem, following, warm_start=ahead)
    early = few(problem, following)
    assert (
        late.diagnostics["constraint_violation"][:, 0]
        < early.diagnostics["constraint_violation"][:, 0]
    ).all()


# Warm starts that are better than what is found


FEW = {
    "ILQR": ILQR(HORIZON, iterations=3),
    "LatCo": dp.LatCo(HORIZON, iterations=4),
    "GradMPC": dp.GradMPC(HORIZON, iterations=8),
    "CEM": dp.CEM(HORIZON, iterations=3, num_samples=32, num_elites=6),
}


def warm_starts(scale: float, seed: int) -> dp.Plan:
    """The optimum of three states and plans about it, without multipliers."""
    best = corridor_plan("ILQR")[1].detach()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(best.actions.shape, generator=generator, dtype=DOUBLE)
    return dp.Plan(best.actions + scale * noise, best.states, best.cost)


@pytest.mark.parametrize("name", FEW)
def test_an_answer_is_no_worse_than_its_warm_start(name: str) -> None:
    problem, tolerance = corridor(limit=5.0), 1e-4
    kept = 0
    for seed, scale in enumerate((0.0, 0.0, 1e-3, 0.03, 0.1, 0.3)):
        start = warm_starts(scale, seed)
        # without multipliers the penalty alone gives way
        planner = wrap(FEW[name], outer_iterations=1 + seed % 2, tolerance=tolerance)
        with torch.no_grad():
            plan = planner(problem, STATES, warm_start=start)
        measured = []
        for actions in (start.actions, plan.actions):
            states = [STATES]
            for action in actions.unbind(1):
                states.append(problem.dynamics(states[-1], action))
            states = torch.stack(states, 1)
            cost = problem.objective(states, actions)
            stage, end = values_of(problem, dp.Plan(actions, states, cost))
            # the given state is forgiven
            values = torch.cat((stage[:, 1:].flatten(1), end), 1)
            excess = (values.amax(1) - tolerance).clamp_min(0)
            measured.append((excess, cost))
        (before, known), (after, found) = measured
        assert (after <= 1.01 * before + 1e-12).all()
        same = after >= before
        assert (found <= known + 0.01 * known.abs() + 1e-12)[same].all()
        within = plan.status == int(dp.Status.CONVERGED)
        assert torch.equal(within, after <= 1e-12)
        kept += int((plan.actions == start.actions).all(-1).all(-1).sum())
    assert kept > 0


def test_a_kept_warm_start_has_its_own_gradient_also_in_transforms() -> None:
    """The first element keeps it; the last one, whose warm start breaks, does not."""
    problem = corridor(limit=5.0)
    planner = wrap(ILQR(HORIZON, iterations=2), outer_iterations=1, tolerance=1e-4)
    start = warm_starts(0.0, 0)
    actions = start.actions.clone()
    actions[-1] = 3.0

    def planned(state: Tensor, given: Tensor) -> Tensor:
        warm = dp.Plan(given, torch.zeros(*given.shape[:-2], HORIZON + 1, 2), state[0])
        return planner(problem, state, warm_start=warm).actions

    leaf = actions.clone().requires_grad_()
    warm = dp.Plan(leaf, start.states, start.cost)
    plan = planner(problem, STATES, warm_start=warm)
    kept = (plan.actions == actions).all(-1).all(-1)
    assert kept[0]
    assert not kept[-1]
    (slope,) = torch.autograd.grad(plan.actions.square().sum(), leaf)
    torch.testing.assert_close(slope[0], 2 * actions[0])
    assert not torch.allclose(slope[-1], 2 * plan.actions[-1].detach())
    mapped = torch.func.vmap(planned)(STATES, actions)
    torch.testing.assert_close(mapped, plan.actions.detach())
    by_func = torch.func.vmap(
        torch.func.grad(lambda given, state: planned(state, given).square().sum())
    )(actions, STATES)
    torch.testing.assert_close(by_func, slope)


def test_a_warm_start_of_other_constraints_is_refused() -> None:
    plan = wrap(INNER["ILQR"], outer_iterations=1)(corridor(), STATES).detach()
    other = corridor(StateConstraint(lambda state, action: action - 0.5))
    with pytest.raises(ShapeError, match=r"constraint_multipliers.*\[3, 6, 3\]"):
        wrap(INNER["ILQR"])(other, STATES, warm_start=plan)


def test_plans_of_other_planners_are_warm_starts() -> None:
    problem = corridor()
    free = problem.relaxed(problem.objective)
    plan = dp.CEM(HORIZON, num_samples=20, num_elites=4)(free, STATES)
    planner = wrap(INNER["ILQR"], outer_iterations=6, tolerance=1e-3)
    assert planner(problem, STATES, warm_start=plan).succeeded.all()


def test_penalties_grow_per_element_and_impossible_ones_are_reported() -> None:
    # The first element starts beyond the wall and cannot return within one step.
    wall = StateConstraint(lambda state, action: state[..., :1] - 0.3)
    free = double_integrator(limit=1.0)
    problem = dp.PlanningProblem(
        free.dynamics, free.objective, free.action_space, [wall]
    )
    state = torch.tensor([[0.9, 0.5], [-0.5, 0.2]], dtype=DOUBLE)
    planner = wrap(INNER["ILQR"], outer_iterations=8, max_penalty=1e3)
    plan = planner(problem, state)
    expected = [int(dp.Status.CONSTRAINT_VIOLATED), int(dp.Status.CONVERGED)]
    assert plan.status.tolist() == expected
    assert "breaks a constraint" in plan.explain()
    penalty = plan.diagnostics["constraint_penalty"]
    assert penalty[0, -1] == 1e3
    assert penalty[1, -1] < 1e3
    assert torch.isfinite(plan.memory["constraint_multipliers"]).all()
    alone = planner(problem, state[1:])
    same_to_rounding(plan[1:].actions, alone.actions)


def test_the_given_state_is_forgiven_without_initial() -> None:
    problem = corridor(initial=True)
    state = torch.tensor([[0.32, -0.5]], dtype=DOUBLE)
    planner = wrap(INNER["ILQR"], outer_iterations=6, tolerance=1e-4)
    assert not planner(problem, state).succeeded.any()
    plan = planner(corridor(initial=False), state)
    assert plan.succeeded.all()
    assert (plan.memory["constraint_multipliers"][:, 0] == 0).all()


def test_a_constraint_that_fails_spoils_no_neighbour() -> None:
    def odd(state: Tensor, action: Tensor) -> Tensor:
        place = state[..., :1]
        return torch.where(place > 0.05, torch.nan, place - 0.2)

    free = double_integrator(limit=1.0)
    problem = dp.PlanningProblem(
        free.dynamics, free.objective, free.action_space, [StateConstraint(odd)]
    )
    state = torch.tensor([[0.1, 0.0], [-2.5, 0.0]], dtype=DOUBLE)
    planner = wrap(dp.CEM(3, num_samples=32, num_elites=4), outer_iterations=3)
    plan = planner(problem, state)
    assert torch.isfinite(plan.actions).all()
    assert torch.isfinite(plan.memory["constraint_multipliers"]).all()
    assert plan.status[0] == int(dp.Status.NON_FINITE)
    assert plan.status[1] == int(dp.Status.CONVERGED)


def test_without_state_constraints_it_is_the_planner() -> None:
    problem = double_integrator(limit=1.0)
    plan = wrap(INNER["ILQR"])(problem, STATES)
    expected = INNER["ILQR"](problem, STATES)
    assert torch.equal(plan.actions, expected.actions)
    assert torch.equal(plan.status, expected.status)
    assert set(plan.memory) == set(expected.memory)


def test_several_constraint_objects_stand_side_by_side() -> None:
    free = double_integrator(limit=1.0)
    parts = [
        StateConstraint(lambda state, action: state[..., :1] - 0.3, initial=False),
        StateConstraint(lambda state, action: state[..., 1:] - 0.35, initial=False),
        StateConstraint(
            lambda state, action: action[..., :0],  # nothing along the way
            terminal=lambda state: torch.cat(
                [state[..., :1] - 0.3, state[..., 1:] - 0.05], dim=-1
            ),
        ),
    ]
    split = dp.PlanningProblem(free.dynamics, free.objective, free.action_space, parts)
    planner = wrap(INNER["ILQR"], outer_iterations=3)
    plan, expected = planner(split, STATES), planner(corridor(), STATES)
    torch.testing.assert_close(plan.actions, expected.actions)
    for name in ("constraint_multipliers", "terminal_multipliers"):
        torch.testing.assert_close(plan.memory[name], expected.memory[name])


# Gradients


def gradient_problem(
    drag: Tensor, wall: Tensor, limit: float = 3.0
) -> dp.PlanningProblem:
    """A point that is pushed against a wall; everything carries a graph."""

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        place, speed = state.split(1, dim=-1)
        return torch.cat(
            [place + 0.3 * speed, (1 - drag) * speed + 0.5 * action], dim=-1
        )

    goal = torch.tensor([0.8, 0.0], dtype=DOUBLE)
    return dp.PlanningProblem(
        dynamics,
        SumOfResiduals([GoalDistance(goal), ActionPenalty(0.1)]),
        dp.Box([-limit], [limit]),
        [
            StateConstraint(
                lambda state, action: state[..., :1] - wall + 0.1 * action.square(),
                terminal=lambda state: state[..., :1] - wall,
            )
        ],
    )


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE, requires_grad=True)


UNROLLED = {
    "GradMPC": dp.GradMPC(3, iterations=4, num_starts=2, step_size=0.02),
    "MPPI": dp.MPPI(3, num_samples=6, iterations=3, temperature=1.0),
    "ILQR": ILQR(3, iterations=2, gradient=dp.Unroll()),
    "LatCo": dp.LatCo(3, iterations=3, damping=1e-2, initial_multipliers=(3.0, 3.0)),
}


@pytest.mark.parametrize("name", UNROLLED)
def test_unrolled_gradients_are_those_of_what_was_computed(name: str) -> None:
    # Few iterations, far from a solution, and through multipliers and warm starts.
    planner = dp.AugmentedLagrangian(UNROLLED[name], outer_iterations=2, penalty=2.0)
    state = 0.3 * states_of(2)

    def computed(drag: Tensor, wall: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        plan = planner(gradient_problem(drag, wall), start)
        return plan.actions, plan.memory["constraint_multipliers"]

    values = (number(0.1), number(0.15), state.requires_grad_())
    assert computed(*values)[0].requires_grad
    assert torch.autograd.gradcheck(computed, values, atol=1e-5, fast_mode=True)


def test_second_derivatives() -> None:
    inner = dp.GradMPC(2, iterations=2, num_starts=1, step_size=0.02)
    planner = dp.AugmentedLagrangian(inner, outer_iterations=2, penalty=2.0)
    state = 0.3 * states_of(1)

    def actions(wall: Tensor) -> Tensor:
        return planner(gradient_problem(number(0.1), wall), state).actions

    assert torch.autograd.gradgradcheck(actions, (number(0.1),), atol=1e-4)


@pytest.mark.parametrize("strategy", [dp.Unroll(), dp.Implicit()], ids=str)
def test_at_convergence_the_gradient_is_that_of_the_constrained_optimum(
    strategy: dp.GradientStrategy,
) -> None:
    inner = ILQR(4, iterations=4, gradient=strategy)
    planner = wrap(inner, outer_iterations=10)
    state = torch.tensor([[-0.1, 0.2]], dtype=DOUBLE)
    wall = number(0.2)

    def plan_at(wall: Tensor) -> dp.Plan:
        return planner(gradient_problem(torch.tensor(0.1).double(), wall), state)

    plan = plan_at(wall)
    assert plan.succeeded.all()
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=DOUBLE)
    (gradient,) = torch.autograd.grad((weights * plan.actions.flatten()).sum(), wall)

    def optimum(at: Tensor) -> Tensor:
        """The same by SLSQP."""
        problem = gradient_problem(torch.tensor(0.1).double(), at)

        def rolled(actions: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
            given = torch.as_tensor(actions).reshape(1, 4, 1)
            states, cost = problem.evaluate(state, given)
            return states, given, cost

        def margin(actions: np.ndarray) -> np.ndarray:
            states, given, _ = rolled(actions)
            (constraint,) = problem.state_constraints
            stage = constraint.stages(states, given).ravel()
            return -torch.cat([stage, constraint.end(states[:, -1]).ravel()]).numpy()

        found = minimize(
            lambda actions: rolled(actions)[2].item(),
            plan.actions.detach().flatten().numpy(),
            constraints={"type": "ineq", "fun": margin},
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 300},
        )
        return (weights * torch.as_tensor(found.x)).sum()

    # SLSQP is good to some 1e-7, which a step of 1e-3 turns into 1e-4.
    expected = central_difference(optimum, wall.detach(), step=1e-3)
    torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=2e-3)


def test_detached_plans_are_constants() -> None:
    planner = dp.AugmentedLagrangian(UNROLLED["GradMPC"], gradient=dp.Detach())
    wall = number(0.15)
    plan = planner(gradient_problem(number(0.1), wall), 0.3 * states_of(2))
    assert not plan.actions.requires_grad
    assert not plan.memory["constraint_multipliers"].requires_grad


def test_strategies_follow_the_wrapped_planner() -> None:
    cem, ilqr = dp.CEM(3), ILQR(3, gradient=dp.Implicit())
    assert dp.AugmentedLagrangian(cem).gradient == dp.Detach()
    assert dp.AugmentedLagrangian(ilqr).gradient == dp.Unroll()
    with pytest.raises(UnsupportedGradientError, match="AugmentedLagrangian supports"):
        dp.AugmentedLagrangian(cem, gradient=dp.Unroll())
    with pytest.raises(UnsupportedGradientError, match="Implicit"):
        dp.AugmentedLagrangian(ilqr, gradient=dp.Implicit())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outer_iterations", 0),
        ("penalty", 0.0),
        ("growth", 0.5),
        ("growth", math.nan),
        ("tolerance", -1.0),
        ("max_penalty", 0.0),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=name):
        dp.AugmentedLagrangian(dp.CEM(3), **{name: value})


# The term


class Shares(StageObjective):
    """A stage cost that is no sum of squares."""

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        return state.abs().sum(-1) + action.abs().sum(-1)

    def terminal_cost(self, state: Tensor) -> Tensor:
        return state.abs().sum(-1)


class OwnEnd(GoalDistance):
    """Residuals, and a cost of the last state that is not half their square."""

    def terminal_cost(self, state: Tensor) -> Tensor:
        return 100 * (state[..., 0] + 0.5).square()


class Late(Shares):
    """Terms that do not add up to the cost."""

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return 10 * (states[..., -1, 0] - 1).square()


@pytest.mark.parametrize(
    "objective", [Late(), OwnEnd(torch.zeros(1))], ids=["own forward", "own end"]
)
def test_constraints_that_are_kept_anyway_change_no_plan(
    objective: StageObjective,
) -> None:
    far = StateConstraint(lambda state, action: state[..., :1] - 5)
    planner = dp.AugmentedLagrangian(dp.CEM(3), outer_iterations=1)
    free, kept = (
        planner(
            dp.PlanningProblem(
                lambda state, action: state + action,
                objective,
                dp.Box([-1.0], [1.0]),
                constraints,
            ),
            torch.zeros(1, 1),
            keys=torch.zeros(1, dtype=torch.int64),
        )
        for constraints in ([], [far])
    )
    torch.testing.assert_close(kept.actions, free.actions)
    torch.testing.assert_close(kept.cost, objective(free.states, free.actions))


class Limit(nn.Module):
    """A limit of the state for each problem."""

    per_problem: ClassVar = {"limit": 1}

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, state: Tensor, action: Tensor | None = None) -> Tensor:
        return state - aligned("limit", self.limit, state, own=1)


@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("change", [False, True], ids=["plain", "with change"])
def test_limits_of_each_problem_follow_its_starts(starts: int, change: bool) -> None:
    limits = torch.tensor([[0.3], [0.6]], dtype=DOUBLE)
    wall, size = Limit(limits), 2 if change else 1
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        GoalDistance(torch.tensor([[1.0], [0.8]], dtype=DOUBLE)),
        dp.Box([-1.0], [1.0]),
        [StateConstraint(wall, terminal=wall.forward)],
    )
    if change:
        problem = with_action_change(problem, 0.0)
    planner = dp.AugmentedLagrangian(dp.LatCo(3, num_starts=starts, iterations=20))
    plan = planner(problem, torch.zeros(2, size, dtype=DOUBLE))
    torch.testing.assert_close(wall.limit, limits)
    # The best plan goes as near its goal as its limit lets it, and stays.
    best = limits[:, None].expand(2, 3, 1)
    torch.testing.assert_close(plan.states[:, 1:, :1], best, rtol=0, atol=0.02)


def multipliers_for(batch: int, horizon: int) -> ConstraintMultipliers:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=DOUBLE)

    return ConstraintMultipliers(
        draw(batch, horizon, 2), draw(batch, 1, 1), 0.5 + draw(batch, 1, 1)
    )


def term_of(batch: int, horizon: int) -> ConstraintPenalty:
    constraint = StateConstraint(
        lambda state, action: torch.cat([state[..., :1], action - state[..., 1:]], -1),
        terminal=lambda state: state[..., 1:] + 0.1,
    )
    return ConstraintPenalty([constraint], multipliers_for(batch, horizon))


def by_hand(term: ConstraintPenalty, index: int, states: Tensor, u: Tensor) -> Tensor:
    """½ ρ Σ max(0, g + λ/ρ)² of one trajectory by a loop over time."""
    multipliers, total = term.multipliers, torch.zeros((), dtype=DOUBLE)
    rho = multipliers.penalty[index, 0, 0]
    (constraint,) = term.constraints
    for t in range(u.shape[0]):
        value = constraint.stage(states[t], u[t]) + multipliers.stage[index, t] / rho
        total = total + 0.5 * rho * value.clamp_min(0).square().sum()
    value = constraint.end(states[-1]) + multipliers.terminal[index, 0] / rho
    return total + 0.5 * rho * value.clamp_min(0).square().sum()


@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("between", [(), (5,), (3, 2)], ids=str)
@pytest.mark.parametrize("starts", [1, 2])
def test_multipliers_meet_their_own_problem_and_step(
    horizon: int, between: tuple[int, ...], starts: int
) -> None:
    # [B, …] with candidates or particles between, and [B·k, …] with k starts of each.
    batch, term = 3, term_of(3, horizon)
    generator = torch.Generator().manual_seed(1)
    lead = (batch * starts, *between)
    states = torch.randn((*lead, horizon + 1, 2), generator=generator, dtype=DOUBLE)
    actions = torch.randn((*lead, horizon, 1), generator=generator, dtype=DOUBLE)
    got = term(states, actions)
    assert got.shape == lead
    for place in np.ndindex(*lead):
        expected = by_hand(term, place[0] // starts, states[place], actions[place])
        torch.testing.assert_close(got[place], expected)


@pytest.mark.parametrize(
    "planner",
    [dp.ILQR(5, iterations=10), dp.ShootingGN(5, iterations=10)],
    ids=["ILQR", "GN"],
)
def test_a_limit_may_depend_on_the_step(planner: dp.Planner) -> None:
    limits = torch.tensor([1.0, 0.1, 0.15, 0.5, 0.3, 0.4], dtype=DOUBLE)

    def wall(state: Tensor, action: Tensor, time: Tensor) -> Tensor:
        return state[..., :1] - limits[time].unsqueeze(-1)

    def end(state: Tensor, time: Tensor) -> Tensor:
        return state[..., :1] - limits[time].unsqueeze(-1)

    problem = dp.PlanningProblem(
        lambda state, action: state + 0.3 * action,
        GoalDistance(torch.ones(1, dtype=DOUBLE)),
        dp.Box([-1.0], [1.0]),
        [StateConstraint(wall, end)],
    )
    plan = dp.AugmentedLagrangian(planner)(problem, torch.zeros(2, 1, dtype=DOUBLE))
    # The best plan is as far as the next limits allow.
    best = torch.tensor([0.0, 0.1, 0.15, 0.45, 0.3, 0.4], dtype=DOUBLE)
    torch.testing.assert_close(
        plan.states[..., 0], best.expand(2, -1), rtol=0, atol=1e-3
    )


def test_batches_that_fit_no_multipliers_are_refused() -> None:
    term = term_of(3, 4)
    with pytest.raises(ShapeError, match="for 3 plans"):
        term(torch.zeros(4, 5, 2), torch.zeros(4, 4, 1))
    with pytest.raises(ShapeError, match="argument: 'time'"):
        term.running_residual(torch.zeros(3, 2), torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (GoalDistance(torch.zeros(2, dtype=DOUBLE)), ResidualObjective),
        (OwnEnd(torch.zeros(2, dtype=DOUBLE)), ResidualObjective),
        (Shares(), StageObjective),
        (WeightedSum([Shares()], [2.0]), StageObjective),
        (Late(), object),
        (lambda states, actions: states.square().sum((-1, -2)), object),
    ],
    ids=["residuals", "own end", "stages", "sum", "own forward", "callable"],
)
def test_the_sum_keeps_the_structure_of_the_objective(
    objective: Callable[[Tensor, Tensor], Tensor], kind: type
) -> None:
    term = term_of(2, 3)
    both = add_penalty(objective, term)
    assert isinstance(both, kind)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, 4, 2, generator=generator, dtype=DOUBLE)
    actions = torch.randn(2, 3, 1, generator=generator, dtype=DOUBLE)
    expected = objective(states, actions) + term(states, actions)
    torch.testing.assert_close(both(states, actions), expected)


@pytest.mark.parametrize(
    "inner",
    [
        dp.CEM(3, num_samples=12, num_elites=3, iterations=2),
        dp.GradMPC(3, num_starts=2, iterations=3),
    ],
    ids=["CEM", "GradMPC"],
)
def test_without_state_constraints_particles_are_planned_for(inner: dp.Planner) -> None:
    class Drift:
        def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(state + action, 0.1 + action.square())

    problem = dp.StochasticProblem(
        Drift(),
        GoalDistance(torch.ones(1, dtype=DOUBLE)),
        dp.Box([-1.0], [1.0]),
        num_particles=5,
    )
    state, keys = torch.zeros(2, 1, dtype=DOUBLE), torch.tensor([4, 9])
    plan = dp.AugmentedLagrangian(inner)(problem, state, keys=keys)
    expected = inner(problem, state, keys=keys)
    assert torch.equal(plan.actions, expected.actions)
    assert torch.equal(plan.cost, expected.cost)
    assert torch.equal(plan.status, expected.status)
    wrapped = dp.AugmentedLagrangian(ILQR(3))
    with pytest.raises(UnsupportedProblemError, match="cannot weigh the particles"):
        wrapped(problem, state)
