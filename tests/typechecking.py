"""The run-time checks of the test suite, installed by `conftest.py`."""

import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# As type checkers have it, an int is welcome where a float is expected; and, as the
# library has it, numpy's numbers where Python's are.
NUMBERS = FrozenDict(
    {int: int | np.integer, float: float | int | np.integer | np.floating}
)
check = beartype(conf=BeartypeConf(hint_overrides=NUMBERS, violation_type=TypeError))

_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check types and shapes of every call into diffplan; must precede its import.

    jaxtyping opens a record of sizes for each call of each function. Nine calls of ten
    are of functions without shapes: their types are checked without one. Functions
    inside of functions are not checked, which would compile checks at each definition.
    Together this made calls of planners three times as long.
    """
    jaxtyping.jaxtyped = _checked  # what the hook writes above functions
    jaxtyping.install_import_hook("diffplan", "typechecking.check")


def _checked(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    with_shapes = _jaxtyped(typechecker=typechecker)

    def decorate(what: Any) -> Any:
        if "<locals>" in getattr(what, "__qualname__", ""):
            return what
        notes = getattr(what, "__annotations__", {}).values()
        plain = callable(what) and not isinstance(what, type)
        if plain and not any(_may_have_shapes(note) for note in notes):
            return typechecker(what)
        return with_shapes(what)

    return decorate


def _may_have_shapes(note: Any) -> bool:
    """Whether an annotation has a shape somewhere; a string may stand for one."""
    if isinstance(note, str | typing.ForwardRef):
        return True
    if isinstance(note, type) and issubclass(note, jaxtyping.AbstractArray):
        return True
    inner = note if isinstance(note, list | tuple) else typing.get_args(note)
    return any(_may_have_shapes(each) for each in inner)
