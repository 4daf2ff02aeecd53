"""Block-tridiagonal Cholesky and the normal equations against dense oracles."""

import pytest
import torch
from chain_problems import (
    dense_step,
    normal_equations_step,
    random_chain,
    relative_error,
)
from problems import same_to_rounding
from torch.autograd import gradcheck, gradgradcheck

from diffplan.errors import ShapeError
from diffplan.functional._chain import ChainRightHandSide, ChainSystem
from diffplan.functional.block_tridiagonal import (
    BlockTridiagonal,
    normal_equations_factorize,
)

SHAPES = [
    # batch, horizon, state, action, stage residuals, terminal residuals
    (1, 1, 1, 1, 1, 1),
    (8, 2, 2, 1, 1, 1),
    (3, 3, 5, 2, 2, 3),
    (2, 10, 30, 4, 1, 1),
    (2, 100, 5, 2, 0, 1),
    (1, 30, 30, 4, 1, 0),
    (1, 100, 20, 3, 1, 1),
    (2, 10, 94, 4, 1, 1),
    (1, 10, 230, 4, 1, 1),
]


def random_matrix(
    batch: tuple[int, ...], blocks: int, size: int, seed: int
) -> BlockTridiagonal:
    """Draw C C' of a random bidiagonal C, positive definite by construction."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, blocks, size, size)
    here = torch.randn(shape, generator=generator, dtype=torch.float64).tril()
    here = here / size**0.5
    here.diagonal(dim1=-2, dim2=-1).abs_().add_(1.0)
    below = torch.randn(shape, generator=generator, dtype=torch.float64)[..., 1:, :, :]
    below = 0.5 * below / size**0.5
    diagonal = here @ here.mT
    diagonal[..., 1:, :, :] += below @ below.mT
    return BlockTridiagonal(diagonal, below @ here[..., :-1, :, :].mT)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
@pytest.mark.parametrize(("blocks", "size"), [(1, 1), (1, 3), (2, 2), (7, 4), (30, 8)])
def test_matrix_and_solve_equal_dense(
    batch: tuple[int, ...], blocks: int, size: int
) -> None:
    matrix = random_matrix(batch, blocks, size, seed=1)
    dense = matrix.to_dense()
    same_to_rounding(dense, dense.mT)
    generator = torch.Generator().manual_seed(2)
    b = torch.randn(*batch, blocks, size, generator=generator, dtype=torch.float64)
    flat = b.flatten(-2)[..., None]
    product = matrix.matvec(b).flatten(-2)
    torch.testing.assert_close(product, (dense @ flat)[..., 0], rtol=1e-12, atol=1e-12)
    factor = matrix.cholesky()
    assert factor.ok.shape == batch
    assert factor.ok.all()
    x = factor.solve(b)
    # backward error: what the solve leaves, against the matrix times the solution
    left = (matrix.matvec(x) - b).norm() / (torch.linalg.norm(dense) * x.norm())
    assert left < 1e-15 * blocks * size


def test_dense_matrix_has_its_blocks_in_place() -> None:
    matrix = BlockTridiagonal(
        torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), torch.tensor([[[4.0]], [[5.0]]])
    )
    expected = torch.tensor([[1.0, 4.0, 0.0], [4.0, 2.0, 5.0], [0.0, 5.0, 3.0]])
    assert torch.equal(matrix.to_dense(), expected)


def test_derivatives_of_the_solve() -> None:
    matrix = random_matrix((2,), 3, 2, seed=3)
    b = torch.randn(2, 3, 2, dtype=torch.float64)
    inputs = tuple(
        tensor.clone().requires_grad_() for tensor in (matrix.diagonal, matrix.lower, b)
    )

    def solve(
        diagonal: torch.Tensor, lower: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        # only symmetric perturbations are meant
        factor = BlockTridiagonal(0.5 * (diagonal + diagonal.mT), lower).cholesky()
        return factor.solve(b)

    assert gradcheck(solve, inputs)
    assert gradgradcheck(solve, inputs)


def test_wrong_blocks_are_refused() -> None:
    with pytest.raises(ShapeError, match="lower"):
        BlockTridiagonal(torch.zeros(3, 2, 2), torch.zeros(3, 2, 2))
    with pytest.raises(ShapeError, match="diagonal"):
        BlockTridiagonal(torch.zeros(3, 2, 4), torch.zeros(2, 2, 2))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_matrix_without_a_factor_fails_alone(value: float) -> None:
    matrix = random_matrix((3,), 4, 3, seed=4)
    diagonal = matrix.diagonal.clone()
    diagonal[1, 2, 0, 0] = value
    good = torch.tensor([0, 2])
    b = torch.randn(3, 4, 3, dtype=torch.float64)
    results = []
    for blocks, pick in ((diagonal, slice(None)), (matrix.diagonal, good)):
        leaves = [
            tensor[pick].clone().requires_grad_()
            for tensor in (blocks, matrix.lower, b)
        ]
        factor = BlockTridiagonal(*leaves[:2]).cholesky()
        x = factor.solve(leaves[2])
        gradients = torch.autograd.grad(x.square().sum(), leaves)
        results.append((factor.ok, (x, *gradients)))
    (ok, tensors), (_, expected) = results
    assert ok.tolist() == [True, False, True]
    for tensor, wanted in zip(tensors, expected, strict=True):
        assert torch.equal(tensor[1], torch.zeros_like(tensor[1]))
        same_to_rounding(tensor[good], wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normal_equations_equal_the_dense_solve(shape: tuple[int, ...]) -> None:
    batch, *sizes = shape
    system, rhs = random_chain((batch,), *sizes, seed=1)
    step = normal_equations_step(system, rhs)
    assert step.ok.all()
    assert relative_error(step, *dense_step(system, rhs)) < 1e-10


def test_float32_problem_is_factored_in_float64() -> None:
    system, rhs = random_chain((2,), 5, 6, 2, seed=5)
    single = ChainSystem(*(tensor.float() for tensor in system))
    single_rhs = ChainRightHandSide(*(tensor.float() for tensor in rhs))
    expected = normal_equations_step(
        single.to(torch.float64), ChainRightHandSide(*(t.double() for t in single_rhs))
    )
    step = normal_equations_step(single, single_rhs)
    assert step.states.dtype == torch.float32
    # to the last bit of float32 or the one before
    torch.testing.assert_close(
        step.states, expected.states.float(), rtol=2.5e-7, atol=1e-12
    )
    for dtype in (torch.float32, torch.float64):
        factor = normal_equations_factorize(single, dtype=dtype)
        assert {tensor.dtype for tensor in factor.tensors} == {dtype}


def test_costates_are_the_weighted_defects_after_the_step() -> None:
    system, rhs = random_chain((2,), 5, 4, 2, seed=6)
    step = normal_equations_step(system, rhs)
    before = torch.cat((torch.zeros_like(step.states[:, :1]), step.states[:, :-1]), 1)
    left = (
        step.states
        - torch.einsum("btij,btj->bti", system.state_jacobian, before)
        - torch.einsum("btij,btj->bti", system.action_jacobian, step.actions)
        + rhs.defect
    )
    expected = system.transition_weight[..., None] * left
    torch.testing.assert_close(step.costates, expected, rtol=1e-8, atol=1e-10)


def test_normal_equations_factor_solves_other_right_hand_sides() -> None:
    system, rhs = random_chain((2,), 5, 4, 2, seed=7)
    factor = normal_equations_factorize(system)
    states, actions = 2.0 * rhs.states, -rhs.actions
    other = ChainRightHandSide(torch.zeros_like(rhs.defect), states, actions)
    found = factor.solve(states, actions)
    assert relative_error(found, *dense_step(system, other)) < 1e-10


def test_derivatives_of_the_normal_equations_step() -> None:
    system, rhs = random_chain((2,), 2, 2, 1, seed=8)
    tensors = tuple(tensor.clone().requires_grad_() for tensor in (*system, *rhs))

    def solve(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        system, rhs = ChainSystem(*tensors[:8]), ChainRightHandSide(*tensors[8:])
        return tuple(normal_equations_step(system, rhs)[:3])

    assert gradcheck(solve, tensors)
    assert gradgradcheck(solve, tensors, fast_mode=True)


def test_an_infinite_solution_has_no_gradient() -> None:
    eye = 3 * torch.eye(2).expand(2, 3, 2, 2)
    b = torch.ones(2, 3, 2)
    b[1, 0, 0] = torch.inf
    b.requires_grad_()
    x = BlockTridiagonal(eye, torch.zeros(2, 2, 2, 2)).cholesky().solve(b)
    (gradient,) = torch.autograd.grad(x.sum(), b)
    torch.testing.assert_close(x[0], torch.full((3, 2), 1 / 3))
    torch.testing.assert_close(gradient[0], torch.full((3, 2), 1 / 3))
    assert not x[1].any()
    assert not gradient[1].any()
