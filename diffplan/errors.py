"""Errors and border checks: every message names argument, expectation and gift.

A user meets these before any work is lost. Each class also derives from the built-in
exception that Python programmers would catch (`ValueError`, `TypeError` …).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class DiffplanError(Exception):
    """Base of everything that diffplan raises on purpose."""


class ArgumentError(DiffplanError, ValueError):
    """An argument has a value outside its range."""


class ShapeError(ArgumentError):
    """A tensor has the wrong shape."""


class TensorTypeError(DiffplanError, TypeError):
    """A tensor has the wrong dtype, device or is no tensor at all."""


class NonFiniteError(ArgumentError):
    """A tensor holds NaN or infinity where only finite numbers make sense."""


class UnsupportedGradientError(DiffplanError, TypeError):
    """A planner was asked for a gradient that it cannot give correctly."""


class GradientError(DiffplanError, ArithmeticError):
    """A derivative that was asked for does not exist where the plan ended."""


class SingularSystemError(DiffplanError, RuntimeError):
    """A linear system that must be solved is singular, or not positive definite."""


class UnsupportedProblemError(DiffplanError, TypeError):
    """A problem lacks the refinement or capability that a planner needs."""


class UnknownNameError(DiffplanError, LookupError):
    """A task, preset or planner name that does not exist."""


class MissingDependencyError(DiffplanError, ImportError):
    """An optional package (or system library) is needed and absent."""


class NumericsWarning(UserWarning):
    """A computation lost accuracy or had to be repaired."""


def require_tensor(name: str, value: object) -> Tensor:
    """Return `value` if it is a floating-point tensor, else raise.

    Raises:
        TensorTypeError: `value` is no tensor, or holds integers.
    """
    if not isinstance(value, Tensor):
        raise TensorTypeError(
            f"{name}: expected a floating-point torch.Tensor, got "
            f"{type(value).__name__}"
        )
    if not value.is_floating_point():
        raise TensorTypeError(
            f"{name}: expected a floating-point torch.Tensor, got dtype {value.dtype}"
        )
    return value


def require_finite(name: str, value: Tensor) -> Tensor:
    """Return `value` if all its entries are finite, else raise.

    Raises:
        NonFiniteError: names how many entries are NaN or infinite.
    """
    if not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise NonFiniteError(
            f"{name}: expected finite numbers, got {bad} NaN or infinite of "
            f"{value.numel()} entries, shape {list(value.shape)}"
        )
    return value


def require_shape(
    name: str, value: Tensor, trailing: Sequence[int], why: str
) -> Tensor:
    """Return `value` if its last dimensions equal `trailing`, else raise.

    Args:
        name: The argument's name, for the message.
        value: Any tensor.
        trailing: Sizes of the last dimensions; -1 accepts any size.
        why: What fixes the expected sizes ("must equal action_space.dim").

    Raises:
        ShapeError: the dimensions are too few or differ.
    """
    given = list(value.shape)[-len(trailing) :] if trailing else []
    fits = len(given) == len(trailing) and all(
        want in (-1, got) for want, got in zip(trailing, given, strict=True)
    )
    if not fits:
        expected = ", ".join("?" if size == -1 else str(size) for size in trailing)
        raise ShapeError(
            f"{name}: expected […, {expected}], got {list(value.shape)}: {why}"
        )
    return value


def require_count(name: str, value: int, minimum: int = 1) -> int:
    """Return `value` if it is a whole number of at least `minimum`, else raise.

    Raises:
        ArgumentError: it is a fraction, no number, or smaller.
    """
    if not isinstance(value, int) or value < minimum:
        raise ArgumentError(
            f"{name}: expected a whole number of at least {minimum}, got {value!r}"
        )
    return value


def require_at_least(name: str, value: float, minimum: float) -> float:
    """Return `value` if it is at least `minimum`, else raise.

    Raises:
        ArgumentError: `value` is below `minimum` or NaN.
    """
    if not value >= minimum:
        raise ArgumentError(f"{name}: expected at least {minimum}, got {value}")
    return value


def require_positive(name: str, value: float) -> float:
    """Return `value` if it is greater than zero, else raise.

    Raises:
        ArgumentError: `value` is not positive or NaN.
    """
    if not value > 0:
        raise ArgumentError(f"{name}: expected a number above 0, got {value}")
    return value


def require_share(name: str, value: float) -> float:
    """Return `value` if it is in 0 … 1, else raise.

    Raises:
        ArgumentError: names it.
    """
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name}: expected 0 … 1, got {value}")
    return value


def is_traced(value: Tensor) -> bool:
    """Return whether numbers cannot be looked at, as in torch.compile and torch.func.

    Checks of values are left out there.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return torch.compiler.is_compiling() or wrapped(value)
