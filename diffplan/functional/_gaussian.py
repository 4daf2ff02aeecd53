"""Diagonal Gaussians over action sequences, refitted to weighted candidates."""

from jaxtyping import Float
from torch import Tensor

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
    deviations = (candidates - center.unsqueeze(-3)).square()
    return safe_sqrt(weighted_mean(deviations, weights) + epsilon)
