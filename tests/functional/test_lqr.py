"""The regulator against dense systems, cvxpy, the Riccati equation and differences."""

import pytest
import scipy.linalg
import torch
from lqr_problems import cvxpy_lqr, dense_lqr, element, lqr_cost, random_lqr
from problems import same_to_rounding
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from diffplan.errors import ShapeError
from diffplan.functional import LQRProblem, lqr, lqr_factorize

SHAPES = [
    # horizon, state, action
    (1, 1, 1),
    (1, 3, 2),
    (2, 1, 3),
    (7, 4, 1),
    (20, 10, 4),
    (50, 5, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_dense_solve(shape: tuple[int, int, int]) -> None:
    problem = random_lqr((2,), *shape, seed=1)
    solution = lqr(problem)
    assert solution.ok.all()
    for index in range(2):
        expected = dense_lqr(element(problem, index))
        for got, wanted in zip(solution[:3], expected, strict=True):
            torch.testing.assert_close(got[index], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 3, 1), (12, 6, 3)], ids=str)
def test_equals_cvxpy(shape: tuple[int, int, int]) -> None:
    pytest.importorskip("cvxpy")
    problem = random_lqr((), *shape, seed=2)
    states, actions = cvxpy_lqr(problem)
    solution = lqr(problem)
    torch.testing.assert_close(solution.states, states, rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.actions, actions, rtol=0, atol=1e-6)


def test_any_leading_dimensions_which_broadcast() -> None:
    problem = random_lqr((2, 3), 4, 3, 2, seed=3)
    solution = lqr(problem)
    assert solution.states.shape == (2, 3, 5, 3)
    assert solution.gains.shape == (2, 3, 4, 2, 3)
    assert solution.ok.shape == (2, 3)
    # one problem for six initial states
    shared = element(problem, (1, 2))._replace(initial_state=problem.initial_state)
    for got, wanted in zip(lqr(shared), lqr(element(problem, (1, 2))), strict=True):
        torch.testing.assert_close(got[1, 2], wanted)
    assert lqr(shared).actions.shape == (2, 3, 4, 2)


def test_only_the_symmetric_part_of_a_cost_counts() -> None:
    problem = random_lqr((2,), 4, 3, 2, seed=4)
    twist = torch.randn(3, 3, dtype=torch.float64)
    twisted = problem._replace(state_cost=problem.state_cost + (twist - twist.mT))
    for got, wanted in zip(lqr(twisted), lqr(problem), strict=True):
        torch.testing.assert_close(got, wanted)


def test_costates_are_the_price_of_the_offsets() -> None:
    problem = random_lqr((3,), 6, 4, 2, seed=5)
    offset = problem.offset.clone().requires_grad_()
    solution = lqr(problem._replace(offset=offset))
    cost = lqr_cost(problem, solution.states, solution.actions)
    (price,) = torch.autograd.grad(cost.sum(), offset)
    torch.testing.assert_close(solution.costates.detach(), price)


