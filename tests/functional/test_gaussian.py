"""Weighted means and standard deviations against numpy."""

import numpy as np
import pytest
import torch

from diffplan.functional._gaussian import weighted_mean, weighted_std
from diffplan.functional._safe_math import safe_sqrt


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_moments_equal_numpy_for_each_problem() -> None:
    candidates, weights = draw(2, 5, 4, 3), draw(2, 5).softmax(-1)
    mean = weighted_mean(candidates, weights)
    std = weighted_std(candidates, weights, mean, epsilon=1e-3)
    for index in range(2):
        values, w = candidates[index].numpy(), weights[index].numpy()
        expected = np.average(values, axis=0, weights=w)
        np.testing.assert_allclose(mean[index], expected, rtol=1e-12)
        variance = np.average((values - expected) ** 2, axis=0, weights=w)
        np.testing.assert_allclose(std[index], np.sqrt(variance + 1e-3), rtol=1e-12)


def test_the_spread_about_another_center_is_larger() -> None:
    candidates, weights = draw(5, 4, 3), draw(5).softmax(-1)
    mean = weighted_mean(candidates, weights)
    about_mean = weighted_std(candidates, weights, mean)
    about_other = weighted_std(candidates, weights, mean + 2.0)
    torch.testing.assert_close(about_other.square(), about_mean.square() + 4.0)


def test_gradients() -> None:
    candidates = draw(4, 2, 1).requires_grad_()
    weights = draw(4).softmax(-1).requires_grad_()

    def spread(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return weighted_std(x, w, weighted_mean(x, w))

    assert torch.autograd.gradcheck(spread, (candidates, weights))
    assert torch.autograd.gradgradcheck(spread, (candidates, weights))


@pytest.mark.parametrize("scale", [1e18, 1e21, 5e37])
def test_spreads_whose_square_overflows(scale: float) -> None:
    small, weights = draw(2, 5, 4, 3).clamp(-4, 4).float(), draw(2, 5).softmax(-1)
    weights[0, 0], small[1] = 0.0, small[1] / scale  # the second is of size one
    candidates = (scale * small).requires_grad_()
    weights = (weights / weights.sum(-1, keepdim=True)).float()
    center = weighted_mean(candidates, weights)
    std = weighted_std(candidates, weights, center, epsilon=1e-6)
    exact, share = candidates.detach().double().numpy(), weights.double().numpy()
    for index in range(2):
        mean = np.average(exact[index], axis=0, weights=share[index])
        square = (exact[index] - mean) ** 2
        variance = np.average(square, axis=0, weights=share[index])
        expected = torch.as_tensor(np.sqrt(variance + 1e-6)).float()
        torch.testing.assert_close(std[index], expected, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(std.sum(), candidates)
    same, weights = small.double().requires_grad_(), weights.double()
    unscaled = weighted_std(same, weights, weighted_mean(same, weights))
    (wanted,) = torch.autograd.grad(unscaled[0].sum(), same)
    torch.testing.assert_close(slope[0], wanted[0].float(), rtol=1e-4, atol=1e-5)


def test_a_collapsed_spread_has_gradient_zero_instead_of_nan() -> None:
    candidates = torch.ones(4, 2, 1, requires_grad=True)
    weights = torch.full((4,), 0.25)
    std = weighted_std(candidates, weights, torch.ones(2, 1))
    assert (std == 0).all()
    std.sum().backward()
    assert (candidates.grad == 0).all()


@pytest.mark.parametrize("value", [1e-30, 1e-6, 2.0, 1e30])
def test_safe_sqrt_is_sqrt_above_zero(value: float) -> None:
    at = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    root = safe_sqrt(at)
    assert root.item() == pytest.approx(value**0.5, rel=1e-15)
    root.backward()
    assert at.grad.item() == pytest.approx(0.5 / value**0.5, rel=1e-12)
