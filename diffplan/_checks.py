"""Checks of arguments, each with one sentence that says what is wrong.

All raise errors of `diffplan.errors`, which name the argument, what was expected and
what was given.
"""

import difflib
import functools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import SupportsIndex, TypeVar

import torch
from torch import Tensor

from diffplan.errors import (
    ArgumentError,
    MissingDependencyError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
    UnknownNameError,
)

ItemT = TypeVar("ItemT")
_FEW_NAMES, _MANY_NAMES = 5, 20
"""Of so few names that exist all are told, of more no more than so many."""


def missing(what: str, extra: str) -> MissingDependencyError:
    """Return the error where a package of an extra is absent.

    Args:
        what: Needs which package: "videos need imageio".
        extra: Of diffplan, which brings it.
    """
    # No registry has diffplan yet: the extra comes from where diffplan came from.
    return MissingDependencyError(
        f'{what}: pip install "PATH[{extra}]", where PATH is your checkout of diffplan '
        "(a dot inside of it) or its wheel"
    )


def require_tensor(name: str, value: object) -> Tensor:
    """Return `value` if it is a floating-point tensor, else raise.

    Raises:
        TensorTypeError: `value` is no tensor, or holds integers or complex numbers.
    """
    if not isinstance(value, Tensor):
        raise no_tensor(name, value)
    if not value.is_floating_point():
        raise TensorTypeError(
            f"{name}: expected a floating-point torch.Tensor, got dtype {value.dtype}"
        )
    return value


def no_tensor(name: str, value: object) -> TensorTypeError:
    """Return the error about what should have been a tensor."""
    hint = ""
    if hasattr(value, "__array__") or isinstance(value, list | tuple):
        hint = ": convert it, torch.as_tensor(value, dtype=torch.float32)"
    return TensorTypeError(
        f"{name}: expected a floating-point torch.Tensor, got "
        f"{type(value).__name__}{hint}"
    )


