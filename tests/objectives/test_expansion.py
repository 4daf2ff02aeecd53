"""What objectives know of their own derivatives, against autodiff of the whole cost."""

import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.capabilities import Quadratizable, knows, knows_curvature
from diffplan.objectives import (
    ActionChange,
    ActionPenalty,
    GoalDistance,
    NegativeReturn,
    QuadraticCost,
    ResidualObjective,
    StageObjective,
    SumOfResiduals,
    Tracking,
    WeightedSum,
    with_action_change,
)
from diffplan.objectives._expansion import expand

B, T, S, A = 3, 4, 3, 2


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Bent(ResidualObjective):
    """A user's own: nothing is known of it."""

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return (state[..., :2] * action).sin()

    def terminal_residual(self, state: Tensor) -> Tensor:
        return state.exp()


def return_() -> NegativeReturn:
    return NegativeReturn(lambda x: x[..., 0].cos() * x[..., 1], discount=0.8)


def tracking() -> Tracking:
    return Tracking(drawn(T + 1, S), drawn(T + 1).square())


def remembering(objective: StageObjective) -> StageObjective:
    """The objective of states that end with the action before, and its price."""
    box = dp.Box(-torch.ones(A), torch.ones(A))
    problem = dp.PlanningProblem(lambda state, action: state, objective, box)
    return with_action_change(problem, 0.7).objective


KNOWN: dict[str, StageObjective] = {
    "goal": GoalDistance(drawn(S), running_weight=2.0, terminal_weight=3.0),
    "goal at the end": GoalDistance(drawn(S), running_weight=0.0),
    "goal of each problem": GoalDistance(drawn(B, S), running_weight=0.3),
    "tracking": tracking(),
    "tracking, each number weighted": Tracking(
        drawn(T + 1, S), drawn(T + 1, S, seed=1).square()
    ),
    "tracking of each problem": Tracking(
        drawn(B, T + 1, S), drawn(B, T + 1, S, seed=1).square()
    ),
    "effort": ActionPenalty(0.3),
    "change": ActionChange(0.7),
    "change of each action": ActionChange(drawn(A).square()),
    "change of each problem": ActionChange(drawn(B, A).square()),
    "quadratic": QuadraticCost(drawn(S, S), drawn(A, A), action_linear=drawn(A)),
    "sum": SumOfResiduals([tracking(), ActionPenalty(0.3)]),
    "sum of one for all": SumOfResiduals([GoalDistance(drawn(S)), ActionPenalty(0.3)]),
    "weighted": WeightedSum(
        [QuadraticCost(drawn(S, S), drawn(A, A)), tracking()], [0.4, -1.5]
    ),
    "sum within a sum": WeightedSum(
        [SumOfResiduals([ActionPenalty(0.3), GoalDistance(drawn(S))]), tracking()],
        [2.0, 1.0],
    ),
}
UNKNOWN: dict[str, StageObjective] = {
    "its own": Bent(),
    "residuals": SumOfResiduals([ActionPenalty(0.3), Bent()]),
    "return": WeightedSum([return_(), ActionPenalty(0.3)], [2.0, 0.5]),
}
both = pytest.mark.parametrize(
    "objective", [*KNOWN.values(), *UNKNOWN.values()], ids=[*KNOWN, *UNKNOWN]
)


def trajectory(size: int = S) -> tuple[Tensor, Tensor]:
    return drawn(B, T + 1, size, seed=2), drawn(B, T, A, seed=3)


def by_autodiff(
    objective: StageObjective, states: Tensor, actions: Tensor
) -> tuple[Tensor, ...]:
    """Blocks of the derivatives of the whole cost; nothing beside them is not zero."""
    last, width = states.shape[-1], actions.shape[-1]
    horizon, size = actions.shape[1], width + last

    def cost(flat: Tensor) -> Tensor:
        points, end = flat[:, :-last].view(B, horizon, size), flat[:, None, -last:]
        return objective(torch.cat((points[..., width:], end), 1), points[..., :width])

    points = torch.cat((actions, states[:, :-1]), -1)
    flat = torch.cat((points.flatten(1), states[:, -1]), 1)
    slope = torch.func.grad(lambda value: cost(value).sum())
    gradient = slope(flat)
    whole = torch.func.jacrev(slope)(flat)
    whole = torch.stack([whole[b, :, b] for b in range(B)])
    ends = [*range(0, horizon * size, size), horizon * size]
    blocks = [whole[:, i : i + size, i : i + size] for i in ends]
    assert torch.allclose(whole.abs().sum(), sum(b.abs().sum() for b in blocks))
    return (
        torch.stack(blocks[:-1], 1),
        gradient[:, : horizon * size].view(B, horizon, size),
        blocks[-1],
        gradient[:, horizon * size :],
    )


