"""Arguments of another kind are refused by name, before anything is computed.

What kind an argument is of stands in its annotation, and so does its shape: `checked`
reads it once and puts a check around the function. What an annotation leaves open is
left to the function.
"""

import functools
import inspect
import itertools
import math
import os
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FunctionType, NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import AbstractArray, Bool, Int, Int64
from torch import Tensor

from diffplan._checks import is_finite, is_number, no_tensor
from diffplan._shapes import Precise, Shape, require_agreement
from diffplan.errors import ArgumentError, TensorTypeError

_Kind = tuple[str, Callable[[Any], bool]]
"""What is expected, in words, and whether a value is that."""

OrInfinite = Annotated[float, "or infinite"]
"""Numbers of which an infinite one makes sense, such as a limit that is none."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_OPEN: _Kind = ("", callable)
"""Of annotations that are not about a kind: nothing is asked of their values."""


class _Part(NamedTuple):
    """What is asked of an argument, or of a field of one that is a record."""

    field: str
    kind: _Kind
    shape: Shape | None


def checked(function: FunctionType) -> Callable[..., Any]:
    """Return a function that refuses arguments of another kind than is annotated.

    Args:
        function: Its annotations are bools, numbers, tensors, records of tensors,
            callables and classes, or one of several of these; others are left alone.
    """
    parts, positions, rest = _parts_of(function)
    has_shapes = any(part.shape for each in parts.values() for part in each)

    @functools.wraps(function)
    def with_checks(*args: Any, **named: Any) -> Any:
        if has_shapes or not torch.compiler.is_compiling():
            others = (f"{rest}[{index}]" for index in itertools.count())
            places = zip(itertools.chain(positions, others), args, strict=False)
            _require(parts, (*places, *named.items()))
        return function(*args, **named)

    return with_checks if parts else function


def formerly(
    **names: str,
) -> Callable[[Callable[_Given, _Result]], Callable[_Given, _Result]]:
    """Return a decorator that takes options by the names that they had before.

    Args:
        names: The present name of each. Whoever uses a former one is told once.
    """

    def around(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
        @functools.wraps(function)
        def renamed(*args: _Given.args, **named: _Given.kwargs) -> _Result:
            for old in names.keys() & named.keys():
                warnings.warn(
                    f"{old}: this is called {names[old]} now", FutureWarning, 3
                )
                if names[old] in named:
                    raise ArgumentError(f"{old}: {names[old]} is given as well")
                named[names[old]] = named.pop(old)
            return function(*args, **named)

        return renamed

    return around


def _require(
    parts: dict[str, list[_Part]], given: Iterable[tuple[str, object]]
) -> None:
    shaped = []
    for label, argument in given:
        for field, kind, shape in parts.get(label.partition("[")[0], ()):
            name = f"{label}.{field}" if field else label
            value = getattr(argument, field) if field else argument
            if not torch.compiler.is_compiling() and not kind[1](value):
                raise _refusal(name, kind[0], value)
            if shape is not None and isinstance(value, Tensor):
                shaped.append((name, shape, value))
    require_agreement(shaped)


def _parts_of(function: Any) -> tuple[dict[str, list[_Part]], list[str], str]:
    """Return parts by name, the names of arguments in a row, and that of all others."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # of a stranger, with names that exist for type checkers only
        return {}, [], ""
    parts, positions, rest = {}, [], ""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = name
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            positions.append(name)
        if (kind := _kind(hints.get(name))) is not _OPEN:
            parts[name] = [_Part("", kind, _shape(hints[name]))]
            if hasattr(hints[name], "_fields"):  # a record
                fields = typing.get_type_hints(hints[name]).items()
                parts[name] += [_Part(key, _kind(h), _shape(h)) for key, h in fields]
    return parts, positions, rest


def _shape(hint: Any) -> Shape | None:
    """Return the shape in an annotation, or in the one of several that has one."""
    for each in (hint, *typing.get_args(hint)):
        if isinstance(each, type) and issubclass(each, AbstractArray):
            return Shape.of(each)
    return None


def check_public(namespace: dict[str, Any], names: Iterable[str]) -> None:
    """Put checks around the functions and classes of a package that are public.

    What is inside the package and beside it calls the functions as they are.

    Args:
        namespace: That of the package's `__init__`.
        names: Its `__all__`.
    """
    for name in names:
        value = namespace[name]
        if isinstance(value, type):
            check_construction(value)
        elif isinstance(value, FunctionType):
            namespace[name] = checked(value)
            namespace[name].__module__ = namespace["__name__"]  # where pickle finds it


def check_construction(cls: type) -> None:
    """Put checks around the `__init__` that a class defines itself, if it does."""
    own = vars(cls).get("__init__")
    if isinstance(own, FunctionType):
        cls.__init__ = checked(own)  # type: ignore[misc]


