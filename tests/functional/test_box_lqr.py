"""The limited regulator against the free one, scipy, and finite differences."""

import pytest
import torch
from lqr_problems import element, increments, lqr_cost, packed
from problems import same_to_rounding
from scipy.optimize import minimize
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from diffplan.functional import (
    IncrementalLQR,
    LQRProblem,
    limited_rollout,
    limited_sweep,
    lqr,
)


def bounds(problem: LQRProblem, limit: float) -> tuple[Tensor, Tensor]:
    high = torch.full_like(problem.action_linear, limit)
    return -high, high


def undamped(problem: LQRProblem) -> Tensor:
    return torch.zeros_like(problem.initial_state[..., 0])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_without_bounds_it_is_the_regulator(width: int) -> None:
    problem = increments((2, 3), 6, 4, width, seed=1)
    wide = bounds(problem, torch.inf)
    law = limited_sweep(packed(problem), *wide, undamped(problem))
    expected = lqr(problem)
    assert law.ok.shape == (2, 3)
    assert law.ok.all()
    torch.testing.assert_close(law.gains, expected.gains)
    moves = limited_rollout(packed(problem), law, *wide)
    torch.testing.assert_close(moves, expected.actions)
    torch.testing.assert_close(law.feedforward[..., 0, :], expected.actions[..., 0, :])


def test_packed_problems_unpack() -> None:
    problem = increments((2,), 5, 4, 2, seed=2)
    for got, wanted in zip(packed(problem).unpacked(), problem, strict=True):
        assert torch.equal(got, wanted)


def test_damping_is_a_cost_of_the_increments() -> None:
    problem = increments((2,), 5, 4, 2, seed=3)
    damping = torch.tensor([0.3, 5.0], dtype=torch.float64)
    wide = bounds(problem, torch.inf)
    law = limited_sweep(packed(problem), *wide, damping)
    eye = torch.eye(2, dtype=torch.float64)
    damped = problem._replace(
        action_cost=problem.action_cost + damping[:, None, None, None] * eye
    )
    torch.testing.assert_close(law.gains, lqr(damped).gains)
    moves = limited_rollout(packed(problem), law, *wide)
    torch.testing.assert_close(moves, lqr(damped).actions)


@pytest.mark.parametrize("width", [1, 3])
def test_repeated_sweeps_end_in_the_bounded_optimum(width: int) -> None:
    problem = increments((2,), 6, 3, width, seed=4)
    limit, actions = 0.4, torch.zeros_like(problem.action_linear)
    for _ in range(12):
        moved = about(problem, actions)
        low, high = -limit - actions, limit - actions
        law = limited_sweep(packed(moved), low, high, undamped(problem))
        assert ((law.feedforward >= low) & (law.feedforward <= high)).all()
        actions = actions + limited_rollout(packed(moved), law, low, high)
        actions = actions.clamp(-limit, limit)
    assert law.feedforward.abs().max() < 1e-12
    held = actions.abs() > limit - 1e-9
    assert held.any()
    assert not held.all()
    assert (law.gains[held] == 0).all()
    for index in range(2):
        expected = by_scipy(element(problem, index), limit)
        torch.testing.assert_close(actions[index], expected, rtol=0, atol=1e-6)


def about(problem: LQRProblem, actions: Tensor) -> LQRProblem:
    """The problem in increments about the rollout of other actions."""
    states = states_of(problem, actions)
    before = states[:, :-1]
    along = torch.einsum("btij,btj->bti", problem.cross_cost, before)
    across = torch.einsum("btji,btj->bti", problem.cross_cost, actions)
    across = torch.cat([across, torch.zeros_like(across[:, :1])], dim=1)
    bend = torch.einsum("btij,btj->bti", problem.state_cost, states)
    push = torch.einsum("btij,btj->bti", problem.action_cost, actions)
    return problem._replace(
        state_linear=problem.state_linear + bend + across,
        action_linear=problem.action_linear + push + along,
    )


def states_of(problem: LQRProblem, actions: Tensor) -> Tensor:
    states = [problem.initial_state]
    for t in range(actions.shape[1]):
        moved = torch.einsum("bij,bj->bi", problem.state_jacobian[:, t], states[-1])
        pushed = torch.einsum(
            "bij,bj->bi", problem.action_jacobian[:, t], actions[:, t]
        )
        states.append(moved + pushed)
    return torch.stack(states, dim=1)


