"""Functions whose value is right everywhere and whose gradient is never NaN.

And what is done about numbers that have left the range where a function has a value.
"""

import torch
from torch import Tensor

from diffplan._checks import is_traced
from diffplan.errors import ArgumentError


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


def nan_unless_positive(value: Tensor, *, zero: bool = False) -> Tensor:
    """Return learned numbers; NaN for those that are not above zero.

    An optimiser may step out of the range of a number that it learns, and nobody waits
    to look at numbers in the middle of a computation. NaN shows in every answer.

    Args:
        value: Any shape.
        zero: Whether zero is in the range.
    """
    known = value.detach()
    return torch.where(known >= 0 if zero else known > 0, value, torch.nan)


def require_learned(name: str, value: Tensor, *, zero: bool = False) -> Tensor:
    """Return learned numbers if they are above zero, or may not be looked at.

    Args:
        name: For the message.
        value: Any shape; looked at on the CPU, unless it is traced.
        zero: Whether zero is in the range.

    Raises:
        ArgumentError: a number is out of range (or NaN).
    """
    if value.device.type != "cpu" or is_traced(value):
        return value
    kept = nan_unless_positive(value.detach(), zero=zero)
    if bool(kept.isnan().any()):
        least = "at least 0" if zero else "above 0"
        raise ArgumentError(
            f"{name}: expected {least}, got {value.tolist()}; if it is learned, let "
            "the optimiser have its logarithm"
        )
    return value


def cholesky_solve(rhs: Tensor, root: Tensor) -> Tensor:
    """Return M⁻¹ rhs for M = root rootᵀ.

    By two triangular solves on a GPU, where `torch.cholesky_solve` takes a library that
    can be no part of a CUDA graph.

    Args:
        rhs: `[…, n, m]`.
        root: Lower triangular `[…, n, n]`.
    """
    if root.device.type == "cpu":
        return torch.cholesky_solve(rhs, root)
    half = torch.linalg.solve_triangular(root, rhs, upper=False)
    return torch.linalg.solve_triangular(root.mT, half, upper=True)
