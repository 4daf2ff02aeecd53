"""The limited regulator against the free one, scipy, and finite differences."""

import pytest
import torch
from lqr_problems import element, lqr_cost, random_lqr
from scipy.optimize import minimize
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from diffplan.functional import (
    ExtendedLQR,
    LQRProblem,
    extend_dynamics,
    limited_rollout,
    limited_sweep,
    lqr,
)


def increments(batch: tuple[int, ...], *sizes: int, seed: int) -> LQRProblem:
    """A problem about a rollout: no offsets, and the first state does not move."""
    problem = random_lqr(batch, *sizes, seed=seed)
    return problem._replace(
        offset=torch.zeros_like(problem.offset),
        initial_state=torch.zeros_like(problem.initial_state),
    )


def extended(problem: LQRProblem) -> ExtendedLQR:
    """The same as quadratic forms of (du, dx, 1)."""
    linear = problem.state_linear.unsqueeze(-1)
    push = problem.action_linear.unsqueeze(-1)
    cross = problem.cross_cost
    state_cost, end = (
        problem.state_cost[..., :-1, :, :],
        problem.state_cost[..., -1, :, :],
    )
    corner = torch.zeros_like(push[..., :1, :])
    rows = (
        (problem.action_cost, cross, push),
        (cross.mT, state_cost, linear[..., :-1, :, :]),
        (push.mT, linear[..., :-1, :, :].mT, corner),
    )
    last = linear[..., -1, :, :]
    ends = ((end, last), (last.mT, corner[..., 0, :, :]))
    return ExtendedLQR(
        extend_dynamics(problem.action_jacobian, problem.state_jacobian),
        torch.cat([torch.cat(row, -1) for row in rows], -2),
        torch.cat([torch.cat(row, -1) for row in ends], -2),
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
    law = limited_sweep(extended(problem), *wide, undamped(problem))
    expected = lqr(problem)
    assert law.ok.shape == (2, 3)
    assert law.ok.all()
    torch.testing.assert_close(law.gains, expected.gains)
    moves = limited_rollout(extended(problem), law, *wide)
    torch.testing.assert_close(moves, expected.actions)
    torch.testing.assert_close(law.feedforward[..., 0, :], expected.actions[..., 0, :])


def test_extended_problems_unpack() -> None:
    problem = increments((2,), 5, 4, 2, seed=2)
    for got, wanted in zip(extended(problem).unpacked(), problem, strict=True):
        assert torch.equal(got, wanted)


def test_damping_is_a_cost_of_the_increments() -> None:
    problem = increments((2,), 5, 4, 2, seed=3)
    damping = torch.tensor([0.3, 5.0], dtype=torch.float64)
    wide = bounds(problem, torch.inf)
    law = limited_sweep(extended(problem), *wide, damping)
    eye = torch.eye(2, dtype=torch.float64)
    damped = problem._replace(
        action_cost=problem.action_cost + damping[:, None, None, None] * eye
    )
    torch.testing.assert_close(law.gains, lqr(damped).gains)
    moves = limited_rollout(extended(problem), law, *wide)
    torch.testing.assert_close(moves, lqr(damped).actions)


@pytest.mark.parametrize("width", [1, 3])
def test_repeated_sweeps_end_in_the_bounded_optimum(width: int) -> None:
    problem = increments((2,), 6, 3, width, seed=4)
    limit, actions = 0.4, torch.zeros_like(problem.action_linear)
    for _ in range(12):
        moved = about(problem, actions)
        low, high = -limit - actions, limit - actions
        law = limited_sweep(extended(moved), low, high, undamped(problem))
        assert ((law.feedforward >= low) & (law.feedforward <= high)).all()
        actions = actions + limited_rollout(extended(moved), law, low, high)
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


@pytest.mark.parametrize("width", [1, 2])
def test_derivatives_of_first_and_second_order(width: int) -> None:
    problem = increments((2,), 2, 2, width, seed=5)
    forms, (low, high) = extended(problem), bounds(problem, 0.4)
    damping = torch.full((2,), 0.2, dtype=torch.float64)
    law = limited_sweep(forms, low, high, damping)
    held = (law.gains == 0).all(-1)
    assert held.any()
    assert not held.all()
    jacobians = (problem.action_jacobian, problem.state_jacobian)
    given = (*jacobians, *forms[1:], low, high, damping)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in given)

    def sweep(*tensors: Tensor) -> tuple[Tensor, ...]:
        *jacobians, costs, end, low, high, damping = tensors
        others = (low, high, damping)
        # quadratic forms are symmetric, and stay so while single entries are moved
        forms = ((costs + costs.mT) / 2, (end + end.mT) / 2)
        given = ExtendedLQR(extend_dynamics(*jacobians), *forms)
        law = limited_sweep(given, *others)
        moves = limited_rollout(given, law, *others[:2])
        return law.feedforward, law.gains, law.slope, moves

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
        forms = extended(problem._replace(action_cost=cost))
        tensors = (*forms, low, high, undamped(problem))
        leaves = [tensor[pick].clone().requires_grad_() for tensor in tensors]
        law = limited_sweep(ExtendedLQR(*leaves[:3]), *leaves[3:])
        loss = law.feedforward.square().sum() + law.gains.sum()
        results.append((law, torch.autograd.grad(loss, leaves)))
    (law, gradients), (expected, wanted) = results
    assert law.ok.tolist() == [True, False, True]
    for tensor, reference in zip(law, expected, strict=True):
        assert torch.equal(tensor[good], reference)
        assert torch.equal(tensor[1], torch.zeros_like(tensor[1]))
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert torch.equal(gradient[good], reference)
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))


def test_with_a_graph_it_finds_the_same() -> None:
    problem = increments((4,), 8, 3, 3, seed=7)
    forms, limits = extended(problem), bounds(problem, 0.3)
    plain = limited_sweep(forms, *limits, undamped(problem))
    leaf = forms.costs.clone().requires_grad_()
    tracked = limited_sweep(forms._replace(costs=leaf), *limits, undamped(problem))
    for got, wanted in zip(tracked, plain, strict=True):
        assert torch.equal(got, wanted)


def test_vmap_equals_the_batch() -> None:
    problem = increments((3,), 4, 3, 2, seed=8)
    low, high = bounds(problem, 0.5)
    tensors = (*extended(problem), low, high, undamped(problem))

    def loss(*given: Tensor) -> Tensor:
        law = limited_sweep(ExtendedLQR(*given[:3]), *given[3:])
        return law.feedforward.square().sum() + law.gains.sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=1))(*tensors)
    leaf = tensors[1].clone().requires_grad_()
    total = loss(tensors[0], leaf, *tensors[2:])
    (expected,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(mapped, expected)
