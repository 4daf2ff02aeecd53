"""Conjugate gradients at scales whose squares leave float32, against dense solves."""

import pytest
import torch

from diffplan.functional._conjugate_gradients import conjugate_gradients


@pytest.mark.parametrize(
    ("scale", "stiffness"),
    [(1.0, 1.0), (1e-22, 1.0), (1e-23, 1.0), (1e-30, 1.0), (1e20, 1e20), (1e30, 1.0)],
)
def test_no_scale_matters(scale: float, stiffness: float) -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    rhs = torch.tensor([[1.0, 5.0], [0.0, 0.0]])
    found = conjugate_gradients(
        lambda v: stiffness * (v @ matrix),
        scale * rhs,
        lambda v: v / stiffness,
        iterations=20,
        tolerance=1e-6,
    )
    expected = torch.linalg.solve(matrix.double(), rhs.double().mT).mT
    expected = expected * (scale / stiffness)
    assert found.converged.all()
    torch.testing.assert_close(found.solution.double(), expected, rtol=1e-5, atol=0.0)


def test_what_is_not_finite_is_reported() -> None:
    rhs = torch.tensor([[1.0, 2.0], [torch.inf, 1.0], [torch.nan, 1.0]])
    found = conjugate_gradients(
        lambda v: 2 * v, rhs, lambda v: v, iterations=5, tolerance=1e-6
    )
    assert found.converged.tolist() == [True, False, False]
    torch.testing.assert_close(found.solution[0], torch.tensor([0.5, 1.0]))