@both
def test_expansions_are_derivatives_of_the_cost(objective: StageObjective) -> None:
    states, actions = trajectory()
    found = expand(objective, states, actions, gauss_newton=False)
    expected = by_autodiff(objective, states, actions)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("objective", [KNOWN["sum"], Bent(), return_()])
def test_what_a_state_remembers_is_hidden(objective: StageObjective) -> None:
    states, actions = trajectory(S + A)
    whole = remembering(objective)
    found = expand(whole, states, actions, gauss_newton=False)
    expected = by_autodiff(whole, states, actions)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_squares_of_jacobians_join_what_is_known() -> None:
    states, actions = trajectory()
    objective = SumOfResiduals([tracking(), Bent(), ActionPenalty(0.3)])
    found = expand(objective, states, actions, gauss_newton=True)
    time = torch.arange(T)

    def residual(point: Tensor) -> Tensor:
        return objective.running_residual(point[..., A:], point[..., :A], time)

    points = torch.cat((actions, states[:, :-1]), -1)
    value, jacobian = residual(points), torch.func.jacrev(residual)(points)
    for b in range(B):
        for t in range(T):
            one = jacobian[b, t, :, b, t]
            torch.testing.assert_close(found[0][b, t], one.mT @ one)
            torch.testing.assert_close(found[1][b, t], value[b, t] @ one)


@pytest.mark.parametrize("name", KNOWN)
def test_expansions_carry_the_graph_of_the_objective(name: str) -> None:
    """Data that are learned: as they would be by autodiff through the terms."""
    states, actions = trajectory(S)
    objective = KNOWN[name]
    leaves = [states.requires_grad_(), actions.requires_grad_()]
    leaves += [value.requires_grad_() for value in objective.buffers()]
    found = expand(objective, states, actions, gauss_newton=False)
    wanted = by_autodiff(objective, states, actions)
    weights = [drawn(*form.shape, seed=7) for form in found]

    def slopes(forms: tuple[Tensor, ...]) -> list[Tensor]:
        total = sum((f * w).sum() for f, w in zip(forms, weights, strict=True))
        given = torch.autograd.grad(total, leaves, allow_unused=True)
        pairs = zip(given, leaves, strict=True)
        return [torch.zeros_like(x) if slope is None else slope for slope, x in pairs]

    for got, expected in zip(slopes(found), slopes(wanted), strict=True):
        torch.testing.assert_close(got, expected)
    for leaf in leaves:
        leaf.requires_grad_(False)


def test_a_subclass_with_other_terms_has_to_say_them_anew() -> None:
    class Late(GoalDistance):
        def terminal_residual(self, state: Tensor) -> Tensor:
            return state.square()

    class Tilted(SumOfResiduals):
        def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
            return state.sin()

    late, tilted = Late(drawn(S)), Tilted([GoalDistance(drawn(S))])
    states, actions = trajectory()
    for objective in (late, tilted):
        assert not knows_curvature(objective)
        found = expand(objective, states, actions, gauss_newton=False)
        expected = by_autodiff(objective, states, actions)
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted)

    class Same(GoalDistance):
        """Has other methods, and the same terms."""

    assert knows(Same(drawn(S)), Quadratizable)


def test_a_sum_knows_what_its_terms_know() -> None:
    for name, objective in KNOWN.items():
        assert knows_curvature(objective), name
    for name, objective in UNKNOWN.items():
        assert not knows_curvature(objective), name


def test_what_is_one_for_all_steps_stays_one() -> None:
    states, actions = trajectory()
    objective = KNOWN["sum of one for all"]
    hessian, _, end, _ = expand(objective, states, actions, gauss_newton=True)
    assert hessian.stride()[:2] == (0, 0)
    assert end.stride()[0] == 0
