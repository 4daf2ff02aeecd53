"""The box of actions that every planning problem has."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, ShapeError, TensorTypeError


@runtime_checkable
class ArrayLike(Protocol):
    """An array of numpy, or what can be made one."""

    def __array__(self) -> Any:
        """Return the array."""
        ...


Bounds = Tensor | Sequence[float] | ArrayLike


@runtime_checkable
class BoxLike(Protocol):
    """A `Box`, or one of another library, such as `gymnasium.spaces.Box`."""

    low: Any
    high: Any


class Box:
    """The actions that are allowed: `low ≤ action ≤ high`, per dimension.

    Numbers are kept in float64, tensors in their own dtype. For actions of less
    precision the bounds are rounded inwards, so that allowed actions keep the bounds
    that were given: 0.1 becomes 0.099999994 in float32. Where no number of that dtype
    lies in between (low = high = 0.1), the nearest one is allowed.

    Args:
        low: Lower bounds `[A]`, a tensor or numbers; `-inf` leaves a side open.
        high: Upper bounds `[A]`, likewise; `inf` leaves a side open.

    Raises:
        TensorTypeError: the bounds are no real numbers.
        ShapeError: the bounds are no vectors of one length, or empty.
        ArgumentError: a bound is NaN, some `low` exceeds its `high`, or no finite
            action lies between them.

    Example:
        >>> Box([-1.0, -1.0], [1.0, 1.0]).dim
        2
    """

    def __init__(self, low: Bounds, high: Bounds) -> None:
        self.low, self.high = _as_bounds("low", low), _as_bounds("high", high)
        dtype = torch.promote_types(self.low.dtype, self.high.dtype)
        self.low = self.low.to(dtype)
        self.high = self.high.to(self.low)
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ShapeError(
                "action_space: expected low and high of one shape [A], got "
                f"{list(self.low.shape)} and {list(self.high.shape)}"
            )
        if len(self.low) == 0:
            raise ShapeError("action_space: expected at least one dimension, got none")
        if self.low.isnan().any() or self.high.isnan().any():
            raise ArgumentError("action_space: expected bounds, got NaN")
        if (self.low > self.high).any():
            worst = int((self.low - self.high).argmax())
            raise ArgumentError(
                "action_space: expected low ≤ high in every dimension, got low "
                f"{float(self.low[worst])} above high {float(self.high[worst])} "
                f"in dimension {worst}"
            )
        if (self.low == torch.inf).any() or (self.high == -torch.inf).any():
            raise ArgumentError(
                f"action_space: expected room for finite actions, got {self}"
            )

    @property
    def dim(self) -> int:
        """Number of action dimensions, A."""
        return self.low.shape[0]

    def to(self, like: Tensor) -> "Box":
        """Return this box in the dtype and on the device of `like`.

        In float32 it is the largest one inside this box.
        """
        if self.low.dtype == like.dtype and self.low.device == like.device:
            return self
        # Not checked again: the comparisons would break torch.compile and vmap.
        moved = Box.__new__(Box)
        low, high = self.low.to(like.device), self.high.to(like.device)
        moved.low, moved.high = low.to(like.dtype), high.to(like.dtype)
        if low.dtype == torch.float64 and like.dtype == torch.float32:
            inside_low = _stepped(moved.low, low, 1)
            inside_high = _stepped(moved.high, high, -1)
            # Between neighbours there may be none: then the nearest.
            empty = inside_low > inside_high
            middle = ((low + high) / 2).to(like.dtype)
            moved.low = torch.where(empty, middle, inside_low)
            moved.high = torch.where(empty, middle, inside_high)
        return moved

    @property
    def center(self) -> Tensor:
        """Middle of the box `[A]`; the nearest point to zero where a side is open."""
        nearest = torch.zeros_like(self.low).clamp(self.low, self.high)
        middle = (self.low + self.high) / 2  # infinite or NaN where a side is open
        return torch.where(middle.abs() < torch.inf, middle, nearest)

    @property
    def scale(self) -> Tensor:
        """Half the width `[A]`; 1 where a side is open."""
        bounded = torch.isfinite(self.low) & torch.isfinite(self.high)
        low, high = self.low.nan_to_num(0, 0, 0), self.high.nan_to_num(0, 0, 0)
        return torch.where(bounded, (high - low) / 2, torch.ones_like(self.low))

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest allowed actions, same shape `[…, A]`."""
        box = self._for(actions)
        return actions.clamp(box.low, box.high)

    def contains(self, actions: Tensor) -> Tensor:
        """Return where actions `[…, A]` are allowed, exactly; booleans `[…]`."""
        box = self._for(actions)
        return ((actions >= box.low) & (actions <= box.high)).all(dim=-1)

    def excess(self, actions: Tensor) -> Tensor:
        """Return how far actions `[…, A]` lie outside, per dimension and signed.

        Positive above `high`, negative below `low`, zero inside; its square summed is
        LatCo's action constraint `max(0, |a| - a_m)²` (paper, Eq. 8) for any box.
        """
        return actions - self.project(actions)

    def _for(self, actions: Tensor) -> "Box":
        if actions.shape[-1:] != self.low.shape:
            raise ShapeError(
                f"actions: expected […, {self.dim}] for {self}, got "
                f"{list(actions.shape)}"
            )
        return self.to(actions)

    def __repr__(self) -> str:
        return f"Box(low={self.low.tolist()}, high={self.high.tolist()})"


def as_box(name: str, value: BoxLike) -> Box:
    """Return a box, made of any object with vectors `low` and `high`.

    Args:
        name: The argument's name, for the message.
        value: A box.

    Raises:
        TensorTypeError: it has no bounds.
        ShapeError: its bounds are no vectors.
    """
    if isinstance(value, Box):
        return value
    low, high = (getattr(value, side, None) for side in ("low", "high"))
    if isinstance(value, type) or low is None or high is None:
        given = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TensorTypeError(f"{name}: expected a diffplan.Box, got {given}")
    return Box(low, high)


def _as_bounds(side: str, value: Bounds) -> Tensor:
    try:
        # Copied where it is no tensor, and as exact as numbers are.
        bounds = (
            value
            if isinstance(value, Tensor)
            else torch.tensor(value, dtype=torch.float64)
        )
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TensorTypeError(
            f"action_space: expected numbers or a tensor as {side}, got {value!r}"
        ) from error
    if bounds.is_complex():
        raise TensorTypeError(
            f"action_space: expected real numbers as {side}, got {bounds.dtype}"
        )
    return bounds if bounds.is_floating_point() else bounds.double()


def _stepped(rounded: Tensor, exact: Tensor, inwards: int) -> Tensor:
    """Move bounds that rounding has put outside by one number of their dtype."""
    outside = (exact - rounded) * inwards > 0  # NaN, and so not, where both are open
    outside = outside & torch.isfinite(rounded)  # too large for the dtype: open
    step = torch.nextafter(rounded, torch.full_like(rounded, inwards * torch.inf))
    return torch.where(outside, rounded + (step - rounded).detach(), rounded)
