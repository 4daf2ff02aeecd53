"""Minima and their derivatives: against dense linear algebra, scipy and differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize
from torch import Tensor

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    GradientError,
    NumericsWarning,
    UnsupportedGradientError,
)
from diffplan.functional._conjugate_gradients import conjugate_gradients
from diffplan.solvers._matrix_free import Minimization, differentiable
from diffplan.solvers._stationary import polish


def identity(_: Tensor) -> object:
    """No preconditioner."""
    return lambda vector: vector


def positive(batch: int, size: int, seed: int = 0) -> Tensor:
    """Random symmetric positive definite matrices `[batch, size, size]`."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(batch, size, size, dtype=torch.float64, generator=generator)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def vectors(batch: int, size: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, size, dtype=torch.float64, generator=generator)


def quadratic(
    matrix: Tensor, linear: Tensor, strategy: dp.Implicit, **bounds: Tensor
) -> Minimization:
    def cost(z: Tensor) -> Tensor:
        image = (matrix @ z[..., None]).squeeze(-1)
        return 0.5 * (z * image).sum(-1) - (z * linear).sum(-1)

    return Minimization(cost, identity, strategy, **bounds)


def test_conjugate_gradients_equal_the_dense_solve() -> None:
    matrix, rhs = positive(4, 6), vectors(4, 6)
    found = conjugate_gradients(
        lambda v: (matrix @ v[..., None]).squeeze(-1),
        rhs,
        lambda v: v,
        iterations=40,
        tolerance=1e-12,
    )
    assert found.converged.all()
    expected = torch.linalg.solve(matrix, rhs)
    torch.testing.assert_close(found.solution, expected, rtol=1e-9, atol=1e-9)


def test_the_inverse_as_preconditioner_needs_one_product() -> None:
    matrix, rhs = positive(3, 5), vectors(3, 5)
    found = conjugate_gradients(
        lambda v: (matrix @ v[..., None]).squeeze(-1),
        rhs,
        lambda v: torch.linalg.solve(matrix, v),
        iterations=40,
        tolerance=1e-9,
    )
    assert found.iterations <= 2


def test_negative_curvature_stops_its_element_only() -> None:
    matrix, rhs = positive(2, 4), vectors(2, 4)
    matrix[0, 0, 0] = -20.0
    found = conjugate_gradients(
        lambda v: (matrix @ v[..., None]).squeeze(-1),
        rhs,
        lambda v: v,
        iterations=40,
        tolerance=1e-12,
    )
    assert found.definite.tolist() == [False, True]
    assert found.converged.tolist() == [False, True]
    torch.testing.assert_close(
        found.solution[1], torch.linalg.solve(matrix[1], rhs[1]), rtol=1e-9, atol=1e-9
    )


def test_polishing_finds_the_minimum_that_scipy_finds() -> None:
    def cost(z: Tensor) -> Tensor:  # Rosenbrock's valley, from two sides
        return (1 - z[:, 0]) ** 2 + 20 * (z[:, 1] - z[:, 0] ** 2) ** 2

    start = torch.tensor([[0.5, 0.5], [-0.5, 1.0]], dtype=torch.float64)
    minimum = polish(Minimization(cost, identity, dp.Implicit(polish=50)), start)
    assert minimum.sound.all()
    for element, point in enumerate(start.numpy()):
        expected = minimize(
            lambda z: float(cost(torch.as_tensor(z)[None])), point, tol=1e-14
        ).x
        np.testing.assert_allclose(minimum.variables[element], expected, atol=1e-5)
    torch.testing.assert_close(
        minimum.variables, torch.ones_like(start), rtol=0, atol=1e-9
    )


def test_polishing_keeps_bounds_as_scipy_does() -> None:
    matrix, linear = positive(3, 5), 3 * vectors(3, 5)
    low, high = torch.full((5,), -0.2).double(), torch.full((5,), 0.3).double()
    problem = quadratic(matrix, linear, dp.Implicit(polish=60), low=low, high=high)
    minimum = polish(problem, torch.zeros_like(linear))
    assert minimum.stationary.all()
    for element in range(3):
        root = torch.linalg.cholesky(matrix[element]).mT
        target = torch.linalg.solve(root.mT, linear[element])
        expected = lsq_linear(root, target, bounds=(-0.2, 0.3), tol=1e-14).x
        np.testing.assert_allclose(minimum.variables[element], expected, atol=1e-8)


