"""Settings made from the signature of what they build, so that no class mirrors it.

Hydra-zen was tried on LatCo's comparison and left: OmegaConf knows no `Literal` (it
took `engine=theseusx`), makes lists of tuples, its errors name no alternatives, and an
entry `_target_` in each record would make every unit that is done another one.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diffplan._checks import require_known
from diffplan._kinds import constructors, hands_on
from diffplan.errors import ArgumentError

BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
_PLAIN = (bool, int, float, str)


class Settings(Mapping[str, Any]):
    """Some arguments of a constructor, by name; the others keep its defaults.

    As a mapping, and in JSON, it holds what was set here and nothing else. Each value
    is also an attribute. It never changes.

    Args:
        target: A class of the library, or a function that builds one. A
            `functools.partial` binds what is no setting.
        **values: Arguments, by name.

    Raises:
        UnknownNameError: the target has no such argument; lists close matches.

    Example:
        >>> from diffplan.planners import CEM
        >>> settings = Settings(CEM, num_samples=100, num_elites=10)
        >>> settings.build(horizon=5).num_samples
        100
        >>> dict(settings.replaced(num_elites=20))
        {'num_samples': 100, 'num_elites': 20}
    """

    def __init__(self, target: Callable[..., Any], /, **values: Any) -> None:
        known = parameters(target)
        for name in values:
            require_known(f"argument of {kind_of(target).__name__}", name, known)
        self.__dict__.update(target=target, _values=values)

    @classmethod
    def full(cls, target: Callable[..., Any]) -> "Settings":
        """Return settings that hold every argument with a default."""
        pairs = parameters(target).items()
        return cls(
            target, **{k: p.default for k, p in pairs if p.default is not p.empty}
        )

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling ask for attributes before there are values.
        values = self.__dict__.get("_values", {})
        if name not in values:
            raise AttributeError(name)
        return values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: settings never change; use `replaced`")

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.items())
        return f"{self.kind.__name__}({values})"

    @property
    def kind(self) -> Any:
        """The class, or the function, behind the target."""
        return kind_of(self.target)

    def replaced(self, **values: Any) -> "Settings":
        """Return a copy with some values replaced or added."""
        return Settings(self.target, **{**self, **values})

    def build(self, *arguments: Any, **more: Any) -> Any:
        """Return what the target makes of the settings and of what is given here."""
        return self.target(*arguments, **{**self, **more})

    def free(self) -> dict[str, Any]:
        """Return the arguments that keep their default, of those that a text can set.

        Arguments without a default are no settings: `build` is given them.
        """
        return {
            name: parameter.default
            for name, parameter in parameters(self.target).items()
            if name not in self
            and parameter.default is not parameter.empty
            and plain_kind(parameter.annotation) is not None
        }


def kind_of(target: Callable[..., Any]) -> Any:
    """Return the class or function behind partials and constructors of a class."""
    target = _unbound(target)
    owner = getattr(target, "__self__", None)
    return owner if isinstance(owner, type) else target


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments of a callable, with hints for annotations.

    Those of its class too, where a constructor such as `LatCo.released` hands them on,
    and those of base classes that a class hands its `**options` on to.
    """
    function, kind = _unbound(target), kind_of(target)
    found = dict(inspect.signature(target).parameters)
    if hands_on(found) and function is not kind:
        function, found = kind, {**found, **inspect.signature(kind).parameters}
    first, *bases = constructors(function) if isinstance(function, type) else [function]
    hints = typing.get_type_hints(first)
    for base in bases:
        _, *more = inspect.signature(base).parameters.items()  # without self
        found |= {name: each for name, each in more if name not in found}
        hints = typing.get_type_hints(base) | hints
    return {
        name: each.replace(annotation=hints[name])
        for name, each in found.items()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }


def _unbound(target: Any) -> Any:
    while isinstance(target, functools.partial):
        target = target.func
    return target


def plain_kind(hint: Any) -> Any:
    """Return the part of a type hint that a text can be read as; None if there is none.

    Example:
        >>> plain_kind(float | list | None)
        <class 'float'>
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(filter(None, map(plain_kind, typing.get_args(hint))), None)
    if hint in _PLAIN or typing.get_origin(hint) is typing.Literal:
        return hint
    if typing.get_origin(hint) is tuple:
        parts = [part for part in typing.get_args(hint) if part is not ...]
        return hint if all(map(plain_kind, parts)) else None
    return None


def parsed(name: str, text: str, hint: Any) -> Any:
    """Return a text as the value that a type hint asks for.

    Raises:
        ArgumentError: it is none, or no text can be; names what was expected.
    """
    if type(None) in typing.get_args(hint) and text.lower() == "none":
        return None
    kind = plain_kind(hint)
    if kind is None:
        raise ArgumentError(f"{name}: expected to be set in Python, got {text!r}")
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return require_known(name, text, arguments)
    if typing.get_origin(kind) is tuple:
        parts = [part for part in text.strip("()[]").split(",") if part.strip()]
        kinds = (
            [arguments[0]] * len(parts)
            if len(arguments) == 2 and arguments[1] is ...
            else list(arguments)
        )
        if len(kinds) != len(parts):
            raise ArgumentError(f"{name}: expected {len(kinds)} values, got {text!r}")
        pairs = zip(parts, kinds, strict=True)
        return tuple(parsed(name, part.strip(), each) for part, each in pairs)
    if kind is bool:
        return BOOLEANS[require_known(name, text.lower(), tuple(BOOLEANS))]
    try:
        return int(text.replace("_", "")) if kind is int else kind(text)
    except ValueError:
        raise ArgumentError(f"{name}: expected {kind.__name__}, got {text!r}") from None
