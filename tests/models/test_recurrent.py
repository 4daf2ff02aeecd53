"""The hand-written GRU against torch's cell and against autograd."""

import pytest
import torch

from diffplan.models._recurrent import GRUCell


def test_equals_torch_cell_with_the_same_weights() -> None:
    reference = torch.nn.GRUCell(4, 6, dtype=torch.float64)
    cell = GRUCell(4, 6).double()
    cell.load_state_dict(reference.state_dict())
    value = torch.randn(9, 4, dtype=torch.float64)
    hidden = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(
        cell(value, hidden), reference(value, hidden), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_jacobian(batch: tuple[int, ...]) -> None:
    cell = GRUCell(4, 6).double()
    value = torch.randn(*batch, 4, dtype=torch.float64)
    hidden = torch.randn(*batch, 6, dtype=torch.float64)
    after, by_value, by_hidden = cell.linearize(value, hidden)
    jacobian = torch.func.jacrev(cell, argnums=(0, 1))
    for _ in batch:
        jacobian = torch.func.vmap(jacobian)
    expected = jacobian(value, hidden)
    torch.testing.assert_close(after, cell(value, hidden))
    torch.testing.assert_close(by_value, expected[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(by_hidden, expected[1], rtol=0, atol=1e-13)


def test_gradient_passes_through_the_jacobian() -> None:
    cell = GRUCell(2, 3).double()
    value = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cell.linearize, (value, hidden))
