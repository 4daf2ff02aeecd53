"""Capabilities are found by what dynamics are, however they were handed over."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import diffplan as dp
from diffplan.capabilities import model_behind
from diffplan.errors import ShapeError, TensorTypeError
from diffplan.models.analytic import Pendulum

BOX = dp.Box([-1.0], [1.0])
CONTROL = torch.tensor([[0.1], [0.5]])


class Knows:
    """What both kinds of models below share; counts how often it is asked."""

    asked = 0

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + action @ CONTROL.mT

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.asked += 1
        lead = state.shape[:-1]
        by_state, by_action = (
            torch.eye(2).expand(*lead, 2, 2),
            CONTROL.expand(*lead, 2, 1),
        )
        return self.step(state, action), by_state, by_action

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        return Normal(self.step(state, action), 0.1)

    def sample(self, state: Tensor, action: Tensor) -> Tensor:
        return 2 * self.step(state, action)


class Module(Knows, nn.Module):
    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.step(state, action)


class Plain(Knows):
    def __call__(self, state: Tensor, action: Tensor) -> Tensor:
        return self.step(state, action)


class SameFunction(Knows, nn.Module):
    forward = Knows.step


class WithoutStep(nn.Module):
    """The only function that the Jacobian can be of is `forward`."""

    asked = 0

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return Knows.step(self, state, action)

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.asked += 1
        return Plain().linearize(state, action)


class Trap(Knows, nn.Module):
    """Its `forward` is not `step`, so that the Jacobian is not that of `forward`."""

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.step(state, action) - 0.3 * state


class Halved(Knows, nn.Module):
    """Its `forward` calls `step`, for other actions."""

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.step(state, action / 2)


def problem(dynamics: dp.Dynamics, **given: object) -> dp.PlanningProblem:
    goal = dp.objectives.GoalDistance(torch.ones(2))
    effort = dp.objectives.ActionPenalty(0.1)
    objective = dp.objectives.SumOfResiduals([goal, effort])
    return dp.PlanningProblem(dynamics, objective, BOX, **given)


WAYS: dict[str, Callable[[object], dp.Dynamics]] = {
    "the object": lambda model: model,
    "its step": lambda model: model.step,
    "its call": lambda model: model.__call__,
    "its forward": lambda model: getattr(model, "forward", model),
    "a partial of its step": lambda model: partial(model.step),
    "a partial of the object": lambda model: partial(model),
    "a partial of a partial": lambda model: partial(partial(model.step)),
}

each_way = pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))
each_model = pytest.mark.parametrize("kind", [Module, Plain, SameFunction])


@each_way
@each_model
def test_the_analytic_jacobian_is_used(
    kind: type[Knows], way: Callable[[object], dp.Dynamics]
) -> None:
    model = kind()
    handed = problem(way(model))
    assert model_behind(handed.dynamics) is model
    assert handed.find(dp.Linearizable) is model
    assert handed.find(dp.Predictable) is model
    expected = {"linearize": True, "predict": True, "quadratize": True}
    assert handed.capabilities() == expected
    for planner in (dp.ILQR(3), dp.ShootingGN(3), dp.LatCo(3, iterations=2)):
        model.asked = 0
        planner(handed, torch.zeros(2, 2))
        assert model.asked > 0


@pytest.mark.parametrize("way", ["the object", "its call", "its forward"])
def test_without_a_step_calling_is_what_the_jacobian_is_of(way: str) -> None:
    model = WithoutStep()
    assert problem(WAYS[way](model)).find(dp.Linearizable) is model


@pytest.mark.parametrize(
    "hidden",
    [
        lambda model: lambda state, action: model.step(state, action),
        lambda model: model.sample,
        lambda model: partial(model.sample),
        lambda model: Trap().forward,
        lambda model: Trap().__call__,
        lambda model: Halved().forward,
    ],
)
def test_another_function_has_another_jacobian(
    hidden: Callable[[Knows], dp.Dynamics],
) -> None:
    model = Module()
    handed = problem(hidden(model))
    assert handed.find(dp.Linearizable) is None
    assert not handed.capabilities()["linearize"]
    state = torch.tensor([[0.5, -0.2]])
    dp.ILQR(3)(handed, state)
    assert model.asked == 0
    action = torch.tensor([[0.3]])
    by_state, by_action = torch.func.jacrev(handed.dynamics, (0, 1))(state, action)
    following, *jacobians = handed.linearize(state, action)
    torch.testing.assert_close(following, handed.dynamics(state, action))
    torch.testing.assert_close(jacobians[0], by_state[:, :, 0])
    torch.testing.assert_close(jacobians[1], by_action[:, :, 0])


def test_a_partial_with_arguments_is_another_function() -> None:
    model = Module()
    bound = partial(model.step, action=torch.zeros(1, 1))
    assert model_behind(bound) is bound


def test_a_jacobian_can_be_handed_over_beside_the_dynamics() -> None:
    model = Module()
    hidden = lambda state, action: model.step(state, action)  # noqa: E731
    handed = problem(hidden, linearize=model.linearize)
    assert handed.capabilities()["linearize"]
    state = torch.tensor([[0.4, -0.1], [0.0, 0.3]])
    plan = dp.ILQR(4)(handed, state)
    assert model.asked > 0
    torch.testing.assert_close(plan.actions, dp.ILQR(4)(problem(hidden), state).actions)
    for relaxed in (
        handed.relaxed(handed.objective),
        handed.for_batch(state.shape[:1]),
    ):
        assert relaxed.capabilities()["linearize"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda state, action: (state, state, state), ShapeError),
        (lambda state, action: None, TensorTypeError),
        (lambda state, action: (state, None, None), ShapeError),
        (
            lambda state, action: (state, state[..., None], action[..., None]),
            ShapeError,
        ),
        (lambda state, action: state.unflatten(0, (7, 7)), ShapeError),
    ],
)
@pytest.mark.parametrize("planner", [dp.ILQR(3), dp.LatCo(3)], ids=["ILQR", "LatCo"])
def test_a_wrong_jacobian_is_refused(
    answer: Callable[[Tensor, Tensor], object],
    kind: type[Exception],
    planner: dp.Planner,
) -> None:
    handed = problem(Pendulum(), linearize=answer)
    with pytest.raises(kind, match=r"^linearize: "):
        planner(handed, torch.zeros(3, 2))


@each_way
def test_random_dynamics_are_found_alike(way: Callable[[object], dp.Dynamics]) -> None:
    model, objective = Module(), dp.objectives.GoalDistance(torch.zeros(2))
    random = dp.StochasticProblem(way(model), objective, BOX)
    assert random.model is model
    assert random.capabilities()["predict"]


def test_second_derivatives_of_the_cost_are_a_capability() -> None:
    quadratic = dp.objectives.QuadraticCost(torch.eye(2), torch.eye(1))
    handed = dp.PlanningProblem(Pendulum(), quadratic, BOX)
    assert handed.capabilities()["quadratize"]


def test_wrong_second_derivatives_are_refused() -> None:
    class Wrong(dp.objectives.QuadraticCost):
        def quadratize(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
            hessian, *others = super().quadratize(states, actions)
            return hessian[0], *others

    wrong = Wrong(torch.eye(2), torch.eye(1))
    with pytest.raises(ShapeError, match=r"objective: .*quadratize"):
        dp.ILQR(3)(dp.PlanningProblem(Pendulum(), wrong, BOX), torch.zeros(2, 2))
