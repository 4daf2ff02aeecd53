"""Settings by path, `training.batch_size=16`, on nested frozen records.

Settings of a run are frozen dataclasses with defaults, and `Settings` of what
the library builds. An override names a value by its path; it is read as the field or
argument asks. Wrong names and values are refused before anything runs, with the names
that are close.
"""

import dataclasses
import difflib
import inspect
import json
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from diffplan._runs.settings import Settings, parameters, parsed
from diffplan.errors import ArgumentError, DiffplanError, UnknownNameError
from diffplan.training._run_record import plain

__all__ = ["Settings", "apply_overrides", "describe", "keys", "resolved"]

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
    waiting = list(overrides)
    while waiting:
        refused: dict[str, ArgumentError] = {}
        for text in waiting:
            path, equals, value = text.partition("=")
            if not equals or not path:
                raise ArgumentError(f"{text!r}: expected key=value, a setting")
            try:
                config = _replaced(config, path.split("."), value, path, config)
            except ArgumentError as error:
                refused[text] = error
        # One value may be allowed only beside another one that stands behind it.
        if len(refused) == len(waiting):
            raise next(iter(refused.values()))
        waiting = list(refused)
    return config


def resolved(config: Any) -> dict[str, Any]:
    """Return all settings as nested dictionaries that JSON knows."""
    content: dict[str, Any] = json.loads(json.dumps(plain(config)))
    return content


def keys(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and one line of documentation of every setting.

    The documentation is what the dataclass says under "Attributes:", or the constructor
    of `Settings` under "Args:"; of its arguments, those that were not set too.
    """
    documentation = _documentation(config)
    for name, value in _values(config).items():
        path = f"{prefix}{name}"
        if _is_group(value):
            yield from keys(value, f"{path}.")
        else:
            yield path, value, documentation.get(name, "")


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
        return {**config, **config.free()}
    names = [each.name for each in dataclasses.fields(config)]
    return {name: getattr(config, name) for name in names}


def _documentation(config: Any) -> dict[str, str]:
    if isinstance(config, Settings):
        return section(config.kind, "Args")
    found: dict[str, str] = {}
    for kind in reversed(type(config).__mro__):
        found |= section(kind, "Attributes")
    return found


def _replaced(config: Any, path: list[str], text: str, whole: str, root: Any) -> Any:
    present = _values(config)
    head, *rest = path
    if head not in present:
        raise _unknown(whole, root)
    value = present[head]
    if rest and not _is_group(value):
        raise UnknownNameError(
            f"{whole}: there is no such setting; {head} is a plain value"
        )
    if not rest and _is_group(value):
        inner = ", ".join(key for key, _, _ in keys(value, f"{whole}."))
        raise ArgumentError(f"{whole}: it is a group of settings; set one of {inner}")
    with_values: Callable[..., Any] = partial(dataclasses.replace, config)
    hints = typing.get_type_hints(type(config))
    if isinstance(config, Settings):
        with_values = config.replaced
        hints = {k: p.annotation for k, p in parameters(config.target).items()}
    value = (
        _replaced(value, rest, text, whole, root)
        if rest
        else parsed(whole, text, hints[head])
    )
    try:
        return with_values(**{head: value})
    except DiffplanError as error:
        raise ArgumentError(f"{whole}={text}: {error}") from error


def _unknown(path: str, root: Any) -> UnknownNameError:
    """Return the error about a path; it tells those whose last name is alike."""
    known = {key: key.rpartition(".")[2] for key, _, _ in keys(root)}
    names = difflib.get_close_matches(path.rpartition(".")[2], {*known.values()})
    alike = [key for key, name in known.items() if name in names]
    close = difflib.get_close_matches(path, alike, cutoff=0.0)
    meant = f" (did you mean {', '.join(close)}?)" if close else ""
    return UnknownNameError(
        f"{path}: there is no such setting{meant}; --settings lists all"
    )


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(item) for item in value)
    return "none" if value is None else str(value)
