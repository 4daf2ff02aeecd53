"""Box programs against all active sets, scipy, and finite differences."""

from itertools import product

import pytest
import torch
from problems import same_to_rounding
from scipy.optimize import lsq_linear
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional import box_qp

Program = tuple[Tensor, Tensor, Tensor, Tensor]


def random_programs(
    count: int, size: int, seed: int, *, conditioning: float = 1e-3
) -> Program:
    """Programs whose bounds hold many of the variables; some are ill-conditioned."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root = draw(count, size, size)
    hessian = root @ root.mT + conditioning * torch.eye(size, dtype=torch.float64)
    low, high = -draw(count, size).abs(), draw(count, size).abs()
    return hessian, 3 * draw(count, size), low, high


def value(program: Program, point: Tensor) -> Tensor:
    hessian, linear = program[:2]
    return (0.5 * (hessian @ point[..., None])[..., 0] * point + linear * point).sum(-1)


def by_all_active_sets(program: Program) -> Tensor:
    """The best of the minimisers over every choice of free and held variables."""
    hessian, linear, low, high = program
    count, size = linear.shape
    best, least = low, torch.full((count,), torch.inf, dtype=torch.float64)
    for choice in product((0, 1, 2), repeat=size):
        side = torch.tensor(choice)
        free = side == 0
        point = torch.where(side == 1, low, high)
        point[:, free] = 0
        if free.any():
            right = -(linear + (hessian @ point[..., None])[..., 0])[:, free]
            inner = hessian[:, free][:, :, free]
            point[:, free] = torch.linalg.solve(inner, right)
        inside = ((point >= low - 1e-12) & (point <= high + 1e-12)).all(-1)
        better = inside & (value(program, point) < least)
        best = torch.where(better[:, None], point, best)
        least = torch.where(better, value(program, point), least)
    return best


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_equals_the_best_of_all_active_sets(size: int) -> None:
    program = random_programs(300, size, seed=size)
    found = box_qp(*program)
    assert found.ok.all()
    assert found.converged.all()
    assert (~found.free).any()
    expected = by_all_active_sets(program)
    torch.testing.assert_close(found.solution, expected, rtol=0, atol=1e-8)


def test_equals_scipy_with_more_variables() -> None:
    hessian, linear, low, high = random_programs(20, 7, seed=9, conditioning=0.1)
    found = box_qp(hessian, linear, low, high)
    assert found.converged.all()
    for index in range(20):
        root = torch.linalg.cholesky(hessian[index])
        right = -torch.linalg.solve_triangular(
            root, linear[index, :, None], upper=False
        )
        expected = lsq_linear(
            root.mT.numpy(),
            right[:, 0].numpy(),
            (low[index].numpy(), high[index].numpy()),
            method="bvls",
            tol=1e-14,
        ).x
        torch.testing.assert_close(
            found.solution[index], torch.as_tensor(expected), rtol=0, atol=1e-9
        )


def test_few_iterations_find_the_held_variables() -> None:
    # Of nearly singular programs too, where a step along fixed fractions gets stuck.
    for size in (2, 4, 8):
        program = random_programs(1000, size, seed=20 + size, conditioning=1e-6)
        assert box_qp(*program, iterations=size // 2 + 5).converged.all()


def test_convergence_is_reported() -> None:
    program = random_programs(200, 4, seed=30)
    few = box_qp(*program, iterations=1)
    assert not few.converged.all()
    assert few.ok.all()
    low, high = program[2:]
    assert ((few.solution >= low) & (few.solution <= high)).all()
    expected = by_all_active_sets(program)
    error = (few.solution - expected).abs().amax(-1)
    wrong = error > 1e-8
    assert wrong.any()
    assert not few.converged[wrong].any()


def test_a_start_at_the_solution_is_enough() -> None:
    program = random_programs(200, 4, seed=31)
    solution = box_qp(*program).solution
    again = box_qp(*program, start=solution, iterations=0)
    assert again.converged.all()
    torch.testing.assert_close(again.solution, solution)


def test_open_sides_and_pinned_variables() -> None:
    hessian, linear, low, high = random_programs(50, 3, seed=32)
    low[:, 0], high[:, 0] = -torch.inf, torch.inf
    low[:, 1], high[:, 1] = 0.3, 0.3
    found = box_qp(hessian, linear, low, high)
    assert found.converged.all()
    assert (found.solution[:, 1] == 0.3).all()
    assert found.free[:, 0].all()
    assert not found.free[:, 1].any()
    bounded = low.clamp_min(-1e6), high.clamp_max(1e6)
    expected = by_all_active_sets((hessian, linear, *bounded))
    torch.testing.assert_close(found.solution, expected, rtol=0, atol=1e-8)


def test_leading_dimensions_broadcast() -> None:
    hessian, linear, low, high = random_programs(6, 3, seed=33)
    shared = hessian[0], linear.reshape(2, 3, 3), low[0], high[0]
    found = box_qp(*shared)
    assert found.solution.shape == (2, 3, 3)
    assert found.ok.shape == (2, 3)
    single = box_qp(hessian[0], linear[4], low[0], high[0])
    assert single.ok.shape == ()
    torch.testing.assert_close(found.solution[1, 1], single.solution)


@pytest.mark.parametrize("size", [1, 3])
def test_derivatives_of_first_and_second_order(size: int) -> None:
    program = random_programs(4, size, seed=34, conditioning=0.5)
    free = box_qp(*program).free
    assert free.any()
    assert not free.all()
    leaves = tuple(tensor.clone().requires_grad_() for tensor in program)

    def solve(*tensors: Tensor) -> Tensor:
        return box_qp(*tensors).solution

    assert gradcheck(solve, leaves)
    assert gradgradcheck(solve, leaves, fast_mode=True)


@pytest.mark.parametrize("how", ["indefinite", "nan", "slope"])
def test_a_broken_program_fails_alone(how: str) -> None:
    hessian, linear, low, high = random_programs(3, 3, seed=35)
    broken, spoilt = hessian.clone(), linear.clone()
    if how == "nan":
        broken[1] = float("nan")
    elif how == "slope":
        spoilt[1, 0] = float("inf")
    else:
        broken[1] -= 1e3 * torch.eye(3)
    good = torch.tensor([0, 2])
    results = []
    for program, pick in (((broken, spoilt), slice(None)), ((hessian, linear), good)):
        given = (*program, low, high)
        leaves = [tensor[pick].clone().requires_grad_() for tensor in given]
        found = box_qp(*leaves)
        gradients = torch.autograd.grad(found.solution.square().sum(), leaves)
        results.append((found, gradients))
    (found, gradients), (expected, wanted) = results
    assert found.ok.tolist() == [True, False, True]
    assert not found.converged[1]
    same_to_rounding(found.solution[good], expected.solution)
    assert torch.equal(
        found.solution[1], torch.zeros(3).clamp(low[1], high[1]).double()
    )
    for gradient, reference in zip(gradients, wanted, strict=True):
        same_to_rounding(gradient[good], reference)
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))


def test_vmap_equals_the_batch() -> None:
    program = random_programs(5, 3, seed=36)

    def loss(*tensors: Tensor) -> Tensor:
        return box_qp(*tensors).solution.square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss))(*program)
    leaf = program[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, *program[1:]), leaf)
    torch.testing.assert_close(mapped, expected)


def test_wrong_arguments_are_named() -> None:
    hessian, linear, low, high = random_programs(2, 3, seed=37)
    with pytest.raises(ShapeError, match="hessian"):
        box_qp(hessian[:, :2], linear, low, high)
    with pytest.raises(ShapeError, match="high"):
        box_qp(hessian, linear, low, high[:, :2])
    with pytest.raises(ArgumentError, match="iterations"):
        box_qp(hessian, linear, low, high, iterations=-1)


def test_a_box_without_points_is_reported() -> None:
    hessian = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    low = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, torch.nan]], dtype=torch.float64)
    high = torch.tensor([1.0, 0.5], dtype=torch.float64)
    found = box_qp(hessian, torch.ones(3, 2, dtype=torch.float64), low, high)
    assert found.ok.tolist() == [False, True, False]
    assert found.converged.tolist() == [False, True, False]


def test_a_newton_step_out_of_range_ends_at_the_bounds() -> None:
    # separable: each variable goes to the bound that its gradient pushes it to
    one = torch.ones(2)
    found = box_qp(1e-30 * torch.eye(2), torch.tensor([-1e30, 1.0]), -one, one)
    assert found.solution.tolist() == [1.0, -1.0]
    assert found.ok
    assert found.converged


def test_an_infinite_answer_is_reported_and_has_no_gradient() -> None:
    hessian = (1e-30 * torch.eye(2)).requires_grad_()
    linear = torch.tensor([-1e30, 1.0], requires_grad=True)
    low = torch.tensor([[-torch.inf, -torch.inf], [torch.inf, -1.0]])
    high = torch.tensor([[torch.inf, torch.inf], [torch.inf, 1.0]])
    found = box_qp(hessian, linear, low, high)
    assert found.ok.tolist() == [False, False]
    assert not found.solution.isnan().any()
    for gradient in torch.autograd.grad(found.solution.sum(), (hessian, linear)):
        assert not gradient.any()


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_a_start_that_is_not_finite_is_zero(strange: float) -> None:
    hessian = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    linear, high = torch.tensor([-0.5, 5.0]), torch.tensor([torch.inf, 1.0])
    found = box_qp(
        hessian, linear, -torch.ones(2), high, start=torch.tensor([strange, 0.0])
    )
    # the second is held at -1, and 2 x = 0.5 + 1
    torch.testing.assert_close(found.solution, torch.tensor([0.75, -1.0]))
    assert found.ok
    assert found.converged
