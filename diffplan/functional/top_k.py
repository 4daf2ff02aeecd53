"""Choosing the k best of N."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import require_count
from diffplan.errors import ArgumentError


def hard_top_k(scores: Float[Tensor, "*batch N"], k: int) -> Float[Tensor, "*batch N"]:
    """Return one for the k highest scores and zero for the others.

    Exactly k entries are one even where scores tie. A choice is piecewise constant, so
    the result carries no gradient.

    Args:
        scores: `[…, N]`; -inf is the lowest. A NaN makes its row NaN, as in `lml`.
        k: Between 1 and N.

    Raises:
        ArgumentError: k is not a whole number between 1 and N.
        ShapeError: the scores have no dimension.

    Example:
        >>> hard_top_k(torch.tensor([0.3, 0.9, 0.5]), k=2)
        tensor([0., 1., 1.])
    """
    if require_count("k", k) > scores.shape[-1]:
        raise ArgumentError(
            f"k: expected at most {scores.shape[-1]}, the last dimension of scores, "
            f"got {k}"
        )
    given = scores.detach()
    chosen = given.topk(k, dim=-1, sorted=False).indices
    weights = torch.zeros_like(given).scatter(-1, chosen, 1.0)
    return torch.where(given.isnan().any(-1, keepdim=True), torch.nan, weights)
