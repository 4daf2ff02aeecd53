"""Noise that is correlated over time, with a power spectrum 1/frequency^exponent."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan.errors import ArgumentError, require_at_least


def colour_noise(
    white: Float[Tensor, "*batch T A"], exponent: float
) -> Float[Tensor, "*batch T A"]:
    """Filter white noise along time so that its power falls as 1/frequency^exponent.

    Action sequences that keep their direction for a while explore further than white
    noise, whose steps cancel out. The filter is linear and periodic in time: each
    number of the answer has exactly the variance of the numbers given, at every step.

    Args:
        white: `[…, T, A]`, independent N(0, 1) numbers.
        exponent: 0 leaves the noise white, 1 is pink, 2 is red; at least zero, finite.

    Returns:
        `[…, T, A]`, Gaussian, mean 0, variance 1, independent between action
        dimensions.

    Raises:
        ArgumentError: the exponent is negative, infinite or NaN.

    References:
        Timmer and König (1995), "On generating power law noise"; used for planning by
        Pinneri et al. (2020), "Sample-efficient Cross-Entropy Method for Real-time
        Planning" (arXiv:2008.06389), section 3.1.

    Example:
        >>> colour_noise(torch.ones(4, 1), exponent=0.0).flatten()
        tensor([1., 1., 1., 1.])
    """
    require_at_least("exponent", exponent, 0.0)
    if math.isinf(exponent):
        raise ArgumentError(f"exponent: expected a finite number, got {exponent}")
    if exponent == 0 or white.numel() == 0:
        return white
    steps = white.shape[-2]
    gain = _amplitudes(steps, exponent, white)
    spectrum = torch.fft.rfft(white, dim=-2) * gain.unsqueeze(-1)
    return torch.fft.irfft(spectrum, n=steps, dim=-2)


def _amplitudes(steps: int, exponent: float, like: Tensor) -> Tensor:
    # Frequency 0 gets the power of the lowest other frequency, where 1/f is finite.
    two_sided = torch.fft.fftfreq(steps, dtype=like.dtype, device=like.device).abs()
    # In units of the lowest one no power of a frequency is too large.
    gain = (steps * two_sided).clamp_min(1.0) ** (-exponent / 2)
    # White noise has equal power at all T frequencies, and the variance of the answer
    # is their mean power; dividing by its root makes that one exactly.
    return (gain / gain.square().mean().sqrt())[: steps // 2 + 1]