def require_precision(name: str, value: Tensor) -> Tensor:
    """Return `value` if it is dense and in float32 or float64, else raise.

    Half precision has no factorisations, and too few digits for a line search.

    Raises:
        TensorTypeError: it is in float16, bfloat16 or another dtype, or sparse.
    """
    if value.layout != torch.strided:
        raise TensorTypeError(
            f"{name}: expected torch.strided, got {value.layout}: call .to_dense() on "
            "it"
        )
    if value.dtype not in (torch.float32, torch.float64):
        raise TensorTypeError(
            f"{name}: expected torch.float32 or torch.float64, got {value.dtype}: "
            f"call .float() on it (under torch.autocast, what a network returns is in "
            "half precision)"
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
        TensorTypeError: it is no tensor.
        ShapeError: the dimensions are too few or differ.
    """
    if not isinstance(value, Tensor):
        raise no_tensor(name, value)
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


def require_leading(
    name: str, value: Tensor, trailing: Sequence[int], state: Tensor
) -> Tensor:
    """Return `value […, *trailing]` if it has the leading dimensions of the states.

    Args:
        name: The argument's name, for the message.
        value: A tensor whose last dimensions are right.
        trailing: The sizes of its last dimensions.
        state: `[…, S]`.

    Raises:
        ShapeError: the leading dimensions differ; they would be broadcast.
    """
    expected = [*state.shape[:-1], *trailing]
    if list(value.shape) != expected:
        raise ShapeError(
            f"{name}: expected {expected}, got {list(value.shape)}: leading dimensions "
            "must equal the state's"
        )
    return value


def sequence(name: str, values: Iterable[ItemT]) -> tuple[ItemT, ...]:
    """Return all values at once: an iterator could be read only once.

    Raises:
        TensorTypeError: there are none to read, such as one object without its tuple.
    """
    scalar = isinstance(values, Tensor) and values.ndim == 0
    if scalar or not isinstance(values, Iterable):
        raise TensorTypeError(
            f"{name}: expected a sequence, such as ({describe(values)}(…),), got one "
            f"{type(values).__name__}"
        )
    return tuple(values)


LARGEST_COUNT = 10**9
"""The most that is counted: nothing that is counted further would end."""


def require_count(
    name: str, value: SupportsIndex, minimum: int = 1, maximum: int = LARGEST_COUNT
) -> int:
    """Return `value` as an `int` if it is a whole number in range, else raise.

    Whole numbers of numpy count; `True`, `False` and tensors, whose number would have
    to be waited for, do not.

    Args:
        name: The argument's name, for the message.
        value: The number.
        minimum: The least that is accepted.
        maximum: The most.

    Raises:
        ArgumentError: it is a fraction, no number, or out of range.
    """
    whole = None
    if not isinstance(value, bool | Tensor):
        try:
            whole = operator.index(value)
        except TypeError:  # a fraction, a word, a vector
            whole = None
    if whole is None or whole < minimum:
        raise ArgumentError(
            f"{name}: expected a whole number of at least {minimum}, got {value!r}"
        )
    if whole > maximum:
        raise ArgumentError(f"{name}: expected at most {maximum}, got {whole}")
    return whole


def require_seed(value: SupportsIndex, minimum: int | None = None) -> int:
    """Return a seed as an `int` if it is a whole number of any size, else raise.

    Args:
        value: The seed; whole numbers of numpy count, `True` and `False` do not.
        minimum: The least that is accepted, if there is one.

    Raises:
        ArgumentError: it is a fraction, no number, or below the minimum.
    """
    whole = None
    if not isinstance(value, bool):
        try:
            whole = operator.index(value)
        except TypeError:
            whole = None
    if whole is None or (minimum is not None and whole < minimum):
        least = "" if minimum is None else f" of at least {minimum}"
        raise ArgumentError(f"seed: expected a whole number{least}, got {value!r}")
    return whole


def require_known(name: str, value: str, known: Iterable[str]) -> str:
    """Return a name that exists, else raise.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        known: All names that exist.

    Raises:
        UnknownNameError: lists close matches, and all names where they are few.
    """
    names = list(known)
    if value in names:
        return value
    close = difflib.get_close_matches(str(value), names, cutoff=0.5)
    if not close or len(names) <= _FEW_NAMES:  # the closest first
        close += [each for each in names if each not in close]
    told, left = ", ".join(close[:_MANY_NAMES]), len(close) - _MANY_NAMES
    more = f", … ({left} more)" if left > 0 else ""
    raise UnknownNameError(f"{name}: there is no {value!r}; did you mean {told}{more}?")


def require_at_least(name: str, value: float, minimum: float) -> float:
    """Return `value` if it is at least `minimum`, else raise.

    Raises:
        ArgumentError: `value` is below `minimum`, NaN or no number.
    """
    if not _number(value) >= minimum:
        raise ArgumentError(f"{name}: expected at least {minimum}, got {value!r}")
    return value


def require_positive(name: str, value: float) -> float:
    """Return `value` if it is greater than zero, else raise.

    Raises:
        ArgumentError: `value` is not positive, NaN or no number.
    """
    if not _number(value) > 0:
        raise ArgumentError(f"{name}: expected a number above 0, got {value!r}")
    return value


def require_share(name: str, value: float) -> float:
    """Return `value` if it is in 0 … 1, else raise.

    Raises:
        ArgumentError: names it.
    """
    if not 0 <= _number(value) <= 1:
        raise ArgumentError(f"{name}: expected 0 … 1, got {value!r}")
    return value


def require_number(name: str, value: float) -> float:
    """Return `value` if it is one finite number, or a scalar tensor, else raise.

    Raises:
        ArgumentError: it is something else.
    """
    scalar = isinstance(value, Tensor) and value.ndim == 0
    if not scalar and not is_finite(value):
        raise ArgumentError(f"{name}: expected a finite number, got {value!r}")
    return value


def _number(value: object) -> float:
    """Return the value as a number; NaN, which no comparison accepts, if it is none."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number, which no bool is."""
    return math.isfinite(_number(value))


def is_number(value: object) -> bool:
    """Return whether a value is one real number; scalars of numpy and torch are."""
    if isinstance(value, bool | type) or not hasattr(value, "__float__"):
        return False
    unordered = isinstance(value, Tensor) and (
        value.is_complex() or value.dtype == torch.bool
    )
    return math.prod(getattr(value, "shape", ())) == 1 and not unordered


def describe(value: object) -> str:
    """Return what messages call a function, a class or an object."""
    if isinstance(value, str):
        return value
    while isinstance(value, functools.partial):
        wrapped = getattr(value.func, "stands_for_its_argument", False)
        value = value.args[0] if wrapped else value.func
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else type(value).__name__


def is_traced(value: Tensor) -> bool:
    """Return whether numbers cannot be looked at, as in torch.compile and torch.func.

    And in `make_fx`, which `planner.export` is made by. Checks of values are left out
    there.
    """
    if torch.compiler.is_compiling():
        return True
    proxies = torch._C._TorchDispatchModeKey.PROXY
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return wrapped or torch._C._get_dispatch_mode(proxies) is not None
