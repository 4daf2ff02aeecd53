"""Settings by path, `training.batch_size=16`, on nested frozen records.

A reproduction's settings are frozen dataclasses with defaults, and `Settings` of what
the library builds. An override names a value by its path; it is read as the field or
argument asks. Wrong names and values are refused before anything runs, with the closest
names that exist.
"""

import dataclasses
import difflib
import inspect
import json
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from diffplan.errors import ArgumentError, DiffplanError, UnknownNameError
from diffplan.training._run_record import plain
from reproductions.common.settings import Settings, choose, parameters, parsed

__all__ = ["Settings", "apply_overrides", "choose", "describe", "keys", "resolved"]

Config = TypeVar("Config")

DESCRIPTION_WIDTH = 88


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return a copy of a configuration with some values replaced.

    Args:
        config: A frozen dataclass, which may hold others and `Settings`.
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

    The documentation is what the dataclass says under "Attributes:", or the constructor
    of `Settings` under "Args:".
    """
    documentation = _documentation(config)
    for name, value in _values(config).items():
        path = f"{prefix}{name}"
        if _is_group(value):
            yield from keys(value, f"{path}.")
        else:
            yield path, value, documentation.get(name, "")


def describe(config: Any, prefix: str = "") -> str:
    """Return one paragraph per setting: `key = value`, and what it is."""
    lines: list[str] = []
    documentation = _documentation(config)
    for name, value in _values(config).items():
        path = f"{prefix}{name}"
        if _is_group(value):
            lines.append(describe(value, f"{path}."))
        else:
            lines.append(f"  {path}={_written(value)}")
            lines += _indented(documentation.get(name, ""))
    if isinstance(config, Settings) and config.free():
        kind, free = config.kind.__name__, ", ".join(config.free())
        lines += _indented(f"({prefix}… as {kind} has it, and can be set: {free})")
    return "\n".join(line for line in lines if line)


def section(documented: Callable[..., Any], title: str) -> dict[str, str]:
    """Return what a docstring says under a title such as "Attributes", by name."""
    text = inspect.cleandoc(documented.__doc__ or "").partition(f"{title}:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            break
        head, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name, found[head] = head, rest
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _is_group(value: object) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, Settings)


def _values(config: Any) -> dict[str, Any]:
    if isinstance(config, Settings):
        return dict(config)
    return {
        each.name: getattr(config, each.name) for each in dataclasses.fields(config)
    }


def _documentation(config: Any) -> dict[str, str]:
    if isinstance(config, Settings):
        return section(config.kind, "Args")
    found: dict[str, str] = {}
    for kind in reversed(type(config).__mro__):
        found |= section(kind, "Attributes")
    return found


def _indented(text: str) -> list[str]:
    margin = " " * 6
    return textwrap.wrap(
        text, DESCRIPTION_WIDTH, initial_indent=margin, subsequent_indent=margin
    )


def _replaced(config: Any, path: list[str], text: str, whole: str, root: Any) -> Any:
    present, free = _values(config), []
    if isinstance(config, Settings):
        free = config.free()
    head, *rest = path
    if head not in (*present, *free):
        prefix = whole.removesuffix(".".join(path))
        known = [key for key, _, _ in keys(root)] + [f"{prefix}{n}" for n in free]
        close = difflib.get_close_matches(whole, known, n=3, cutoff=0.5)
        raise UnknownNameError(
            f"override: there is no setting {whole!r}; did you mean "
            f"{', '.join(close or sorted(present))}?"
        )
    value = present.get(head)
    if rest and not _is_group(value):
        raise UnknownNameError(
            f"override: {whole!r} goes into {head!r}, which is a plain value"
        )
    if not rest and _is_group(value):
        inner = ", ".join(key for key, _, _ in keys(value, f"{whole}."))
        raise ArgumentError(
            f"override: {whole} is a group of settings; set one of {inner}"
        )
    if rest:
        value = _replaced(value, rest, text, whole, root)
    elif isinstance(config, Settings):
        value = parsed(whole, text, parameters(config.target)[head].annotation)
    else:
        value = parsed(whole, text, typing.get_type_hints(type(config))[head])
    try:
        if isinstance(config, Settings):
            return config.replaced(**{head: value})
        return dataclasses.replace(config, **{head: value})
    except DiffplanError as error:
        raise ArgumentError(f"override {whole}={text}: {error}") from error


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(item) for item in value)
    return "none" if value is None else str(value)