def by_scipy(problem: LQRProblem, limit: float) -> Tensor:
    batched = LQRProblem(*(tensor[None] for tensor in problem))
    shape = problem.action_linear.shape

    def cost(flat: Tensor) -> Tensor:
        actions = flat.view(1, *shape)
        return lqr_cost(batched, states_of(batched, actions), actions)[0]

    def both(flat: object) -> tuple[float, object]:
        point = torch.as_tensor(flat)
        return float(cost(point)), torch.func.grad(cost)(point).numpy()

    found = minimize(
        both,
        torch.zeros(shape.numel(), dtype=torch.float64).numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-limit, limit)] * shape.numel(),
        options={"ftol": 0.0, "gtol": 1e-10, "maxiter": 10_000},
    )
    return torch.as_tensor(found.x).view(shape)


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("width", [1, 2])
def test_derivatives_of_first_and_second_order(width: int, look: bool) -> None:
    problem = increments((2,), 2, 2, width, seed=5)
    forms, (low, high) = packed(problem), bounds(problem, 0.4)
    damping = torch.full((2,), 0.2, dtype=torch.float64)
    law = limited_sweep(forms, low, high, damping)
    held = (law.gains == 0).all(-1)
    assert held.any()
    assert not held.all()
    given = (*forms, low, high, damping)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in given)

    def sweep(*tensors: Tensor) -> tuple[Tensor, ...]:
        given, others = IncrementalLQR(*tensors[:6]), tensors[6:]
        # Hessians are symmetric, and stay so while single entries are moved
        given = given._replace(
            hessian=(given.hessian + given.hessian.mT) / 2,
            end_hessian=(given.end_hessian + given.end_hessian.mT) / 2,
        )
        law = limited_sweep(given, *others, look=look)
        moves = limited_rollout(given, law, *others[:2])
        return law.feedforward, law.gains, given.slope(given.costates()), moves

    assert gradcheck(sweep, leaves)
    assert gradgradcheck(sweep, leaves, fast_mode=True)


@pytest.mark.parametrize("width", [1, 2])
def test_a_broken_element_fails_alone(width: int) -> None:
    problem = increments((3,), 4, 3, width, seed=6)
    broken = problem.action_cost.clone()
    broken[1, 2] -= 1e3 * torch.eye(width)
    low, high = bounds(problem, 0.5)
    good = torch.tensor([0, 2])
    results = []
    for cost, pick in ((broken, slice(None)), (problem.action_cost, good)):
        forms = packed(problem._replace(action_cost=cost))
        tensors = (*forms, low, high, undamped(problem))
        leaves = [tensor[pick].clone().requires_grad_() for tensor in tensors]
        law = limited_sweep(IncrementalLQR(*leaves[:6]), *leaves[6:])
        loss = law.feedforward.square().sum() + law.gains.sum()
        results.append((law, torch.autograd.grad(loss, leaves)))
    (law, gradients), (expected, wanted) = results
    assert law.ok.tolist() == [True, False, True]
    for tensor, reference in zip(law, expected, strict=True):
        same_to_rounding(tensor[good], reference)
        assert torch.equal(tensor[1], torch.zeros_like(tensor[1]))
    for gradient, reference in zip(gradients, wanted, strict=True):
        same_to_rounding(gradient[good], reference)
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))


def test_with_a_graph_it_finds_the_same() -> None:
    problem = increments((4,), 8, 3, 3, seed=7)
    forms, limits = packed(problem), bounds(problem, 0.3)
    plain = limited_sweep(forms, *limits, undamped(problem))
    leaf = forms.hessian.clone().requires_grad_()
    tracked = limited_sweep(forms._replace(hessian=leaf), *limits, undamped(problem))
    for got, wanted in zip(tracked, plain, strict=True):
        same_to_rounding(got, wanted)


