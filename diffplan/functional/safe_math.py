"""Functions whose value is right everywhere and whose gradient is never NaN."""

import torch
from torch import Tensor


def safe_sqrt(value: Tensor) -> Tensor:
    """Return √value, with gradient zero where `value` is zero.

    The derivative of √ at zero is infinite, and infinite times zero is NaN: one
    collapsed standard deviation would spoil the gradient of a whole plan. Both
    branches of the outer `where` are finite, so no NaN can be multiplied in.

    Args:
        value: Any shape, at least zero.
    """
    positive = value > 0
    root = torch.where(positive, value, torch.ones_like(value)).sqrt()
    return torch.where(positive, root, torch.zeros_like(value))


def safe_norm(value: Tensor) -> Tensor:
    """Return the Euclidean norms `[…, 1]` of vectors `[…, n]`, of any scale.

    Squares of numbers below 1e-23 or above 1e19 leave float32; in units of the largest
    entry nothing does. The gradient is zero where the norm is.

    Args:
        value: `[…, n]`.
    """
    unit = value.detach().abs().amax(dim=-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    return unit * safe_sqrt((value / unit).square().sum(dim=-1, keepdim=True))