def hands_on(arguments: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether there are `**options`, for somebody else."""
    return any(each.kind is each.VAR_KEYWORD for each in arguments.values())


def constructors(kind: type) -> Iterator[Callable[..., Any]]:
    """Yield a class's constructor, and those that it hands further arguments on to."""
    for base in kind.__mro__:
        if "__init__" in vars(base):
            constructor = vars(base)["__init__"]
            yield constructor
            if not hands_on(inspect.signature(constructor).parameters):
                return


def _refusal(name: str, expected: str, value: object) -> Exception:
    message = f"{name}: expected {expected}, got "
    if isinstance(value, Tensor):
        return TensorTypeError(f"{message}{value.dtype} of shape {list(value.shape)}")
    if expected.startswith(_TENSOR):
        return no_tensor(name, value)
    if isinstance(value, type):
        return TensorTypeError(f"{message}the class {value.__name__}")
    if isinstance(value, bool | int | float | complex | str | NoneType | list | tuple):
        return ArgumentError(f"{message}{value!r}")
    return TensorTypeError(message + type(value).__name__)


_TENSOR = "a floating-point torch.Tensor"
_TENSORS: dict[Any, str] = {
    Bool: "a torch.Tensor of booleans",
    Int: "a torch.Tensor of whole numbers",
    Int64: "a torch.Tensor of torch.int64",
    Precise: f"{_TENSOR} of 32 or 64 bits",
}


def _kind(hint: Any) -> _Kind:
    """Read an annotation."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        kinds = [_kind(each) for each in inner]
        words = " or ".join(words for words, _ in kinds)
        union = words, lambda value: any(fits(value) for _, fits in kinds)
        return _OPEN if _OPEN in kinds else union
    if hint is OrInfinite:
        return "a number", _is_number_or_infinite
    if origin is Literal:
        choices = f"one of {', '.join(map(repr, inner))}"
        return choices, lambda value: isinstance(value, str) and value in inner
    if origin is Callable:
        return "a callable", callable
    if origin is Iterable:
        each = _kind(inner[0])
        # What takes several numbers says which of them is none.
        is_open = each is _OPEN or each[1] is _is_number
        return _OPEN if is_open else _kind_of_any_number(each)
    if origin in (Sequence, tuple):
        kinds = [_kind(each) for each in inner if each is not ...]
        return _kind_of_several(kinds, origin is tuple and ... not in inner)
    if origin in (Mapping, dict):
        return "a mapping", lambda value: isinstance(value, Mapping)
    if origin is os.PathLike:
        hint = origin
    if not isinstance(hint, type) or hint in (Any, object):
        return _OPEN
    return _kind_of_class(hint)


def _kind_of_several(kinds: list[_Kind], counted: bool) -> _Kind:
    if _OPEN in kinds:
        return _OPEN
    how_many = f"{len(kinds)}" if counted else "a sequence"

    def fit(value: object) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        each = kinds if counted else kinds * len(value)
        pairs = zip(each, value, strict=False)
        return len(each) == len(value) and all(kind[1](item) for kind, item in pairs)

    return f"{how_many}, each {kinds[0][0]}", fit


def _kind_of_any_number(each: _Kind) -> _Kind:
    """Return the kind of what can be gone through, of which iterators only once."""

    def fit(value: object) -> bool:
        if not isinstance(value, Iterable) or isinstance(value, str | type):
            return False
        if hasattr(value, "dtype"):  # of tensors and arrays
            return False
        return not isinstance(value, Sequence) or all(map(each[1], value))

    return f"several, each {each[0]}", fit


def _kind_of_class(hint: type) -> _Kind:
    if hint is bool:
        return "True or False", _is_bool
    if hint is int:
        return "a whole number", _is_whole
    if hint is float:
        return "a finite number", _is_number
    if hint is NoneType:
        return "None", lambda value: value is None
    if hint is Tensor or issubclass(hint, AbstractArray):
        return _kind_of_tensor(hint)
    if getattr(hint, "_is_protocol", False) and not hasattr(hint, _RUNTIME):
        return _OPEN
    word = "string" if hint is str else hint.__name__
    article = "an" if word[0] in "AEIOU" else "a"
    return f"{article} {word}", lambda value: isinstance(value, hint)


def _kind_of_tensor(hint: Any) -> _Kind:
    """Read `Tensor`, or one of jaxtyping: then also its dtype."""
    dtypes = getattr(hint, "dtypes", ())

    def fits(value: object) -> bool:
        if not isinstance(value, Tensor) or value.is_complex():
            return False
        return not dtypes or _dtype(value) in dtypes

    shape = f" {Shape.of(hint)}" if dtypes else ""
    return _TENSORS.get(getattr(hint, "dtype", None), _TENSOR) + shape, fits


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


_RUNTIME = "_is_runtime_protocol"


def _is_whole(value: object) -> bool:
    whole = hasattr(value, "__index__") and not isinstance(value, Tensor)
    return whole and is_number(value)


def _is_number(value: object) -> bool:
    """Return whether it is a finite number; tensors may not be looked at."""
    return is_number(value) and (isinstance(value, Tensor) or is_finite(value))


def _is_number_or_infinite(value: object) -> bool:
    return _is_number(value) or (is_number(value) and value == math.inf)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool) or type(value).__name__ == "bool_"  # numpy's
