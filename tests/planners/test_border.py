"""The border: data of each problem, models of 2-D input, what is tried how often."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from planner_cases import PlannerCase, each_planner
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.objectives import ActionPenalty, GoalDistance, SumOfResiduals
from diffplan.planners.request import PlanRequest
from diffplan.testing import point_mass_problem
from diffplan.testing._border import check_dtypes, check_goals

MULTI_START: dict[str, Callable[[], dp.Planner]] = {
    "ShootingGN": lambda: dp.ShootingGN(3, iterations=3, num_starts=3),
    "ShootingGD": lambda: dp.ShootingGD(3, iterations=4, num_starts=3),
    "LatCo": lambda: dp.LatCo(3, iterations=5, num_starts=3),
    "LatCo-implicit": lambda: dp.LatCo(
        3, iterations=5, num_starts=2, gradient=dp.Implicit(on_failure="zero")
    ),
    "AugmentedLagrangian": lambda: dp.AugmentedLagrangian(
        dp.LatCo(3, iterations=5, num_starts=2), outer_iterations=2
    ),
}


def reach(goal: Tensor) -> dp.PlanningProblem:
    given, _ = point_mass_problem(goal.dtype)
    objective = SumOfResiduals([GoalDistance(goal), ActionPenalty(0.1)])
    return dp.PlanningProblem(given.dynamics, objective, given.action_space)


@pytest.mark.parametrize("build", list(MULTI_START.values()), ids=list(MULTI_START))
def test_each_start_of_a_problem_has_the_goal_of_the_problem(
    build: Callable[[], dp.Planner],
) -> None:
    _, state = point_mass_problem(torch.float64)
    goals = state.flip(0) + 0.1
    got = build()(reach(goals), state)
    for index, goal in enumerate(goals):
        shared = build()(reach(goal), state)  # the same noise, one goal for all
        torch.testing.assert_close(got.actions[index], shared.actions[index])
        torch.testing.assert_close(got.cost[index], shared.cost[index])


def test_goals_of_each_problem_keep_their_gradient() -> None:
    _, state = point_mass_problem(torch.float64)
    goals = (state.flip(0) + 0.1).requires_grad_()
    planner = dp.LatCo(3, iterations=5, num_starts=2)
    plan = planner(reach(goals.reshape(3, 1, 2)), state.reshape(3, 1, 2))
    (gradient,) = torch.autograd.grad(plan.actions[0].square().sum(), goals)
    assert (gradient[0] != 0).any()
    assert (gradient[1:] == 0).all()  # of the others


def test_an_objective_stays_as_it_was_when_its_goals_are_flattened() -> None:
    _, state = point_mass_problem()
    problem = reach(state.reshape(3, 1, 2))
    before = [(name, id(part)) for name, part in problem.objective.named_modules()]
    dp.CEM(3, num_samples=8, num_elites=2)(problem, state.reshape(3, 1, 2))
    after = [(name, id(part)) for name, part in problem.objective.named_modules()]
    assert before == after
    assert problem.objective.terms[0].goal.shape == (3, 1, 2)


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 6, 7])
def test_crossing_goals_are_refused_for_any_number_of_candidates(samples: int) -> None:
    # With as many candidates as problems nothing but the trial can tell.
    given, state = point_mass_problem()
    goals = state + 0.1

    def objective(states: Tensor, actions: Tensor) -> Tensor:
        return (states[..., -1, :] - goals).square().sum(-1)

    planner = dp.CEM(3, num_samples=samples, num_elites=2)
    with pytest.raises(ShapeError, match=r"objective: .*GoalDistance\(goal\)"):
        planner(
            dp.PlanningProblem(given.dynamics, objective, given.action_space), state
        )

    def aligned(states: Tensor, actions: Tensor) -> Tensor:
        last = states[..., -1, :]
        own = goals.reshape(3, *(1,) * (last.ndim - 2), 2)
        return (last - own).square().sum(-1)

    kept = dp.PlanningProblem(given.dynamics, aligned, given.action_space)
    named = dp.PlanningProblem(
        given.dynamics, GoalDistance(goals, 0.0, 2.0), given.action_space
    )
    expected = planner(named, state)
    torch.testing.assert_close(planner(kept, state).actions, expected.actions)


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_data_of_each_problem_in_the_dynamics_are_refused_alike(samples: int) -> None:
    given, state = point_mass_problem()
    mass = torch.tensor([[1.0], [2.0], [3.0]])
    problem = dp.PlanningProblem(
        lambda x, u: x + u / mass, given.objective, given.action_space
    )
    with pytest.raises(ShapeError, match=r"dynamics .*any leading dimensions"):
        dp.CEM(3, num_samples=samples, num_elites=2)(problem, state)


class Recurrent(nn.Module):
    """A cell that takes 2-D input only, as `nn.GRUCell` does."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.cell, self.flat = nn.GRUCell(1, 2), flat

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        if not self.flat:
            return self.cell(action, state)
        following = self.cell(action.flatten(0, -2), state.flatten(0, -2))
        return following.unflatten(0, state.shape[:-1])


