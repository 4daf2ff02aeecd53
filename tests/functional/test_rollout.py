"""Rollouts against an explicit loop and a matrix power, and computed again."""

import pytest
import torch
from torch import Tensor, nn

from diffplan.functional import rollout
from diffplan.functional._rollout import recomputed

A = torch.tensor([[1.0, 0.1], [-0.2, 0.9]], dtype=torch.float64)
B = torch.tensor([[0.0], [0.5]], dtype=torch.float64)

each_segment = pytest.mark.parametrize("segment", [None, 1, 2, 5, 9])


def dynamics(state: Tensor, action: Tensor) -> Tensor:
    return state @ A.mT + action @ B.mT


class Network(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=torch.float64)
        self.calls = 0

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(torch.cat([state, action], dim=-1)).tanh()


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@each_segment
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_states_follow_the_dynamics(lead: tuple[int, ...], segment: int | None) -> None:
    state, actions = draw(*lead, 2), draw(*lead, 5, 1)
    states = rollout(dynamics, state, actions, segment)
    assert states.shape == (*lead, 6, 2)
    assert torch.equal(states[..., 0, :], state)
    for step in range(5):
        expected = dynamics(states[..., step, :], actions[..., step, :])
        assert torch.equal(states[..., step + 1, :], expected)


def test_no_actions_leave_the_given_state() -> None:
    state = draw(3, 2)
    assert torch.equal(rollout(dynamics, state, draw(3, 0, 1)), state[:, None])


def test_the_last_state_is_a_convolution_with_matrix_powers() -> None:
    state = torch.tensor([1.0, -1.0], dtype=torch.float64)
    actions = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(6, 1)
    last = rollout(dynamics, state, actions)[-1]
    power = torch.linalg.matrix_power
    expected = power(A, 6) @ state
    for step in range(6):
        expected = expected + power(A, 5 - step) @ B @ actions[step]
    torch.testing.assert_close(last, expected)


@each_segment
def test_the_gradient_to_early_actions_passes_all_steps(segment: int | None) -> None:
    actions, state = draw(5, 1).requires_grad_(), draw(2).requires_grad_()
    network = Network()

    def states(x: Tensor, u: Tensor, *_: Tensor) -> Tensor:
        return rollout(network, x, u, segment).sin()

    # The parameters reach the rollout through the network, which gradcheck shifts.
    inputs = (state, actions, *network.parameters())
    assert torch.autograd.gradcheck(states, inputs)
    assert torch.autograd.gradgradcheck(states, inputs)


def test_backward_computes_segments_again_and_only_then() -> None:
    network, state, actions = Network(), draw(2), draw(6, 1)
    states = rollout(network, state, actions, segment=3)
    assert network.calls == 6
    states.sum().backward()
    # The last step of a segment need not be repeated: its result is not needed.
    assert 6 + 4 <= network.calls <= 6 + 6
    with torch.no_grad():
        network.calls = 0
        rollout(network, state, actions, segment=3)
    assert network.calls == 6


def test_transforms_of_torch_func_keep_everything() -> None:
    # torch.utils.checkpoint fails inside them: it needs hooks that they lack.
    network, state, actions = Network(), draw(4, 2), draw(4, 6, 1)

    def cost(given: Tensor) -> Tensor:
        return rollout(network, state, given, segment=2).square().sum()

    (expected,) = torch.autograd.grad(cost(actions.requires_grad_()), actions)
    torch.testing.assert_close(torch.func.grad(cost)(actions.detach()), expected)
    mapped = torch.func.vmap(lambda x, u: rollout(network, x, u, segment=2))
    states = mapped(state, actions.detach())
    torch.testing.assert_close(states, rollout(network, state, actions))
    states.sum().backward()  # into the network, through the mapped rollout


def test_recomputed_returns_what_the_function_returns() -> None:
    value = draw(3).requires_grad_()
    pair = recomputed(lambda x: (x.sin(), {"cos": x.cos()}), value)
    assert torch.equal(pair[0], value.sin())
    (gradient,) = torch.autograd.grad((pair[0] + pair[1]["cos"]).sum(), value)
    torch.testing.assert_close(gradient, value.cos() - value.sin())
