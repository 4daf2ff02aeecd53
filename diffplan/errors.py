"""Errors and border checks: a message names the argument, what was expected and given.

A user meets these before any work is lost. Each class also derives from the built-in
exception that Python programmers would catch (`ValueError`, `TypeError` …).
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex, TypeVar

import torch
from torch import Tensor

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class DiffplanError(Exception):
    """Base of everything that diffplan raises on purpose."""


class ArgumentError(DiffplanError, ValueError):
    """An argument has a value outside its range."""


class ShapeError(ArgumentError):
    """A tensor has the wrong shape."""


class TensorTypeError(DiffplanError, TypeError):
    """A tensor has the wrong dtype, device or is no tensor at all."""


class NotATensorError(ShapeError, TensorTypeError):
    """A function returned what is no tensor, and so has neither shape nor dtype."""


class NonFiniteError(ArgumentError):
    """A tensor holds NaN or infinity where only finite numbers make sense."""


class UnsupportedGradientError(DiffplanError, TypeError):
    """A planner was asked for a gradient that it cannot give correctly."""


class GradientError(DiffplanError, ArithmeticError):
    """A derivative that was asked for does not exist where the plan ended."""


class UnsupportedProblemError(DiffplanError, TypeError):
    """A problem lacks the refinement or capability that a planner needs."""


class BatchIndexError(DiffplanError, IndexError):
    """A batch has no such element or dimension."""


class UnknownNameError(DiffplanError, LookupError):
    """A task, preset or planner name that does not exist."""


class MissingDependencyError(DiffplanError, ImportError):
    """An optional package (or system library) is needed and absent."""


class FileError(ArgumentError):
    """A file is missing, damaged, or holds something else than what was asked for."""


class WorkerError(DiffplanError, RuntimeError):
    """An environment in a worker process failed, or the worker itself."""


class NumericsWarning(UserWarning):
    """A computation lost accuracy or had to be repaired."""


def require_tensor(name: str, value: object) -> Tensor:
    """Return `value` if it is a floating-point tensor, else raise.

    Raises:
        TensorTypeError: `value` is no tensor, or holds integers or complex numbers.
    """
    if not isinstance(value, Tensor):
        hint = ""
        if hasattr(value, "__array__") or isinstance(value, list | tuple):
            hint = ": convert it, torch.as_tensor(value, dtype=torch.float32)"
        raise TensorTypeError(
            f"{name}: expected a floating-point torch.Tensor, got "
            f"{type(value).__name__}{hint}"
        )
    if not value.is_floating_point():
        raise TensorTypeError(
            f"{name}: expected a floating-point torch.Tensor, got dtype {value.dtype}"
        )
    return value


def require_precision(name: str, value: Tensor) -> Tensor:
    """Return `value` if it is in float32 or float64, else raise.

    Half precision has no factorisations, and too few digits for a line search.

    Raises:
        TensorTypeError: it is in float16, bfloat16 or another dtype.
    """
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


def require_leading(
    name: str, value: Tensor, trailing: Sequence[int], state: Tensor
) -> Tensor:
    """Return `value […, *trailing]` if it has the leading dimensions of the states.

    Args:
        name: The argument's name, for the message.
        value: A tensor whose last dimensions are right.
        trailing: Those.
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
    if not isinstance(values, Iterable):
        raise TensorTypeError(
            f"{name}: expected a sequence, such as ({describe(values)}(…),), got one "
            f"{type(values).__name__}"
        )
    return tuple(values)


LARGEST_COUNT = 10**9
"""The most that `require_count` accepts: nothing that is counted further would end."""


def require_count(name: str, value: SupportsIndex, minimum: int = 1) -> int:
    """Return `value` as an `int` if it is a whole number in range, else raise.

    Whole numbers of numpy and of torch count, `True` and `False` do not.

    Args:
        name: The argument's name, for the message.
        value: The number.
        minimum: The least that is accepted; the most is `LARGEST_COUNT`.

    Raises:
        ArgumentError: it is a fraction, no number, or out of range.
    """
    whole = None
    boolean = isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool
    if not boolean:
        try:
            whole = operator.index(value)
        except (TypeError, ValueError, RuntimeError):  # a fraction, a word, a vector
            whole = None
    if whole is None or whole < minimum:
        raise ArgumentError(
            f"{name}: expected a whole number of at least {minimum}, got {value!r}"
        )
    if whole > LARGEST_COUNT:
        raise ArgumentError(f"{name}: expected at most {LARGEST_COUNT}, got {whole}")
    return whole


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
    if not scalar and not math.isfinite(_number(value)):
        raise ArgumentError(f"{name}: expected a finite number, got {value!r}")
    return value


