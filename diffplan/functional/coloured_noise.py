"""Noise that is correlated over time, with a power spectrum 1/frequency^exponent."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import is_traced, require_at_least

_CACHED = 2**15
"""Numbers that are filtered at once: about what a processor's cache holds."""


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
    if exponent == 0 or white.numel() == 0:
        return white
    steps, width = white.shape[-2:]
    rows, gains = white.reshape(-1, steps, width), _gains(steps, float(exponent))
    # A compiler finds its own order of work.
    size = rows.shape[0] if is_traced(white) else _CACHED // max(1, steps * width)
    parts = [_filtered(part, gains) for part in rows.split(max(1, size))]
    return torch.cat(parts).reshape(white.shape)


def _filtered(white: Tensor, gains: tuple[float, ...]) -> Tensor:
    # One product or one sum after the other, on whole sequences: a transform or a
    # product of matrices rounds by the size of the batch, and noise must not.
    by_time = white.movedim(1, 0)
    twice, steps = torch.cat([by_time, by_time]), len(by_time)
    total = twice[:steps] * gains[0]
    for lag in range(1, (steps + 1) // 2):
        pair = twice[lag : lag + steps] + twice[steps - lag : 2 * steps - lag]
        total += pair.mul_(gains[lag])
    if steps % 2 == 0:
        total += twice[steps // 2 : steps // 2 + steps] * gains[steps // 2]
    return total.movedim(0, 1)


def _gains(steps: int, exponent: float) -> tuple[float, ...]:
    """Return the filter's symmetric answer to a pulse, after 0 … T // 2 steps.

    Numbers of Python, which are the same on every device.
    """
    # Frequency 0 gets the power of the lowest other frequency, where 1/f is finite.
    # In units of the lowest one no power of a frequency is too large.
    indices = [max(1, min(f, steps - f)) for f in range(steps)]
    gain = [f ** (-exponent / 2) for f in indices]
    # White noise has equal power at all T frequencies, and the variance of the answer
    # is their mean power; dividing by its root makes that one exactly.
    scale = steps * math.sqrt(math.fsum([g * g for g in gain]) / steps)
    waves = [math.cos(2 * math.pi * turn / steps) for turn in range(steps)]
    return tuple(
        math.fsum([g * waves[f * lag % steps] for f, g in enumerate(gain)]) / scale
        for lag in range(steps // 2 + 1)
    )


# What torch.compiler.assume_constant_result sets: that would import the compiler here,
# which doubles the time that importing diffplan takes.
_gains._dynamo_marked_constant = True  # type: ignore[attr-defined]
