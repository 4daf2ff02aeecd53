"""Diagonal Gaussians over action sequences, refitted to weighted candidates."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan.functional._isolation import known_finite, may_look
from diffplan.functional._safe_math import safe_sqrt


def weighted_mean(
    candidates: Float[Tensor, "*batch N T A"], weights: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch T A"]:
    """Return Σ_n w_n x_n, the mean of candidates under weights that sum to one.

    Example:
        >>> import torch
        >>> weighted_mean(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([0.5, 0.5]))
        tensor([[2.]])
    """
    # A product of matrices: four times as fast as to multiply and sum.
    mean = weights.unsqueeze(-2) @ candidates.flatten(-2)
    return mean.squeeze(-2).unflatten(-1, candidates.shape[-2:])


def weighted_std(
    candidates: Float[Tensor, "*batch N T A"],
    weights: Float[Tensor, "*batch N"],
    center: Float[Tensor, "*batch T A"],
    epsilon: float = 0.0,
) -> Float[Tensor, "*batch T A"]:
    """Return √(Σ_n w_n (x_n - center)² + epsilon), the (biased) standard deviation.

    Where it is zero, so is its gradient (`safe_sqrt`).

    Args:
        candidates: `[…, N, T, A]`.
        weights: `[…, N]`, at least zero, sum one.
        center: `[…, T, A]`, usually `weighted_mean` of the same arguments.
        epsilon: Added to the variance, so that the search never dies out entirely.
    """
    if may_look(candidates):
        variance = _variance(candidates, weights, center)
        if known_finite((variance,)):
            return safe_sqrt(variance + epsilon)
    # In units in which no square overflows: one, unless they come near to that.
    largest = candidates.detach().abs().flatten(-3).amax(-1)[..., None, None]
    unit = (largest / (torch.finfo(largest.dtype).max ** 0.5 / 4)).clamp_min(1)
    variance = _variance(candidates / unit.unsqueeze(-3), weights, center / unit)
    return unit * safe_sqrt(variance + epsilon / unit.square())


def _variance(candidates: Tensor, weights: Tensor, center: Tensor) -> Tensor:
    deviations = (candidates - center.unsqueeze(-3)).square()
    return weighted_mean(deviations, weights)