def test_gains_answer_to_a_deviation_at_any_step() -> None:
    problem = random_lqr((), 6, 4, 2, seed=6)
    solution = lqr(problem)
    for step in (0, 3):
        deviation = torch.randn(4, dtype=torch.float64)
        start = solution.states[step] + deviation
        other = lqr(LQRProblem(*(tensor[step:] for tensor in problem[:-1]), start))
        expected = solution.actions[step] + solution.gains[step] @ deviation
        torch.testing.assert_close(other.actions[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_horizons_of_unstable_systems_reach_the_riccati_equation(
    dtype: torch.dtype,
) -> None:
    # Rounding grows by the closed loop only: the open loop would make it 1e35.
    generator = torch.Generator().manual_seed(7)
    size, width, horizon = 6, 2, 200
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    jacobian = 1.5 * drawn / torch.linalg.eigvals(drawn).abs().max()
    control = torch.randn(size, width, generator=generator, dtype=torch.float64)
    value = scipy.linalg.solve_discrete_are(
        jacobian.numpy(), control.numpy(), torch.eye(size), torch.eye(width)
    )
    value = torch.as_tensor(value)
    inner = torch.eye(width) + control.mT @ value @ control
    expected = -torch.linalg.solve(inner, control.mT @ value @ jacobian)

    def each(matrix: Tensor, steps: int = horizon) -> Tensor:
        return matrix.to(dtype).expand(steps, *matrix.shape)

    problem = LQRProblem(
        state_cost=each(torch.eye(size), horizon + 1),
        action_cost=each(torch.eye(width)),
        cross_cost=each(torch.zeros(width, size)),
        state_linear=each(torch.zeros(size), horizon + 1),
        action_linear=each(torch.zeros(width)),
        state_jacobian=each(jacobian),
        action_jacobian=each(control),
        offset=each(torch.zeros(size)),
        initial_state=torch.ones(size, dtype=dtype),
    )
    solution = lqr(problem)
    assert solution.ok
    accuracy = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    error = (solution.gains[0].double() - expected).norm() / expected.norm()
    assert error < accuracy
    assert solution.states[-1].norm() < 1e-3


def test_a_factor_solves_with_other_vectors() -> None:
    problem, other = (random_lqr((2,), 5, 3, 2, seed=seed) for seed in (8, 9))
    vectors = {
        name: getattr(other, name)
        for name in ("state_linear", "action_linear", "offset", "initial_state")
    }
    got = lqr_factorize(problem).solve(**vectors)
    for one, wanted in zip(got, lqr(problem._replace(**vectors)), strict=True):
        same_to_rounding(one, wanted)


@pytest.mark.parametrize("width", [1, 2])
def test_derivatives_of_first_and_second_order(width: int) -> None:
    problem = random_lqr((2,), 2, 2, width, seed=10)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in problem)

    def solve(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(lqr(LQRProblem(*tensors))[:3])

    assert gradcheck(solve, leaves)
    # random projections see the same errors as all entries, which take 10 s
    assert gradgradcheck(solve, leaves, fast_mode=True)


def test_third_derivatives_are_those_of_the_dense_solve() -> None:
    problem = random_lqr((), 2, 2, 1, seed=11)

    def first_action(solve_dense: bool, scale: Tensor) -> Tensor:
        changed = problem._replace(state_jacobian=scale * problem.state_jacobian)
        if not solve_dense:
            return lqr(changed).actions[0, 0]
        return _dense_first_action(changed)

    derivatives = []
    for dense in (False, True):
        scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        value = first_action(dense, scale)
        for _ in range(3):
            (value,) = torch.autograd.grad(value, scale, create_graph=True)
        derivatives.append(value.detach())
    torch.testing.assert_close(derivatives[0], derivatives[1])


def _dense_first_action(problem: LQRProblem) -> Tensor:
    """u_0 of a problem with T = 2, A = 1 by eliminating the states in torch."""
    p = problem

    def cost(actions: Tensor) -> Tensor:
        x1 = p.state_jacobian[0] @ p.initial_state + p.action_jacobian[0] @ actions[:1]
        x1 = x1 + p.offset[0]
        x2 = p.state_jacobian[1] @ x1 + p.action_jacobian[1] @ actions[1:] + p.offset[1]
        states = torch.stack([p.initial_state, x1, x2])
        return lqr_cost(p, states, actions[:, None])

    origin = torch.zeros(2, dtype=torch.float64)
    slope = torch.func.grad(cost)
    return -torch.linalg.solve(torch.func.jacrev(slope)(origin), slope(origin))[0]


def test_only_what_is_asked_for_is_differentiated() -> None:
    problem = random_lqr((2,), 4, 3, 2, seed=12)
    leaf = problem.action_cost.clone().requires_grad_()
    everything = LQRProblem(*(tensor.clone().requires_grad_() for tensor in problem))
    (alone,) = torch.autograd.grad(
        lqr(problem._replace(action_cost=leaf)).states.square().sum(), leaf
    )
    (among,) = torch.autograd.grad(
        lqr(everything).states.square().sum(), everything.action_cost
    )
    same_to_rounding(alone, among)


def _break(problem: LQRProblem, how: str) -> LQRProblem:
    cost, jacobian = problem.action_cost.clone(), problem.state_jacobian.clone()
    if how == "indefinite":
        cost[1, 2] -= 1e3 * torch.eye(cost.shape[-1])
    elif how == "nan":
        jacobian[1, 2, 0, 0] = float("nan")
    else:
        jacobian[1] = 1e200
    return problem._replace(action_cost=cost, state_jacobian=jacobian)


@pytest.mark.parametrize("how", ["indefinite", "nan", "overflow"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_broken_element_fails_alone(how: str, width: int) -> None:
    problem = random_lqr((3,), 4, 5, width, seed=13)
    good = torch.tensor([0, 2])
    results = []
    for chosen, pick in ((_break(problem, how), slice(None)), (problem, good)):
        leaves = [tensor[pick].clone().requires_grad_() for tensor in chosen]
        solution = lqr(LQRProblem(*leaves))
        loss = solution.states.square().sum() + solution.actions.sum()
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
        results.append((solution, gradients, second))
    (solution, gradients, second), (expected, *expected_gradients) = results
    assert solution.ok.tolist() == [True, False, True]
    for tensor, wanted in zip(solution, expected, strict=True):
        same_to_rounding(tensor[good], wanted)
    for tensor in (*solution[:4], *gradients, *second):
        assert torch.equal(tensor[1], torch.zeros_like(tensor[1]))
    for found, wanted in zip((gradients, second), expected_gradients, strict=True):
        for tensor, reference in zip(found, wanted, strict=True):
            same_to_rounding(tensor[good], reference)


def test_vmap_equals_the_batch() -> None:
    problem = random_lqr((3,), 4, 3, 2, seed=14)

    def loss(*tensors: Tensor) -> Tensor:
        solution = lqr(LQRProblem(*tensors))
        return solution.states.square().sum() + solution.actions.sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=5))(*problem)
    leaf = problem.state_jacobian.clone().requires_grad_()
    total = loss(*problem._replace(state_jacobian=leaf))
    (expected,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(mapped, expected, rtol=1e-10, atol=1e-12)


def test_no_graph_without_gradients_and_inputs_untouched() -> None:
    problem = random_lqr((2,), 4, 3, 2, seed=15)
    copies = [tensor.clone() for tensor in problem]
    assert not any(tensor.requires_grad for tensor in lqr(problem))
    assert all(map(torch.equal, copies, problem))
    leaf = problem.offset.clone().requires_grad_()
    solution = lqr(problem._replace(offset=leaf))
    assert solution.actions.requires_grad
    assert not solution.gains.requires_grad


def test_sizes_that_disagree_are_named() -> None:
    problem = random_lqr((2,), 4, 3, 2, seed=16)
    with pytest.raises(ShapeError, match="cross_cost"):
        lqr(problem._replace(cross_cost=problem.cross_cost.mT))
    with pytest.raises(ShapeError, match="state_linear"):
        lqr(problem._replace(state_linear=problem.state_linear[:, 1:]))
    with pytest.raises(ShapeError, match="action_jacobian"):
        lqr(problem._replace(action_jacobian=torch.zeros(3, 2)))


def test_batches_may_be_empty() -> None:
    problem = random_lqr((), 3, 2, 2, seed=1)
    for shape in ((0, 2), (2, 0, 2)):
        solution = lqr(problem._replace(initial_state=torch.zeros(shape).double()))
        assert solution.actions.shape == (*shape[:-1], 3, 2)


def test_no_steps_are_refused() -> None:
    none = torch.zeros(0, 2, 2)
    problem = LQRProblem(
        none.new_zeros(1, 2, 2),
        none,
        none,
        none.new_zeros(1, 2),
        none[..., 0],
        none,
        none,
        none[..., 0],
        torch.zeros(2),
    )
    with pytest.raises(ShapeError, match="T must be at least 1"):
        lqr(problem)


def test_costs_near_the_end_of_the_range_are_fine() -> None:
    # a factor for all costs changes no action
    problem = LQRProblem(
        state_cost=torch.eye(20).expand(5, 20, 20),
        action_cost=torch.eye(1).expand(4, 1, 1),
        cross_cost=torch.zeros(4, 1, 20),
        state_linear=torch.zeros(5, 20),
        action_linear=torch.zeros(4, 1),
        state_jacobian=0.5 * torch.eye(20).expand(4, 20, 20),
        action_jacobian=0.1 * torch.ones(4, 20, 1),
        offset=torch.zeros(4, 20),
        initial_state=torch.ones(20),
    )
    huge = problem._replace(
        state_cost=5e36 * problem.state_cost, action_cost=5e36 * problem.action_cost
    )
    found, expected = lqr(huge), lqr(problem)
    assert found.ok
    assert expected.actions.any()
    torch.testing.assert_close(found.actions, expected.actions)
    torch.testing.assert_close(found.states, expected.states)
