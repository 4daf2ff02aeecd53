"""How a world model sees: encoder, decoder and scaling of one kind of observation.

Networks work in network units (centred and scaled), users in the environment's
units. Everything that converts between the two is here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffplan._checks import require_finite, require_positive, require_shape
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.models._networks import IMAGE_SHAPE, MLP, ConvDecoder, ConvEncoder
from diffplan.models.base import SequenceBatch

# A component that hardly moves in the data would be scaled up to pure noise.
MINIMUM_OBSERVATION_STD = 1e-3


class ObservationModel(nn.Module, ABC):
    """Encoder and decoder of one kind of observation.

    Attributes:
        shape: Shape of one observation.
        encoder: Network units → embedding.
        decoder: Planning state → network units.
    """

    shape: tuple[int, ...]
    encoder: nn.Module
    decoder: nn.Module

    @abstractmethod
    def scale(self, observation: Tensor) -> Tensor:
        """Observation in network units, in the dtype of the parameters."""

    @abstractmethod
    def unscale(self, value: Tensor) -> Tensor:
        """Inverse of `scale`; images as floats around [0, 1]."""

    def fit(self, observations: Tensor, minimum_std: float) -> None:
        """Take the scale from data, if there is one to be found; see `RSSM`.

        Raises:
            ArgumentError: there is none.
        """
        raise ArgumentError(
            "fit_normalizer: expected a model of vector observations, got one of "
            "images, whose scale is fixed"
        )

    def dequantize(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """See `RSSM.dequantize`; what is no image stays as it is."""
        del noise
        return observation

    def looked_at(
        self, batch: SequenceBatch, generator: torch.Generator | None
    ) -> SequenceBatch:
        """Return the batch with its observations as they are seen this time.

        Args:
            batch: With observations in the environment's units.
            generator: Of the noise of images; None stands for its mean.
        """
        del generator
        return batch

    @abstractmethod
    def check(self, observation: Tensor, *, finite: bool) -> Tensor:
        """Return `observation` if it is one, else raise in our words."""


class VectorObservations(ObservationModel):
    """Vectors of sensor values, normalised per component, seen by MLPs.

    Args:
        size: D.
        state_dim: Size of the planning state that the decoder sees.
        embedding_size: Size of the embedding.
        hidden: Width of each hidden layer of encoder and decoder.
        activation: Name of the activation of the hidden layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        state_dim: int,
        embedding_size: int,
        hidden: tuple[int, ...],
        activation: str,
    ) -> None:
        super().__init__()
        self.shape = (size,)
        self.encoder = MLP.head([size, *hidden, embedding_size], activation)
        self.decoder = MLP.head([state_dim, *hidden, size], activation)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def fit(
        self, observations: Tensor, minimum_std: float = MINIMUM_OBSERVATION_STD
    ) -> None:
        """Take mean and standard deviation of every component from data.

        Args:
            observations: `[…, D]`, finite.
            minimum_std: A component that moves less keeps its scale.

        Raises:
            ShapeError: the last dimension is not D, or there is no row.
            NonFiniteError: NaN or infinity in the data.
        """
        require_positive("minimum_std", minimum_std)
        self.check(observations, finite=True)
        if observations.numel() == 0:
            raise ShapeError(
                f"observations: expected at least one row of {list(self.shape)}, got "
                f"{list(observations.shape)}"
            )
        rows = observations.reshape(-1, *self.shape).double()
        std = rows.std(dim=0, correction=0)
        std = torch.where(std < minimum_std, torch.ones_like(std), std)
        self.mean.copy_(rows.mean(dim=0))
        self.std.copy_(std)

    def scale(self, observation: Tensor) -> Tensor:
        """Zero mean and unit variance per component."""
        return (observation.to(self.mean.dtype) - self.mean) / self.std

    def unscale(self, value: Tensor) -> Tensor:
        """Environment units."""
        return value * self.std + self.mean

    def check(self, observation: Tensor, *, finite: bool) -> Tensor:
        """Return a floating-point `[…, D]`, else raise."""
        if not isinstance(observation, Tensor) or not observation.is_floating_point():
            raise _wrong_type(observation, "floating-point vectors")
        require_shape(
            "observation", observation, self.shape, "must equal observation_shape"
        )
        return require_finite("observation", observation) if finite else observation


class ImageObservations(ObservationModel):
    """Colour images of 64×64 pixels, seen by convolutions.

    uint8 images are divided by 255, or seen with fewer bits; floating-point images are
    taken to be in [0, 1] already, so that an image can be an optimisation variable.

    Args:
        state_dim: Size of the planning state that the decoder sees.
        embedding_size: Size of the embedding.
        depth: Channels of the first convolution; the others are multiples.
        bits: Of each number of an image, 1 … 8.
    """

    decoder: ConvDecoder

    def __init__(
        self, state_dim: int, embedding_size: int, depth: int, bits: int
    ) -> None:
        super().__init__()
        self.shape, self.bits = IMAGE_SHAPE, bits
        self.encoder = ConvEncoder(depth, embedding_size)
        self.decoder = ConvDecoder(state_dim, depth)

    def scale(self, observation: Tensor) -> Tensor:
        """[-0.5, 0.5], with the mean grey at zero."""
        return self.dequantize(observation, None) - 0.5

    def dequantize(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """See `RSSM.dequantize`."""
        dtype = self.decoder.stem.weight.dtype
        if observation.is_floating_point():
            return observation.to(dtype)
        if self.bits == 8:
            return observation.to(dtype) / 255
        level = (observation >> (8 - self.bits)).to(dtype)
        return (level + (0.5 if noise is None else noise)) / 2**self.bits

    def looked_at(
        self, batch: SequenceBatch, generator: torch.Generator | None
    ) -> SequenceBatch:
        """Return floating-point images, where fewer bits than eight have noise."""
        images = batch.observations
        if self.bits == 8 or images.dtype != torch.uint8:
            return batch
        noise = None
        if generator is not None:
            noise = torch.rand(
                images.shape, generator=generator, device=generator.device
            ).to(images.device)
        return replace(batch, observations=self.dequantize(images, noise))

    def unscale(self, value: Tensor) -> Tensor:
        """[0, 1] for a perfect prediction; not clamped, so that gradients pass."""
        return value + 0.5

    def check(self, observation: Tensor, *, finite: bool) -> Tensor:
        """Return a uint8 or floating-point `[…, 3, 64, 64]`, else raise."""
        if not isinstance(observation, Tensor) or not (
            observation.dtype == torch.uint8 or observation.is_floating_point()
        ):
            raise _wrong_type(observation, "uint8 (or [0, 1] floating-point) images")
        require_shape(
            "observation", observation, self.shape, "must equal observation_shape"
        )
        if finite and observation.is_floating_point():
            require_finite("observation", observation)
        return observation


def observation_model(config: Mapping[str, Any]) -> ObservationModel:
    """Return the encoder and decoder that an RSSM's configuration asks for."""
    shape, embedding = config["observation_shape"], config["embedding_size"]
    state_dim = config["state_size"] + config["belief_size"]
    if shape == IMAGE_SHAPE:
        depth, bits = config["image_depth"], int(config["image_bits"])
        return ImageObservations(state_dim, embedding, depth, bits)
    hidden = (config["vector_hidden"],) * config["vector_layers"]
    return VectorObservations(
        shape[0], state_dim, embedding, hidden, config["activation"]
    )


def _wrong_type(observation: object, expected: str) -> TensorTypeError:
    got = type(observation).__name__
    if isinstance(observation, Tensor):
        got = f"dtype {observation.dtype}"
    return TensorTypeError(f"observation: expected {expected}, got {got}")