def _number(value: object) -> float:
    """The value as a number; NaN, which no comparison accepts, if it is none."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def call(
    begins: str, function: Callable[..., ResultT], *inputs: Any, advice: str
) -> ResultT:
    """Call a function of the user, and say in our words if it fails.

    Args:
        begins: How the message begins: what the function was handed over as.
        function: The function.
        inputs: What it is given.
        advice: What it should do, for the message.

    Raises:
        ShapeError: it raised an error as those of operations on tensors. Others, those
            of diffplan and a lack of memory pass as they are.
    """
    if torch.compiler.is_compiling():
        return function(*inputs)
    try:
        return function(*inputs)
    except (DiffplanError, torch.OutOfMemoryError):
        raise  # world models name the argument themselves
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        given = " and ".join(
            f"{list(value.shape)} ({value.dtype}, {value.device})"
            for value in inputs
            if isinstance(value, Tensor)
        )
        raise ShapeError(
            f"{begins} {describe(function)} fails on inputs {given}: {error} ({advice})"
        ) from error


def require_result(
    begins: str,
    function: object,
    result: object,
    expected: Sequence[int],
    like: Tensor,
) -> Tensor:
    """Return what a function of the user returned if shape and dtype are right.

    Nothing is broadcast: a cost that was summed over the batch as well would otherwise
    count for every problem alike. Only shape, dtype and device are looked at, never a
    number, so that it costs nothing and can be part of a compiled graph.

    Args:
        begins: How the message begins: what the function was handed over as.
        function: The function, or its name.
        result: What it returned.
        expected: The sizes of all dimensions; a last one of -1 stands for any size.
        like: What the function was given, in the dtype and on the device that its
            result must have.

    Raises:
        NotATensorError: it returned something else.
        ShapeError: other sizes; the message guesses what happened.
        TensorTypeError: another dtype or device.
    """
    if not isinstance(result, Tensor):
        words = f"got {_not_a_tensor(result)}"
        raise NotATensorError(_expectation(begins, function, expected) + words)
    shape = result.shape
    fits = shape == tuple(expected)
    if not fits and expected and expected[-1] == -1:
        fits = len(shape) == len(expected) and shape[:-1] == tuple(expected[:-1])
    if not fits:
        words = f"got {list(shape)}: {_guess(list(shape), list(expected), like)}"
        raise ShapeError(_expectation(begins, function, expected) + words)
    if result.dtype != like.dtype or result.device != like.device:
        raise TensorTypeError(_other_dtype(begins, function, result, like))
    return result


def describe(value: object) -> str:
    """Return what messages call a function, a class or an object."""
    if isinstance(value, str):
        return value
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else type(value).__name__


def _expectation(begins: str, function: object, expected: Sequence[int]) -> str:
    sizes = ", ".join("?" if size == -1 else str(size) for size in expected)
    return f"{begins} expected {describe(function)} to return [{sizes}], "


def _not_a_tensor(result: object) -> str:
    if result is None:
        return "None: is a `return` missing?"
    words = f"{type(result).__name__}, which is no torch.Tensor"
    if isinstance(result, bool | int | float):
        return f"{words}: a constant is torch.full_like(state[..., 0], {result})"
    if hasattr(result, "__array__"):
        return f"{words}: numpy breaks the gradient, write it in operations of torch"
    return words


def _guess(got: list[int], expected: list[int], like: Tensor) -> str:
    """Say what probably happened to a result of another shape."""
    features = bool(expected) and expected[-1] == -1
    lead = expected[:-1] if features else expected
    stays = "leading dimensions stay as they are, whatever they are"
    if not features and len(expected) >= like.ndim:
        return stays
    if features and got == lead:
        return "it lost its last dimension: use keepdim=True, or .unsqueeze(-1)"
    if len(got) < len(expected):
        return (
            "it was summed or flattened over the batch as well: use dim=-1; a constant "
            "is torch.zeros_like(state[..., 0])"
        )
    extra = got[len(lead) :]
    if not features and got[: len(lead)] == lead:
        if set(extra) == {1}:
            return "it kept a dimension: drop keepdim=True, or take [..., 0]"
        return (
            "it has a value for each step or feature: sum them, .sum(-1), or "
            ".sum((-1, -2)) over both"
        )
    return (
        f"{stays}; a tensor inside that holds something for each problem may not line "
        "up with them"
    )


def _other_dtype(begins: str, function: object, result: Tensor, like: Tensor) -> str:
    words = (
        f"{begins} expected {describe(function)} to return {like.dtype} on "
        f"{like.device}, as it was given, got {result.dtype} on {result.device}"
    )
    half = result.dtype in (torch.float16, torch.bfloat16)
    if half and torch.is_autocast_enabled(result.device.type):
        return (
            f"{words}: autocast is on; return .to({like.dtype}), or call it inside "
            f"torch.autocast({result.device.type!r}, enabled=False)"
        )
    if result.dtype != like.dtype:
        return f"{words}: a tensor inside has another dtype; use .to(state.dtype)"
    return words


def is_traced(value: Tensor) -> bool:
    """Return whether numbers cannot be looked at, as in torch.compile and torch.func.

    Checks of values are left out there.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return torch.compiler.is_compiling() or wrapped(value)
