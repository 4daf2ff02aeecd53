"""The box of actions, the problem's checks and its capabilities."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.objectives import NegativeReturn, ResidualObjective
from diffplan.planners.collocation._units import ActionUnits


def problem(dynamics: dp.Dynamics | None = None) -> dp.PlanningProblem:
    return dp.PlanningProblem(
        dynamics or (lambda state, action: state + action),
        lambda states, actions: states.square().sum((-1, -2)),
        dp.Box([-1.0, -1.0], [1.0, 1.0]),
    )


class Linear(nn.Module):
    """A model that knows its Jacobian."""

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + action

    def sample(self, state: Tensor, action: Tensor) -> Tensor:
        return state - action

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.step(state, action)

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eye = torch.eye(2).expand(*state.shape, 2)
        return self.step(state, action), eye, eye


INF = math.inf


@pytest.mark.parametrize(
    ("low", "high", "center", "scale"),
    [
        (-1.0, 3.0, 1.0, 2.0),
        (2.0, 2.0, 2.0, 0.0),
        (-INF, INF, 0.0, 1.0),
        (-INF, -3.0, -3.0, 1.0),
        (-INF, 3.0, 0.0, 1.0),
        (2.0, INF, 2.0, 1.0),
    ],
)
def test_center_and_scale_are_finite(
    low: float, high: float, center: float, scale: float
) -> None:
    box = dp.Box([low], [high])
    assert box.center.tolist() == [center]
    assert box.scale.tolist() == [scale]
    assert box.contains(box.center)


MOST = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("low", "high"), [(-MOST, MOST), (2e38, 3e38), (-3e38, -1e38), (0.1, 0.7)]
)
def test_center_and_scale_of_wide_boxes(low: float, high: float) -> None:
    bounds = torch.tensor([low]), torch.tensor([high])
    box, exact = dp.Box(*bounds), [side.double() for side in bounds]
    center, scale = (exact[0] + exact[1]) / 2, (exact[1] - exact[0]) / 2
    torch.testing.assert_close(box.center, center.float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(box.scale, scale.float(), rtol=1e-7, atol=0)
    units = ActionUnits.of(box)
    assert 0 < units.unit.item() <= 2
    ends = torch.stack([units.actions(units.low), units.actions(units.high)])
    torch.testing.assert_close(ends, torch.stack(bounds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_allowed_actions_are_within_the_limits_of_their_variables(
    dtype: torch.dtype,
) -> None:
    low = torch.randn(1000, dtype=dtype)
    high = low + 3 * torch.rand(1000, dtype=dtype)
    units = ActionUnits.of(dp.Box(low, high))
    inner = torch.nextafter(low, high), torch.nextafter(high, low)
    for action in (low, high, *inner):
        assert (units.excess(units.variables(action)) == 0).all()
    outer = torch.stack([low - 1e-3, high + 1e-3])
    assert (units.excess(units.variables(outer)) != 0).all()


@pytest.mark.parametrize("width", [1e21, MOST])
@pytest.mark.parametrize("kind", [dp.CEM, dp.MPPI, dp.DCEM])
def test_wide_boxes_are_searched_as_others(
    kind: type[dp.Planner], width: float
) -> None:
    def plan(width: float) -> dp.Plan:
        bound = torch.tensor([width])
        problem = dp.PlanningProblem(
            lambda state, action: action / width,
            lambda states, actions: (states[..., -1, 0] - 0.3).square(),
            dp.Box(-bound, bound),
        )
        return kind(1, iterations=4)(problem, torch.zeros(1))

    found = plan(width)
    assert found.status == int(dp.Status.COMPLETED)
    expected = plan(1.0).actions
    torch.testing.assert_close(found.actions / width, expected, rtol=1e-3, atol=1e-4)


side = st.floats(-100, 100, width=32)


@settings(deadline=None, derandomize=True)
@given(side | st.just(-INF), st.floats(0, 50, width=32) | st.just(INF), side)
def test_projection_is_the_nearest_allowed_action(
    low: float, width: float, action: float
) -> None:
    high = low + width if math.isfinite(low) else width
    box = dp.Box([low], [high])
    given_action = torch.tensor([action])
    for dtype in (torch.float64, torch.float32):
        projected = box.project(given_action.to(dtype))
        assert box.contains(projected)
        expected = min(max(action, low), high)
        # In float32 the nearest number inside: at most one from the nearest of all.
        gap = 2 * torch.finfo(dtype).eps * abs(expected) if dtype.itemsize == 4 else 0
        assert abs(projected.item() - expected) <= gap
        torch.testing.assert_close(
            box.excess(given_action.to(dtype)), given_action.to(dtype) - projected
        )


def test_box_takes_the_dtype_of_the_actions() -> None:
    box = dp.Box([-0.1], [0.1])
    actions = torch.tensor([[0.7], [-0.7]], dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        projected = box.project(actions.to(dtype))
        assert projected.dtype == dtype
        assert box.contains(projected).all()
        assert (projected.double().abs() <= 0.1).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(-0.1, 0.1), (0.1, 0.3), (-0.7, -0.2), (1e-40, 2.1), (-INF, 0.7), (-0.7, INF)],
)
def test_bounds_given_as_numbers_hold_in_any_dtype(low: float, high: float) -> None:
    # 0.1 in float32 is 0.10000000149, which is no allowed action.
    box = dp.Box([low], [high])
    assert box.low.item() == low
    assert box.high.item() == high
    for beyond in (-1e30, 1e30, low, high):
        action = torch.tensor([beyond], dtype=torch.float64).float()
        projected = box.project(action)
        assert projected.dtype == torch.float32
        assert low <= projected.item() <= high
        assert box.contains(projected)
        if not low <= action.item() <= high:
            assert not box.contains(action)
    narrow = box.to(torch.zeros(1))
    for bound, outwards in ((narrow.low, -INF), (narrow.high, INF)):
        if torch.isfinite(bound):
            further = torch.nextafter(bound, torch.tensor([outwards]))
            assert not low <= further.item() <= high  # it is the largest box inside


def test_bounds_without_a_number_between_them_allow_the_nearest() -> None:
    for low, high in ((0.1, 0.1), (0.1, 0.1 + 1e-12)):
        narrow = dp.Box([low], [high]).to(torch.zeros(1))
        assert torch.equal(narrow.low, narrow.high)
        assert narrow.low.item() == torch.tensor(0.1).item()
        assert dp.Box([low], [high]).contains(narrow.center)


def test_learned_bounds_keep_their_gradient_in_another_dtype() -> None:
    low = torch.tensor([-0.1, -INF], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True)
    box = dp.Box(low, high)
    box.project(torch.tensor([[-3.0, 5.0], [4.0, 0.0]])).sum().backward()
    assert low.grad.tolist() == [1.0, 0.0]
    assert high.grad.tolist() == [1.0, 1.0]


def test_bounds_per_dimension() -> None:
    box = dp.Box([-1.0, 0.0], [1.0, INF])
    actions = torch.tensor([[2.0, -3.0], [0.5, 1e6]])
    assert box.project(actions).tolist() == [[1.0, 0.0], [0.5, 1e6]]
    assert box.contains(actions).tolist() == [False, True]
    assert box.excess(actions).tolist() == [[1.0, -3.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ([1.0], [0.0], "low 1.0 above high 0.0 in dimension 0"),
        ([0.0, 3.0], [1.0, 2.0], "low 3.0 above high 2.0 in dimension 1"),
        ([math.nan], [1.0], "NaN"),
        ([-1.0], [1.0, 1.0], r"\[1\] and \[2\]"),
        (torch.zeros(()), torch.ones(()), r"\[A\]"),
        (torch.zeros(3, 2), torch.ones(2, 2), r"\[T, A\]"),
        ([[-1.0], [2.0]], [1.0], "dimension 0 of step 1"),
    ],
)
def test_impossible_boxes_are_refused(low: object, high: object, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        dp.Box(low, high)


def test_good_states_pass() -> None:
    for shape in ((2,), (3, 2), (4, 3, 2), (0, 2)):
        state = torch.zeros(shape)
        assert problem().check_state(state) is state


def test_states_that_hold_nan_are_refused_and_counted() -> None:
    state = torch.tensor([[0.0, math.nan], [INF, 0.0]])
    with pytest.raises(NonFiniteError, match=r"state: .* 2 NaN or infinite of 4"):
        problem().check_state(state)


def test_integers_are_refused() -> None:
    with pytest.raises(TensorTypeError, match=r"state: .*int64"):
        problem().check_state(torch.zeros(2, dtype=torch.long))


def test_a_wrong_state_size_names_the_dynamics() -> None:
    linear = nn.Bilinear(2, 2, 2)
    with pytest.raises(ShapeError, match=r"state: dynamics Bilinear .*\[3, 5\]"):
        problem(linear).check_state(torch.zeros(3, 5))


def test_dynamics_that_raise_anything_are_reported_as_a_shape_error() -> None:
    def unpacking(state: Tensor, action: Tensor) -> Tensor:
        first, second = state.unbind(-1)
        return torch.stack([first, second], -1) + action

    with pytest.raises(ShapeError, match="unpacking"):
        problem(unpacking).check_state(torch.zeros(3, 5))


def test_dynamics_that_return_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"dynamics: .*\[3, 2\], got \[3\]"):
        problem(lambda state, action: state.sum(-1)).check_state(torch.zeros(3, 2))
    with pytest.raises(ShapeError, match="dynamics"):
        problem(lambda state, action: None).check_state(torch.zeros(3, 2))


def test_errors_of_a_world_model_pass_unchanged() -> None:
    def model(state: Tensor, action: Tensor) -> Tensor:
        raise ShapeError("state: expected […, 3]")

    with pytest.raises(ShapeError, match=r"^state: expected \[…, 3\]$"):
        problem(model).check_state(torch.zeros(2))


def test_checking_builds_no_graph() -> None:
    calls = []

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        calls.append((state * 1).requires_grad)
        return state + action

    problem(dynamics).check_state(torch.zeros(2, requires_grad=True))
    assert calls == [False]


def test_dynamics_are_tried_once_for_states_of_one_kind() -> None:
    calls = []

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        calls.append(state.shape)
        return state + action

    checked = problem(dynamics)
    for _ in range(2):
        checked.check_state(torch.zeros(3, 2))
    assert len(calls) == 1
    checked.check_state(torch.zeros(4, 2))
    checked.check_state(torch.zeros(4, 2, dtype=torch.float64))
    assert len(calls) == 3
    with pytest.raises(NonFiniteError):
        checked.check_state(torch.full((4, 2), math.nan, dtype=torch.float64))
    checked.dynamics = lambda state, action: state.sum(-1)
    with pytest.raises(ShapeError, match="dynamics"):
        checked.check_state(torch.zeros(4, 2, dtype=torch.float64))


def test_actions_of_a_wrong_shape_are_refused_by_name() -> None:
    with pytest.raises(
        ShapeError, match=r"plan: expected \[…, 4, 2\], got \[3, 5, 2\]"
    ):
        problem().check_actions("plan", torch.zeros(3, 5, 2), horizon=4)


def test_capabilities_are_found_on_the_model_and_on_its_step() -> None:
    model = Linear()
    for dynamics in (model, model.step):
        assert problem(dynamics).find(dp.Linearizable) is model
        assert problem(dynamics).require(dp.Linearizable, "iLQR") is model
        assert problem(dynamics).find(dp.Predictable) is None
    # The Jacobian of `step` is not that of another method.
    assert problem(model.sample).find(dp.Linearizable) is None
    with pytest.raises(UnsupportedProblemError, match=r"LatCo needs .*Predictable"):
        problem(model).require(dp.Predictable, "LatCo")


def test_objectives_without_a_needed_refinement_are_refused() -> None:
    plain = problem()
    with pytest.raises(UnsupportedProblemError, match="LatCo needs a ResidualObj"):
        plain.require_objective(ResidualObjective, "LatCo")
    reward = dp.PlanningProblem(
        plain.dynamics, NegativeReturn(lambda state: state[..., 0]), plain.action_space
    )
    with pytest.raises(UnsupportedProblemError, match="got NegativeReturn"):
        reward.require_objective(ResidualObjective, "LatCo")


def test_every_refusal_is_a_diffplan_error_and_a_builtin_one() -> None:
    assert issubclass(ShapeError, DiffplanError)
    assert issubclass(ShapeError, ValueError)
    assert issubclass(TensorTypeError, TypeError)


class Drift(nn.Module):
    """x + W [x, u], its own or through the method `step`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.layer(torch.cat([state, action], dim=-1))


def test_a_problem_is_moved_copied_and_asked_for_parameters_like_a_module() -> None:
    model, goal = Drift(), dp.objectives.GoalDistance(torch.ones(2))
    problem = dp.PlanningProblem(model.step, goal, dp.Box([-1.0], [1.0]))
    names = dict(problem.named_parameters())
    assert names["dynamics.layer.weight"] is model.layer.weight
    assert list(problem.parameters()) == list(names.values())
    assert problem.to(torch.float64) is problem
    state = torch.zeros(2, 2, dtype=torch.float64)
    plan = dp.ILQR(3)(problem, state)
    assert plan.actions.dtype == torch.float64
    for copied in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        assert torch.equal(dp.ILQR(3)(copied, state).actions, plan.actions)
        next(copied.parameters()).data.add_(1.0)
        assert torch.equal(dp.ILQR(3)(problem, state).actions, plan.actions)


def test_functions_have_no_parameters_to_show() -> None:
    problem = dp.PlanningProblem(
        lambda x, u: x + u, lambda x, u: x[..., 0, 0], dp.Box([-1.0], [1.0])
    )
    assert list(problem.to("cpu").parameters()) == []
