"""Shapes that are written in annotations: the tensors of a call must fit together.

As in `def step(state: Float[Tensor, "*batch S"], action: Float[Tensor, "*batch A"])`.
A name stands for one size wherever it occurs in a call, `some=A` for an A above zero,
`T+1` for one more than T, `#A` for A or one, `_` for any size; `*batch` for the same
leading dimensions everywhere, and `*#batch` for leading dimensions that broadcast. Only
shapes, dtypes and devices are looked at, never a number.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import AbstractDtype
from torch import Tensor

from diffplan._checks import require_tensor
from diffplan.errors import ShapeError, TensorTypeError

__all__ = ["Given", "Precise", "Shape", "fitted", "require_agreement"]

if TYPE_CHECKING:
    from typing import Annotated as Precise
else:

    class Precise(AbstractDtype):
        """Tensors of a call that are factorised or multiplied, all in one dtype."""

        dtypes = ("float32", "float64")


_ANY = "_"


class Shape(NamedTuple):
    """What an annotation says of a tensor.

    Attributes:
        lead: The name of the leading dimensions, "" for any, None where there are none.
        broadcasts: Whether leading dimensions need not be the same everywhere.
        sizes: Of the last dimensions.
        some: Those that are above zero.
        precise: Whether all such tensors of a call have one dtype.
    """

    lead: str | None
    broadcasts: bool
    sizes: tuple[str, ...]
    some: tuple[str, ...]
    precise: bool

    @classmethod
    def of(cls, annotation: type) -> "Shape":
        """Read an annotation of jaxtyping."""
        sizes = getattr(annotation, "dim_str", "").split()
        lead = sizes.pop(0) if sizes and sizes[0][0] in ".*" else None
        some = tuple(size[5:] for size in sizes if size.startswith("some="))
        return cls(
            lead=None if lead is None else lead.strip(".*#"),
            broadcasts="#" in (lead or ""),
            sizes=tuple(size.removeprefix("some=") for size in sizes),
            some=some,
            precise=getattr(annotation, "dtype", None) is Precise,
        )

    def __str__(self) -> str:
        """As in docstrings: `[…, T, A]`."""
        return f"[{', '.join(['…'] * (self.lead is not None) + list(self.sizes))}]"


Given = tuple[str, Shape, Tensor]
"""The name of an argument, what its annotation says, and the tensor."""


def require_agreement(given: Sequence[Given]) -> None:
    """Check that the tensors of a call fit their annotations, and so each other.

    Raises:
        ShapeError: one does not; names it, and which other says so.
        TensorTypeError: they differ in dtype or device.
    """
    known: dict[str, tuple[int, str]] = {}
    for name, shape, value in given:
        _require_dimensions(name, shape, value)
        for size, got in zip(shape.sizes, _last(shape, value), strict=True):
            if got == 0 and size in shape.some:
                raise _misfit(name, shape, value, f"{size} must be at least 1")
            if size.isidentifier() and size != _ANY:
                known.setdefault(size, (got, name))
    for name, shape, value in given:
        wrong = [
            size
            for size, got in zip(shape.sizes, _last(shape, value), strict=True)
            if _value(size, known) not in (got, None)
            and not (size[0] == "#" and got == 1)
        ]
        if wrong:
            terms = dict.fromkeys(term for size in wrong for term in _terms(size))
            why = [
                f"{t} is {known[t][0]} in {known[t][1]}" for t in terms if t in known
            ]
            raise _misfit(name, shape, value, ", ".join(why))
    _require_leading(given)
    _require_one_dtype(given)


def fitted(name: str, value: Tensor, sizes: Sequence[int], like: Tensor) -> Tensor:
    """Return a tensor `[*sizes]` in the precision of what it must fit.

    Raises:
        TensorTypeError: it is no tensor of real numbers.
        ShapeError: it has another shape, or is on another device.
    """
    shape = require_tensor(name, value).shape
    # Iterations ask this hundreds of times: nothing is built where all fits.
    if shape != tuple(sizes) or value.device != like.device:
        raise ShapeError(
            f"{name}: expected {list(sizes)} on {like.device}, got {list(shape)} on "
            f"{value.device}"
        )
    return value if value.dtype == like.dtype else value.to(like.dtype)


def _require_dimensions(name: str, shape: Shape, value: Tensor) -> None:
    more = value.ndim - len(shape.sizes)
    if more < 0 or (more > 0 and shape.lead is None):
        raise _misfit(name, shape, value, "the number of dimensions differs")


def _require_leading(given: Sequence[Given]) -> None:
    leads: dict[str, tuple[torch.Size, str]] = {}
    for name, shape, value in given:
        if not shape.lead:
            continue
        lead = value.shape[: value.ndim - len(shape.sizes)]
        known, where = leads.setdefault(shape.lead, (lead, name))
        if lead == known:
            continue
        if not shape.broadcasts:
            why = f"leading dimensions must be those of {where}, {list(known)}"
            raise _misfit(name, shape, value, why)
        try:
            leads[shape.lead] = torch.broadcast_shapes(lead, known), f"{where}, {name}"
        except RuntimeError:
            why = f"leading dimensions must broadcast with {list(known)} of {where}"
            raise _misfit(name, shape, value, why) from None


def _require_one_dtype(given: Sequence[Given]) -> None:
    # Numbers `[]` on the CPU take part in anything.
    wide = [g for g in given if g[2].ndim or g[1].precise or g[2].device.type != "cpu"]
    for name, shape, value in wide:
        first, like = next((n, v) for n, s, v in wide if s.precise >= shape.precise)
        if value.device != like.device or (shape.precise and value.dtype != like.dtype):
            raise TensorTypeError(
                f"{name}: expected {like.dtype} on {like.device} as {first}, got "
                f"{value.dtype} on {value.device}"
            )


def _last(shape: Shape, value: Tensor) -> torch.Size:
    return value.shape[value.ndim - len(shape.sizes) :]


def _terms(size: str) -> list[str]:
    return size.lstrip("#").replace("-", "+-").split("+")


def _value(size: str, known: dict[str, tuple[int, str]]) -> int | None:
    """Return what a size must be; None if it may be any."""
    try:
        return sum(known[t][0] if t in known else int(t) for t in _terms(size))
    except ValueError:
        return None


def _misfit(name: str, shape: Shape, value: Tensor, why: str) -> ShapeError:
    return ShapeError(f"{name}: expected {shape}, got {list(value.shape)}: {why}")
