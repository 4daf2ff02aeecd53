"""Feed-forward pieces of world models; every one accepts any leading dimensions.

Dense pieces know their Jacobian: `linearize` costs a few matrix products, where
reverse-mode differentiation needs one backward pass per output.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffplan._checks import require_known
from diffplan.errors import ArgumentError

IMAGE_SHAPE = (3, 64, 64)

MOST_LAYERS = 1000
"""Hidden layers that a network may have: they are made one by one."""


class Activation(NamedTuple):
    """A scalar function and its derivative, both of the pre-activation."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


# Named functions, not lambdas: a model must be picklable.


def _elu_derivative(value: Tensor) -> Tensor:
    # exp(min(x, 0)) is 1 for x > 0, never overflows, and has the right derivative.
    return value.clamp(max=0).exp()


def _relu_derivative(value: Tensor) -> Tensor:
    return (value > 0).to(value.dtype)


def _tanh_derivative(value: Tensor) -> Tensor:
    return 1 - torch.tanh(value).square()


def _identity(value: Tensor) -> Tensor:
    return value


def _sigmoid_derivative(value: Tensor) -> Tensor:
    output = torch.sigmoid(value)
    return output * (1 - output)


ACTIVATIONS: dict[str, Activation] = {
    "elu": Activation(F.elu, _elu_derivative),
    "relu": Activation(F.relu, _relu_derivative),
    "sigmoid": Activation(torch.sigmoid, _sigmoid_derivative),
    "tanh": Activation(torch.tanh, _tanh_derivative),
    "linear": Activation(_identity, torch.ones_like),
}


def activation(name: str) -> Activation:
    """Return the activation called `name`.

    Raises:
        UnknownNameError: lists the names that exist.
    """
    return ACTIVATIONS[require_known("activation", name, ACTIVATIONS)]


class MLP(nn.Module):
    """Dense layers with an analytic Jacobian.

    Args:
        sizes: Width of the input, of each hidden layer and of the output.
        activations: Name of the activation after each layer, one less than `sizes`.

    Raises:
        ArgumentError: the two sequences do not fit.

    Example:
        >>> network = MLP([4, 32, 2], ["elu", "linear"])
        >>> output, jacobian = network.linearize(torch.zeros(7, 4))
        >>> jacobian.shape
        torch.Size([7, 2, 4])
    """

    def __init__(self, sizes: Sequence[int], activations: Sequence[str]) -> None:
        super().__init__()
        if len(sizes) < 2 or len(activations) != len(sizes) - 1:
            raise ArgumentError(
                "activations: expected one name for each of the "
                f"{len(sizes) - 1} layers, got {list(activations)}"
            )
        pairs = pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.activations = [activation(name) for name in activations]

    @classmethod
    def head(cls, sizes: Sequence[int], activation: str) -> "MLP":
        """Return layers with the same activation, but for a linear last one."""
        return cls(sizes, [activation] * (len(sizes) - 2) + ["linear"])

    def forward(self, value: Tensor) -> Tensor:
        """Outputs `[…, sizes[-1]]` of inputs `[…, sizes[0]]`."""
        for layer, act in zip(self.layers, self.activations, strict=True):
            value = act.function(layer(value))
        return value

    def linearize(
        self, value: Tensor, outputs: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """First `outputs` outputs (None: all) and their Jacobian, plain torch ops.

        The product W_L D_{L-1} W_{L-1} … D_1 W_1 is built from the left: each factor
        is then one matrix product with weights that all batch elements share.

        Args:
            value: `[…, I]`.
            outputs: How many leading outputs O are wanted.

        Returns:
            Outputs `[…, O]` and Jacobian `[…, O, I]`.
        """
        slopes = []
        layers = cast(list[nn.Linear], list(self.layers))
        for layer, act in zip(layers, self.activations, strict=True):
            before = layer(value)
            slopes.append(act.derivative(before))
            value = act.function(before)
        jacobian = layers[-1].weight[:outputs]
        jacobian = slopes[-1][..., :outputs].unsqueeze(-1) * jacobian
        for index in range(len(layers) - 2, -1, -1):
            scaled = jacobian * slopes[index].unsqueeze(-2)
            jacobian = scaled @ layers[index].weight
        return value[..., :outputs], jacobian


class ConvEncoder(nn.Module):
    """Four strided convolutions, image 3×64×64 → `embedding_size` features.

    Kernel 4, stride 2, no padding, depths d, 2d, 4d, 8d, ReLU: 32d features for a
    64×64 image (Ha and Schmidhuber 2018; PlaNet, arXiv:1811.04551, appendix A). A
    linear layer follows if `embedding_size` differs from 32d.

    Args:
        depth: d; 32 in the papers.
        embedding_size: Number of features.
    """

    def __init__(self, depth: int, embedding_size: int) -> None:
        super().__init__()
        depths = [IMAGE_SHAPE[0], depth, 2 * depth, 4 * depth, 8 * depth]
        pairs = pairwise(depths)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2) for a, b in pairs)
        flat = 32 * depth
        same = flat == embedding_size
        self.head = nn.Identity() if same else nn.Linear(flat, embedding_size)

    def forward(self, image: Tensor) -> Tensor:
        """Features `[…, embedding_size]` of centred images `[…, 3, 64, 64]`."""
        value = image.reshape(-1, *IMAGE_SHAPE)
        for layer in self.layers:
            value = F.relu(layer(value))
        return self.head(value.reshape(*image.shape[:-3], -1))


class ConvDecoder(nn.Module):
    """Mirror of `ConvEncoder`: features → image 3×64×64, the last layer linear.

    A linear layer gives 32d×1×1, then transposed convolutions of stride 2 with
    kernels 5, 5, 6, 6 give 5², 13², 30², 64² pixels.

    Args:
        input_size: Number of features.
        depth: d; 32 in the papers.
    """

    def __init__(self, input_size: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(input_size, 32 * depth)
        depths = [32 * depth, 4 * depth, 2 * depth, depth, IMAGE_SHAPE[0]]
        shapes = zip(depths[:-1], depths[1:], (5, 5, 6, 6), strict=True)
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(a, b, kernel, stride=2) for a, b, kernel in shapes
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Centred images `[…, 3, 64, 64]` of features `[…, input_size]`."""
        value = self.stem(feature).reshape(-1, self.stem.out_features, 1, 1)
        for layer in self.layers[:-1]:
            value = F.relu(layer(value))
        return self.layers[-1](value).reshape(*feature.shape[:-1], *IMAGE_SHAPE)
