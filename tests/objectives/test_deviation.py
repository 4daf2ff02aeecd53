"""The deviation of an ensemble's heads: its value and three derivatives."""

import math

import numpy as np
import pytest
import torch

from diffplan.objectives import deviation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [0.0, 1e-30, 1e-21, 1e-13, 1e-6, 1.0])
def test_three_derivatives_of_a_deviation_are_finite(
    apart: float, dtype: torch.dtype
) -> None:
    # iLQR asks for two, and its own gradient for the third.
    heads = torch.tensor([0.0, apart, 3 * apart], dtype=dtype, requires_grad=True)
    found = deviation(heads)
    assert found.item() == pytest.approx(apart * math.sqrt(14) / 3, rel=1e-5, abs=1e-12)
    weight = torch.tensor([0.3, -0.7, 1.1], dtype=dtype)
    for _ in range(3):
        (slope,) = torch.autograd.grad(found, heads, create_graph=True)
        assert torch.isfinite(slope).all()
        found = (weight * slope).sum()


def test_derivatives_of_a_deviation_are_those_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    heads.requires_grad_()
    assert torch.autograd.gradcheck(deviation, heads)
    assert torch.autograd.gradgradcheck(deviation, heads)
    expected = heads.detach().numpy().std(axis=-1)
    np.testing.assert_allclose(deviation(heads).detach().numpy(), expected, rtol=1e-14)