@each_planner
def test_a_model_of_flat_input_is_told_what_to_do(case: PlannerCase) -> None:
    given, state = point_mass_problem()
    wrong, right = (
        dp.PlanningProblem(Recurrent(flat), given.objective, given.action_space)
        for flat in (False, True)
    )
    planner = case.build(horizon=2, iterations=2)
    with pytest.raises(ShapeError, match=r"any leading dimensions.*unflatten"):
        planner(wrong, state)
    assert torch.isfinite(planner(right, state).cost).all()  # as it was told


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_functions_are_tried_once_for_states_of_one_kind(lead: tuple[int, ...]) -> None:
    # The trial has shapes of its own, which no size of the problem equals.
    seen: dict[str, list[tuple[int, ...]]] = {"dynamics": [], "objective": []}

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        seen["dynamics"].append(tuple(state.shape))
        return state + action

    def objective(states: Tensor, actions: Tensor) -> Tensor:
        seen["objective"].append(tuple(states.shape))
        return states.square().sum((-1, -2))

    problem = dp.PlanningProblem(dynamics, objective, dp.Box([-1.0], [1.0]))
    planner = dp.CEM(4, num_samples=8, num_elites=2, iterations=1)
    counts = []
    for _ in range(3):
        for calls in seen.values():
            calls.clear()
        planner(problem, torch.zeros(*lead, 1))
        counts.append({name: len(calls) for name, calls in seen.items()})
    tried = {name: counts[0][name] - counts[1][name] for name in seen}
    assert tried == {"dynamics": 10, "objective": 2}
    assert counts[1] == counts[2]


def test_dynamics_that_depend_on_the_step_take_its_number() -> None:
    drift = torch.tensor([0.1, 0.2, 0.3])

    def by_position(state: Tensor, action: Tensor) -> Tensor:
        steps = state.shape[-2] if state.ndim > 1 else 1
        return state + action + torch.arange(steps)[:, None]

    goal, box = GoalDistance(torch.zeros(1)), dp.Box([-1.0], [1.0])
    with pytest.raises(UnsupportedProblemError, match=r"dynamics: .*by_position"):
        dp.LatCo(3)(dp.PlanningProblem(by_position, goal, box), torch.ones(2, 1))

    class Timed:
        def step(self, state: Tensor, action: Tensor, time: Tensor) -> Tensor:
            return state + action + drift[time].unsqueeze(-1)

        def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            return (state,)

    with pytest.raises(TensorTypeError, match="linearize: expected it to take"):
        dp.PlanningProblem(Timed().step, goal, box)


def test_what_differs_from_call_to_call_is_not_called_a_position() -> None:
    noisy = lambda state, action: state + action + 0.1 * torch.randn_like(state)  # noqa: E731
    problem = dp.PlanningProblem(
        noisy, GoalDistance(torch.zeros(1)), dp.Box([-1.0], [1.0])
    )
    assert dp.ShootingGD(3, iterations=2)(problem, torch.ones(2, 1)).actions.shape


def test_a_planner_without_the_border_is_found_out() -> None:
    class Careless(dp.CEM):
        def forward(
            self, problem: dp.PlanningProblem, state: Tensor, **_: object
        ) -> object:
            flat = state.reshape(-1, state.shape[-1])
            keys = torch.arange(len(flat))
            request = self.with_noise(PlanRequest(problem, flat, keys=keys))
            plan = self.plan_for(request)
            return plan.map(
                lambda value: value.reshape(*state.shape[:-1], *value.shape[1:])
            )

    problem, state = point_mass_problem()
    planner = Careless(3, num_samples=8, num_elites=2)
    with pytest.raises(AssertionError, match="a state in"):
        check_dtypes(planner, problem, state)
    with pytest.raises((AssertionError, ShapeError), match="goal"):
        check_goals(planner, problem, state)


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (dp.LatCo, "init"),
        (dp.LatCo, "engine"),
        (dp.ShootingGN, "init"),
        (dp.ShootingGD, "init"),
        (dp.GradMPC, "optimizer"),
        (partial(dp.PolicyGradMPC, policy=torch.zeros_like), "init"),
    ],
)
def test_a_misspelt_option_is_refused_when_the_planner_is_built(
    build: Callable[..., dp.Planner], option: str
) -> None:
    # TypeError: the type checker of the tests may come before the planner's own words.
    with pytest.raises((ArgumentError, TypeError), match=option):
        build(3, **{option: "typo"})


def test_a_choice_is_refused_in_words() -> None:
    with pytest.raises(ArgumentError, match=r"init: expected one of 'normal', .*typo"):
        dp.ShootingGD(3, init="typo")  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [dp.ILQR, dp.ShootingGN, dp.LatCo, dp.CEM])
def test_only_the_horizon_may_go_without_its_name(
    build: Callable[..., dp.Planner],
) -> None:
    assert build(3, iterations=2).horizon == 3
    with pytest.raises(TypeError):
        build(3, 2)
