"""Choosing the k best of N."""

import torch
from jaxtyping import Float
from torch import Tensor


def hard_top_k(scores: Float[Tensor, "*batch N"], k: int) -> Float[Tensor, "*batch N"]:
    """Return one for the k highest scores and zero for the others.

    Exactly k entries are one even where scores tie. A choice is piecewise constant, so
    the result carries no gradient.

    Args:
        scores: `[…, N]`; -inf is the lowest, NaN is not allowed.
        k: Between 1 and N.

    Example:
        >>> hard_top_k(torch.tensor([0.3, 0.9, 0.5]), k=2)
        tensor([0., 1., 1.])
    """
    chosen = scores.detach().topk(k, dim=-1, sorted=False).indices
    zeros = torch.zeros_like(scores, requires_grad=False)
    return zeros.scatter(-1, chosen, 1.0)
