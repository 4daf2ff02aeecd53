"""The box of actions that every planning problem has."""

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, ShapeError


class Box:
    """The actions that are allowed: `low ≤ action ≤ high`, per dimension.

    Args:
        low: Lower bounds `[A]`, a tensor or numbers; `-inf` leaves a side open.
        high: Upper bounds `[A]`, likewise; `inf` leaves a side open.

    Raises:
        ShapeError: the bounds are no vectors of one length.
        ArgumentError: a bound is NaN, or some `low` exceeds its `high`.

    Example:
        >>> Box([-1.0, -1.0], [1.0, 1.0]).dim
        2
    """

    def __init__(self, low: Tensor | list[float], high: Tensor | list[float]) -> None:
        self.low = torch.as_tensor(low, dtype=_float_dtype(low))
        self.high = torch.as_tensor(high, dtype=self.low.dtype)
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ShapeError(
                "action_space: expected low and high of one shape [A], got "
                f"{list(self.low.shape)} and {list(self.high.shape)}"
            )
        if self.low.isnan().any() or self.high.isnan().any():
            raise ArgumentError("action_space: expected bounds, got NaN")
        if (self.low > self.high).any():
            worst = int((self.low - self.high).argmax())
            raise ArgumentError(
                "action_space: expected low ≤ high in every dimension, got low "
                f"{float(self.low[worst])} above high {float(self.high[worst])} "
                f"in dimension {worst}"
            )

    @property
    def dim(self) -> int:
        """Number of action dimensions, A."""
        return self.low.shape[0]

    def to(self, like: Tensor) -> "Box":
        """Return this box in the dtype and on the device of `like`."""
        if self.low.dtype == like.dtype and self.low.device == like.device:
            return self
        # Not checked again: the comparisons would break torch.compile and vmap.
        moved = Box.__new__(Box)
        moved.low, moved.high = self.low.to(like), self.high.to(like)
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
        box = self.to(actions)
        return actions.clamp(box.low, box.high)

    def contains(self, actions: Tensor) -> Tensor:
        """Return where actions `[…, A]` are allowed, exactly; booleans `[…]`."""
        box = self.to(actions)
        return ((actions >= box.low) & (actions <= box.high)).all(dim=-1)

    def excess(self, actions: Tensor) -> Tensor:
        """Return how far actions `[…, A]` lie outside, per dimension and signed.

        Positive above `high`, negative below `low`, zero inside; its square summed is
        LatCo's action constraint `max(0, |a| - a_m)²` (paper, Eq. 8) for any box.
        """
        return actions - self.project(actions)

    def __repr__(self) -> str:
        return f"Box(low={self.low.tolist()}, high={self.high.tolist()})"


def _float_dtype(value: Tensor | list[float]) -> torch.dtype:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.dtype
    return torch.get_default_dtype()
