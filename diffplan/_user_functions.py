"""Functions of the user: called by one function, and what they return is checked.

Dynamics, objectives and their terms, constraints, Jacobians, risks and decoders go
through here, so that a failure is named once, with the shapes that led to it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffplan._checks import describe
from diffplan.errors import DiffplanError, NotATensorError, ShapeError, TensorTypeError

ResultT = TypeVar("ResultT")


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


def ask(
    begins: str,
    function: Callable[..., object],
    *inputs: Tensor,
    expected: Sequence[int],
    advice: str,
) -> Tensor:
    """Return what a function of the user returns for some tensors, and check it.

    Args:
        begins: See `call` and `require_result`; so are the others.
        function: The function.
        inputs: What it is given; the result must be like the first.
        expected: The sizes of the result.
        advice: What the function should do.
    """
    result = call(begins, function, *inputs, advice=advice)
    return require_result(begins, function, result, expected, like=inputs[0])


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
