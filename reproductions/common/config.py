"""Settings by path, `training.batch_size=16`, on nested frozen dataclasses.

A reproduction's settings are frozen dataclasses with defaults. An override names a
field by its path and gives a value, which is read as the field's type asks. Wrong names
and values are refused before anything runs, with the closest names that exist.
"""

import dataclasses
import difflib
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from diffplan.errors import ArgumentError, DiffplanError, UnknownNameError
from diffplan.training._run_record import plain

Config = TypeVar("Config")

BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
DESCRIPTION_WIDTH = 88


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return a copy of a configuration with some values replaced.

    Args:
        config: A frozen dataclass, which may hold others.
        overrides: Texts `path=value` such as `model.hidden_size=64`. Sequences are
            written `1,2,3`, "none" stands for None.

    Raises:
        UnknownNameError: there is no such field; lists close matches.
        ArgumentError: the text is no override, or the value does not fit.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Wind:
        ...     speed: float = 1.0
        >>> apply_overrides(Wind(), ["speed=2"])
        Wind(speed=2.0)
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ArgumentError(f"override: expected key=value, got {text!r}")
        config = _replaced(config, path.split("."), value, path, config)
    return config


def resolved(config: Any) -> dict[str, Any]:
    """Return all settings as nested dictionaries that JSON knows."""
    content: dict[str, Any] = json.loads(json.dumps(plain(config)))
    return content


def keys(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and one line of documentation of every setting.

    The documentation is what the dataclass says under "Attributes:".
    """
    documentation = attribute_docs(type(config))
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{path}.")
        else:
            yield path, value, documentation.get(item.name, "")


def describe(config: Any) -> str:
    """Return one paragraph per setting: `key = value`, and what it is."""
    lines: list[str] = []
    for path, value, text in keys(config):
        lines.append(f"  {path}={_written(value)}")
        lines += textwrap.wrap(
            text,
            DESCRIPTION_WIDTH,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
    return "\n".join(lines)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what a class's docstring says under "Attributes:", by name."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        head, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name, found[head] = head, rest
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def choose(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise.

    Raises:
        UnknownNameError: lists close matches, or all names if none is close.
    """
    if value not in allowed:
        close = difflib.get_close_matches(value, allowed, cutoff=0.5) or allowed
        raise UnknownNameError(
            f"{name}: there is no {value!r}; did you mean {', '.join(close)}?"
        )
    return value


def _replaced(config: Any, path: list[str], text: str, whole: str, root: Any) -> Any:
    names = [item.name for item in dataclasses.fields(config)]
    head, *rest = path
    if head not in names:
        known = [key for key, _, _ in keys(root)]
        close = difflib.get_close_matches(whole, known, n=3, cutoff=0.5)
        raise UnknownNameError(
            f"override: there is no setting {whole!r}; did you mean "
            f"{', '.join(close or sorted(names))}?"
        )
    present = getattr(config, head)
    if rest and not dataclasses.is_dataclass(present):
        raise UnknownNameError(
            f"override: {whole!r} goes into {head!r}, which is a plain value"
        )
    if not rest and dataclasses.is_dataclass(present):
        inner = ", ".join(key for key, _, _ in keys(present, f"{whole}."))
        raise ArgumentError(
            f"override: {whole} is a group of settings; set one of {inner}"
        )
    value = (
        _replaced(present, rest, text, whole, root)
        if rest
        else _parse(whole, text, typing.get_type_hints(type(config))[head])
    )
    try:
        return dataclasses.replace(config, **{head: value})
    except DiffplanError as error:
        raise ArgumentError(f"override {whole}={text}: {error}") from error


def _parse(name: str, text: str, hint: Any) -> Any:
    """Return a text as the value that a type hint asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        (inner,) = [kind for kind in arguments if kind is not type(None)]
        return _parse(name, text, inner)
    if origin is typing.Literal:
        return choose(name, text, arguments)
    if origin is tuple:
        parts = [part for part in text.strip("()[]").split(",") if part.strip()]
        kinds = (
            [arguments[0]] * len(parts)
            if len(arguments) == 2 and arguments[1] is ...
            else list(arguments)
        )
        if len(kinds) != len(parts):
            raise ArgumentError(f"{name}: expected {len(kinds)} values, got {text!r}")
        pairs = zip(parts, kinds, strict=True)
        return tuple(_parse(name, part.strip(), kind) for part, kind in pairs)
    if hint is bool:
        return BOOLEANS[choose(name, text.lower(), tuple(BOOLEANS))]
    try:
        return int(text.replace("_", "")) if hint is int else hint(text)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{name}: expected {getattr(hint, '__name__', hint)}, got {text!r}"
        ) from None


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(item) for item in value)
    return "none" if value is None else str(value)