def test_vmap_equals_the_batch() -> None:
    problem = increments((3,), 4, 3, 2, seed=8)
    low, high = bounds(problem, 0.5)
    tensors = (*packed(problem), low, high, undamped(problem))

    def loss(*given: Tensor) -> Tensor:
        law = limited_sweep(IncrementalLQR(*given[:6]), *given[6:])
        return law.feedforward.square().sum() + law.gains.sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=1))(*tensors)
    leaf = tensors[1].clone().requires_grad_()
    total = loss(tensors[0], leaf, *tensors[2:])
    (expected,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(mapped, expected)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("limit", [0.05, 0.3, 3.0])  # all steps are limited, some, none
def test_looking_at_numbers_changes_nothing(limit: float, width: int) -> None:
    problem = increments((5,), 10, 4, width, seed=9)
    given = (packed(problem), *bounds(problem, limit), undamped(problem))
    looked, blind = limited_sweep(*given, look=True), limited_sweep(*given)
    # the same laws, but sums are taken in another order where no action is limited
    for got, wanted in zip(looked, blind, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [1, 3])
def test_elements_that_need_no_law_are_left_out(width: int) -> None:
    problem = increments((2, 3), 10, 4, width, seed=13)
    given = (packed(problem), *bounds(problem, 0.3), undamped(problem))
    wanted = torch.tensor([[True, False, True], [False, False, True]])
    leaf = given[0].gradient.clone().requires_grad_()
    every = (given[0]._replace(gradient=leaf), *given[1:])
    whole = limited_sweep(*every)
    chosen = limited_sweep(*every, look=True, wanted=wanted)
    for got, all_of_it in zip(chosen, whole, strict=True):
        torch.testing.assert_close(got[wanted], all_of_it[wanted])
        assert not got[~wanted].any()
    slopes = [
        torch.autograd.grad(law.feedforward[wanted].sin().sum(), leaf)[0]
        for law in (chosen, whole)
    ]
    torch.testing.assert_close(*slopes)


def test_matrices_that_are_one_for_all() -> None:
    problem = increments((3,), 5, 4, 2, seed=10)
    results = []
    for expanded in (True, False):
        given = (problem.action_jacobian[0, 0], problem.state_jacobian[0, 0])
        leaves = [matrix.clone().requires_grad_() for matrix in given]
        many = [leaf.expand(3, 5, *leaf.shape) for leaf in leaves]
        if not expanded:
            many = [matrix.contiguous() for matrix in many]
        forms = packed(problem)._replace(
            action_jacobian=many[0], state_jacobian=many[1]
        )
        law = limited_sweep(forms, *bounds(problem, 0.4), undamped(problem))
        loss = law.feedforward.square().sum() + law.gains.sum()
        results.append((law.gains, *torch.autograd.grad(loss, leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_decrease_is_what_the_law_takes_off_the_model() -> None:
    problem = increments((4,), 6, 3, 2, seed=11)
    for limit, exact in ((1e6, True), (0.1, False)):
        given = (packed(problem), *bounds(problem, limit))
        law = limited_sweep(*given, undamped(problem))
        moves = limited_rollout(given[0], law, *given[1:])
        states = [torch.zeros_like(problem.initial_state)]
        for t in range(6):
            pushed = problem.action_jacobian[:, t] @ moves[:, t, :, None]
            carried = problem.state_jacobian[:, t] @ states[-1][..., None]
            states.append((pushed + carried).squeeze(-1))
        drop = -lqr_cost(problem, torch.stack(states, 1), moves)
        if exact:
            torch.testing.assert_close(law.decrease, drop)
        assert (law.decrease > 0).all()
        assert (law.decrease <= drop * (1 + 1e-9)).all()


def test_costates_and_slope_are_derivatives_of_the_cost() -> None:
    problem = increments((3,), 5, 4, 2, seed=12)
    given = packed(problem)
    actions = torch.zeros_like(problem.action_linear).requires_grad_()
    pushes = torch.zeros_like(problem.offset).requires_grad_()
    states = [problem.initial_state]
    for t in range(5):
        pushed = problem.action_jacobian[:, t] @ actions[:, t, :, None]
        carried = problem.state_jacobian[:, t] @ states[-1][..., None]
        states.append((pushed + carried).squeeze(-1) + pushes[:, t])
    cost = lqr_cost(problem, torch.stack(states, 1), actions).sum()
    slope, costates = torch.autograd.grad(cost, (actions, pushes))
    torch.testing.assert_close(given.costates(), costates)
    torch.testing.assert_close(given.slope(given.costates()), slope)
