"""Shapes and Jacobians of the feed-forward pieces."""

import pytest
import torch

from diffplan.errors import ArgumentError, UnknownNameError
from diffplan.models._networks import ACTIVATIONS, MLP, ConvDecoder, ConvEncoder


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_derivative_is_autograds_twice(name: str) -> None:
    value = torch.linspace(-3, 3, 40, dtype=torch.float64, requires_grad=True)
    function, derivative = ACTIVATIONS[name]
    (expected,) = torch.autograd.grad(
        function(value).sum(), value, create_graph=name != "linear"
    )
    torch.testing.assert_close(derivative(value), expected)
    if name in ("elu", "sigmoid", "tanh"):
        (second,) = torch.autograd.grad(expected.sum(), value, retain_graph=True)
        (own,) = torch.autograd.grad(derivative(value).sum(), value)
        torch.testing.assert_close(own, second)


def test_elu_derivative_does_not_overflow() -> None:
    value = torch.tensor([500.0, -500.0], requires_grad=True)
    slope = ACTIVATIONS["elu"].derivative(value)
    slope.sum().backward()
    assert slope.tolist() == [1.0, 0.0]
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("activations", [["tanh"], ["elu", "sigmoid", "linear"]])
def test_mlp_jacobian(
    activations: list[str], batch: tuple[int, ...], outputs: int | None
) -> None:
    sizes = [*[5, 7, 6][: len(activations)], 3]
    network = MLP(sizes, activations).double()
    value = torch.randn(*batch, 5, dtype=torch.float64)
    output, jacobian = network.linearize(value, outputs)
    flat = value.reshape(-1, 5)
    expected = torch.stack([torch.func.jacrev(network)(row) for row in flat])
    expected = expected.reshape(*batch, 3, 5)[..., :outputs, :]
    torch.testing.assert_close(output, network(value)[..., :outputs])
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-12)


def test_mlp_refuses_unfit_arguments() -> None:
    with pytest.raises(ArgumentError, match="activations: expected one name"):
        MLP([3, 4, 2], ["elu"])
    with pytest.raises(UnknownNameError, match="'eluu'; did you mean elu"):
        MLP([3, 4], ["eluu"])


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_convolutions_keep_leading_dimensions(batch: tuple[int, ...]) -> None:
    encoder, decoder = ConvEncoder(2, 64), ConvDecoder(7, 2)
    image = torch.randn(*batch, 3, 64, 64)
    feature = torch.randn(*batch, 7)
    assert encoder(image).shape == (*batch, 64)
    assert decoder(feature).shape == (*batch, 3, 64, 64)
    last = (-1,) * len(batch)
    single = encoder(image[last] if batch else image)
    torch.testing.assert_close(encoder(image)[last] if batch else single, single)
    single = decoder(feature[last] if batch else feature)
    torch.testing.assert_close(decoder(feature)[last] if batch else single, single)


def test_encoder_adds_a_layer_only_for_another_size() -> None:
    assert isinstance(ConvEncoder(2, 64).head, torch.nn.Identity)
    assert ConvEncoder(2, 10)(torch.zeros(4, 3, 64, 64)).shape == (4, 10)