@pytest.mark.parametrize("bounded", [False, True])
def test_first_and_second_derivatives(bounded: bool) -> None:
    matrix, linear = positive(2, 3), vectors(2, 3)
    width = torch.tensor([0.05, 9.0, 9.0], dtype=torch.float64)

    def solution(root: Tensor, linear: Tensor, width: Tensor) -> Tensor:
        bounds = {"low": -width, "high": width} if bounded else {}
        problem = quadratic(root @ root.mT, linear, dp.Implicit(order=2), **bounds)
        minimum = polish(problem, torch.zeros_like(linear))
        return differentiable(problem, minimum)

    root = torch.linalg.cholesky(matrix).requires_grad_()
    inputs = (root, linear.requires_grad_(), width.requires_grad_())
    if not bounded:
        expected = torch.linalg.solve(root @ root.mT, linear)
        torch.testing.assert_close(solution(*inputs), expected, rtol=1e-8, atol=1e-8)
    assert torch.autograd.gradcheck(solution, inputs)
    assert torch.autograd.gradgradcheck(solution, inputs)


@pytest.mark.parametrize("power", [1, 2])
def test_second_derivatives_are_refused_where_they_were_not_asked_for(
    power: int,
) -> None:
    # also of a linear function of the solution, where only the Hessian has one
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    other = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def cost(z: Tensor) -> Tensor:
        return (z.square() * scale + 0.1 * z**4 - other * z).sum(-1)

    problem = Minimization(cost, identity, dp.Implicit())
    solution = differentiable(problem, polish(problem, torch.zeros(2, 3).double()))
    loss = (solution**power).sum()
    (slope,) = torch.autograd.grad(loss, scale, create_graph=True)
    for leaf in (scale, other):
        with pytest.raises(UnsupportedGradientError, match=r"Implicit\(order=2\)"):
            torch.autograd.grad(slope, leaf, retain_graph=True)
    with pytest.raises(UnsupportedGradientError, match=r"Implicit\(order=2\)"):
        slope.backward()


def saddle(strategy: dp.Implicit) -> tuple[Tensor, Tensor]:
    """A point that is no minimum for element 0, and the parameter it hangs on."""
    tilt = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)

    def cost(z: Tensor) -> Tensor:
        curvature = torch.tensor([[1.0, -1.0], [1.0, 2.0]], dtype=torch.float64)
        return (0.5 * curvature * z.square() - tilt * z).sum(-1)

    start = torch.tensor([[1.0, -1.0], [1.0, 0.5]], dtype=torch.float64)
    problem = Minimization(cost, identity, strategy)
    return differentiable(problem, polish(problem, start)), tilt


def test_a_saddle_is_refused_in_backward_by_name() -> None:
    point, _ = saddle(dp.Implicit(polish=0))
    with pytest.raises(GradientError, match=r"elements \[0\].*not positive definite"):
        point.sum().backward()


def test_a_saddle_gives_zero_and_a_warning_if_asked() -> None:
    point, tilt = saddle(dp.Implicit(polish=0, on_failure="zero"))
    with pytest.warns(NumericsWarning, match=r"elements \[0\]"):
        point.sum().backward()
    torch.testing.assert_close(
        tilt.grad, torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    )


def test_a_saddle_gives_nan_if_asked() -> None:
    point, tilt = saddle(dp.Implicit(polish=0, on_failure="nan"))
    point.sum().backward()
    assert tilt.grad.isnan().tolist() == [[True, True], [False, False]]


def test_elements_that_nobody_differentiates_are_not_refused() -> None:
    point, tilt = saddle(dp.Implicit(polish=0))
    point[1].sum().backward()
    torch.testing.assert_close(tilt.grad[1], tilt.new_tensor([1.0, 0.5]))


def test_a_point_that_is_not_stationary_is_reported() -> None:
    matrix, linear = positive(2, 3), vectors(2, 3)
    linear.requires_grad_()
    problem = quadratic(matrix, linear, dp.Implicit(polish=0))
    exact = torch.linalg.solve(matrix, linear.detach())
    start = torch.stack([exact[0], exact[1] + 0.1])
    minimum = polish(problem, start)
    assert minimum.stationary.tolist() == [True, False]
    assert minimum.stationarity[0] < 1e-12
    with pytest.raises(GradientError, match=r"elements \[1\]"):
        differentiable(problem, minimum).sum().backward()


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": 3},
        {"tolerance": 0.0},
        {"polish": -1},
        {"solver_iterations": 0},
        {"solver_tolerance": -1.0},
        {"on_failure": "ignore"},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        dp.Implicit(**wrong)
