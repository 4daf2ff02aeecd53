"""Rollouts against an explicit loop and a matrix power."""

import pytest
import torch
from torch import Tensor

from diffplan.functional import rollout

A = torch.tensor([[1.0, 0.1], [-0.2, 0.9]], dtype=torch.float64)
B = torch.tensor([[0.0], [0.5]], dtype=torch.float64)


def dynamics(state: Tensor, action: Tensor) -> Tensor:
    return state @ A.mT + action @ B.mT


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_states_follow_the_dynamics(lead: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(*lead, 2, generator=generator, dtype=torch.float64)
    actions = torch.randn(*lead, 4, 1, generator=generator, dtype=torch.float64)
    states = rollout(dynamics, state, actions)
    assert states.shape == (*lead, 5, 2)
    assert torch.equal(states[..., 0, :], state)
    for step in range(4):
        expected = dynamics(states[..., step, :], actions[..., step, :])
        assert torch.equal(states[..., step + 1, :], expected)


def test_the_last_state_is_a_convolution_with_matrix_powers() -> None:
    state = torch.tensor([1.0, -1.0], dtype=torch.float64)
    actions = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(6, 1)
    last = rollout(dynamics, state, actions)[-1]
    power = torch.linalg.matrix_power
    expected = power(A, 6) @ state
    for step in range(6):
        expected = expected + power(A, 5 - step) @ B @ actions[step]
    torch.testing.assert_close(last, expected)


def test_the_gradient_to_early_actions_passes_all_steps() -> None:
    actions = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    state = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, u: rollout(dynamics, x, u).sin(), (state, actions)
    )
