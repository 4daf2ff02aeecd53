"""The box of actions that every planning problem has."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan._checks import is_traced
from diffplan._problem_data import aligned
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.functional._derivatives import is_followed
from diffplan.functional._isolation import may_look


@runtime_checkable
class ArrayLike(Protocol):
    """An array of numpy, or what can be made one."""

    def __array__(self) -> Any:
        """Return the array."""
        ...


Bounds = Tensor | Sequence[Any] | ArrayLike


@runtime_checkable
class BoxLike(Protocol):
    """A `Box`, or one of another library, such as `gymnasium.spaces.Box`."""

    low: Any
    high: Any


class Box:
    """The actions that are allowed: `low ≤ action ≤ high`, per dimension.

    Bounds `[A]` hold for every action. Others have the shape of actions: `[T, A]` are
    bounds of each step, and `[…, T, A]` of each problem too, with the leading
    dimensions of the states that are planned from. T is the planner's horizon, or 1 for
    bounds that are the same at all steps: `[B, 1, A]` are bounds of each problem alone.
    Step 0 is the first action of each plan, so that bounds of an episode are shifted
    between plans.

    Numbers are kept in float64, tensors in their own dtype. For actions of less
    precision the bounds are rounded inwards, so that allowed actions keep the bounds
    that were given: 0.1 becomes 0.099999994 in float32. Where no number of that dtype
    lies in between (low = high = 0.1), the nearest one is allowed.

    Args:
        low: Lower bounds, a tensor or numbers; `-inf` leaves a side open.
        high: Upper bounds, likewise; `inf` leaves a side open. One of both may have
            fewer dimensions, or ones in their place.

    Raises:
        TensorTypeError: the bounds are no real numbers.
        ShapeError: the bounds are of different shapes, numbers, or empty.
        ArgumentError: a bound is NaN, some `low` exceeds its `high`, or no finite
            action lies between them.

    Example:
        >>> Box([-1.0, -1.0], [1.0, 1.0]).dim
        2
        >>> Box([-1.0], [[1.0], [0.5], [0.0]]).steps
        3
    """

    per_problem: ClassVar[Mapping[str, int]] = {"low": 2, "high": 2}
    low: Tensor
    high: Tensor

    def __init__(self, low: Bounds, high: Bounds) -> None:
        self.low, self.high = _as_bounds("low", low), _as_bounds("high", high)
        dtype = torch.promote_types(self.low.dtype, self.high.dtype)
        self.low = self.low.to(dtype)
        self.high = self.high.to(self.low)
        if 0 in (self.low.ndim, self.high.ndim) or not _fit(self.low, self.high):
            raise ShapeError(
                "action_space: expected low and high of one shape, [A], [T, A] or "
                f"[…, T, A], got {list(self.low.shape)} and {list(self.high.shape)}"
            )
        if self.low.shape != self.high.shape:
            self.low, self.high = torch.broadcast_tensors(self.low, self.high)
        if self.low.numel() == 0:
            raise ShapeError("action_space: expected at least one dimension, got none")
        if not is_traced(self.low) and not is_traced(self.high):
            self._check_numbers()

    def _check_numbers(self) -> None:
        if self.low.isnan().any() or self.high.isnan().any():
            raise ArgumentError("action_space: expected bounds, got NaN")
        if (self.low > self.high).any():
            where = (self.low > self.high).nonzero()[0].tolist()
            low, high = (float(side[tuple(where)]) for side in (self.low, self.high))
            raise ArgumentError(
                "action_space: expected low ≤ high in every dimension, got low "
                f"{low} above high {high} in dimension {where[-1]}"
                + (f" of step {where[-2]}" if len(where) > 1 else "")
            )
        if (self.low == torch.inf).any() or (self.high == -torch.inf).any():
            raise ArgumentError(
                f"action_space: expected room for finite actions, got {self}"
            )

    @property
    def dim(self) -> int:
        """Number of action dimensions, A."""
        return self.low.shape[-1]

    @property
    def steps(self) -> int:
        """Number of steps that there are bounds for; 1 if all steps have the same."""
        return 1 if self.low.ndim == 1 else self.low.shape[-2]

    def require_steps(self, horizon: int) -> None:
        """Check that there are bounds for all steps of a plan, and no others.

        Args:
            horizon: T of the planner.

        Raises:
            ShapeError: there are bounds for another number of steps.
        """
        if self.steps not in (1, horizon):
            raise ShapeError(
                f"action_space: expected bounds [A], or […, {horizon}, A] with one for "
                f"each step of the planner's horizon {horizon}, got "
                f"{list(self.low.shape)}; bounds of each problem that hold at all "
                "steps are […, 1, A]"
            )

    def at(self, step: int) -> "Box":
        """Return the bounds of one step as those of all steps, `[A]` or `[…, 1, A]`.

        Args:
            step: From 0 to T - 1.
        """
        if self.low.ndim == 1:
            return self
        step = min(step, self.steps - 1)
        sides = (side[..., step : step + 1, :] for side in (self.low, self.high))
        low, high = (side.squeeze(0) if side.ndim == 2 else side for side in sides)
        return _unchecked(low, high)

    def per_step(self, count: int) -> "list[tuple[Tensor, Tensor]]":
        """Return lower and upper bounds of each step: `[A]`, or `[…, A]` if they vary.

        Args:
            count: Number of steps.
        """
        if self.low.ndim == 1:
            return [(self.low, self.high)] * count
        shape = (*self.low.shape[:-2], count, self.dim)
        sides = (side.expand(shape).unbind(-2) for side in (self.low, self.high))
        return list(zip(*sides, strict=True))

    def to(self, like: Tensor) -> "Box":
        """Return this box in the dtype and on the device of `like`.

        In float32 it is the largest one inside this box.
        """
        if self.low.dtype == like.dtype and self.low.device == like.device:
            return self
        low, high = self.low.to(like.device), self.high.to(like.device)
        moved_low, moved_high = low.to(like.dtype), high.to(like.dtype)
        if low.dtype == torch.float64 and like.dtype == torch.float32:
            inside_low = _stepped(moved_low, low, 1)
            inside_high = _stepped(moved_high, high, -1)
            # Between neighbours there may be none: then the nearest.
            empty = inside_low > inside_high
            middle = (low / 2 + high / 2).to(like.dtype)
            moved_low = torch.where(empty, middle, inside_low)
            moved_high = torch.where(empty, middle, inside_high)
        return _unchecked(moved_low, moved_high)

    def aligned(self, actions: Tensor) -> "Box":
        """Return this box in the dtype of actions, with bounds that line up with them.

        Args:
            actions: `[…, A]`, or `[…, T, A]` for bounds that depend on the step; those
                of each problem come first, candidates and starts may follow them.

        Raises:
            ShapeError: the actions are of another size, number of steps or batch.
        """
        box, count = self.to(actions), self.low.ndim - 2
        if count < 0 and actions.shape[-1:] == self.low.shape:
            return box
        steps = actions.shape[-2:-1]
        fits = actions.ndim > 1 and self.dim == actions.shape[-1]
        fits = fits and self.steps in (1, *steps)
        if count < 0 or not fits or actions.shape[:-2][:count] != self.low.shape[:-2]:
            sizes = [*self.low.shape[:-2], "…", *["T"] * (count >= 0), self.dim]
            if self.steps > 1:
                sizes[-2] = self.steps
            raise ShapeError(
                f"actions: expected [{', '.join(map(str, sizes))}] for {self}, got "
                f"{list(actions.shape)}"
            )
        if count == 0:
            return box
        sides = (box.low, box.high)
        low, high = (aligned("action_space", v, actions, 2, covers=2) for v in sides)
        return _unchecked(low, high)

    @property
    def center(self) -> Tensor:
        """Middle of the box `[A]`; the nearest point to zero where a side is open.

        In the shape of the bounds, as `scale`.
        """
        nearest = torch.zeros_like(self.low).clamp(self.low, self.high)
        # Halved first: the sum of large bounds is infinite. NaN where a side is open.
        middle = self.low / 2 + self.high / 2
        return torch.where(middle.abs() < torch.inf, middle, nearest)

    @property
    def scale(self) -> Tensor:
        """Half the width `[A]`; 1 where a side is open."""
        bounded = torch.isfinite(self.low) & torch.isfinite(self.high)
        low, high = self.low.nan_to_num(0, 0, 0), self.high.nan_to_num(0, 0, 0)
        return torch.where(bounded, high / 2 - low / 2, torch.ones_like(self.low))

    def project(self, actions: Tensor, step: int | None = None) -> Tensor:
        """Return the nearest allowed actions, same shape `[…, A]`.

        Args:
            actions: `[…, A]`; `[…, T, A]` for bounds that depend on the step or the
                problem.
            step: The only step that they are actions of, as of a policy that is rolled
                out: `[…, A]` whatever the bounds are.
        """
        if step is not None and self.low.ndim > 1:
            return self.at(step).project(actions.unsqueeze(-2)).squeeze(-2)
        box = self.aligned(actions)
        low, high = box.low, box.high
        # Between tensors `clamp` takes actions one by one on a CPU, between numbers
        # eight at once: four times as fast. A bound that is learned stays a tensor.
        if low.ndim == 1 and may_look(low) and not is_followed(low, high):
            lows, highs = low.tolist(), high.tolist()
            if len(set(lows)) == len(set(highs)) == 1:
                return actions.clamp(lows[0], highs[0])
        return actions.clamp(low, high)

    def contains(self, actions: Tensor) -> Tensor:
        """Return where actions `[…, A]` are allowed, exactly; booleans `[…]`."""
        box = self.aligned(actions)
        return ((actions >= box.low) & (actions <= box.high)).all(dim=-1)

    def excess(self, actions: Tensor) -> Tensor:
        """Return how far actions `[…, A]` lie outside, per dimension and signed.

        Positive above `high`, negative below `low`, zero inside; its square summed is
        LatCo's action constraint `max(0, |a| - a_m)²` (paper, Eq. 8) for any box.
        """
        return actions - self.project(actions)

    def __repr__(self) -> str:
        if self.low.ndim > 1:  # too many numbers for a message
            return f"Box(low and high {list(self.low.shape)})"
        return f"Box(low={self.low.tolist()}, high={self.high.tolist()})"


def _unchecked(low: Tensor, high: Tensor) -> Box:
    # The comparisons of numbers would break torch.compile and vmap.
    box = Box.__new__(Box)
    box.low, box.high = low, high
    return box


def _fit(low: Tensor, high: Tensor) -> bool:
    """Whether two bounds have one shape, or one that ones stand for in the other."""
    sizes = zip(reversed(low.shape), reversed(high.shape), strict=False)
    leading = low.shape[-1] == high.shape[-1]
    return leading and all(a == b or 1 in (a, b) for a, b in sizes)


def require_vector(name: str, box: Box) -> Box:
    """Return a box if its bounds are the same for all steps and problems, `[A]`.

    Args:
        name: The argument's name, for the message.
        box: A box.

    Raises:
        ShapeError: its bounds depend on the step or the problem.
    """
    if box.low.ndim != 1:
        raise ShapeError(f"{name}: expected bounds [A], got {list(box.low.shape)}")
    return box


def require_bounded(name: str, box: Box) -> Box:
    """Return a box of vectors without an open side.

    Args:
        name: The argument's name, for the message.
        box: A box.

    Raises:
        ShapeError: its bounds depend on the step or the problem.
        ArgumentError: a bound is infinite.
    """
    require_vector(name, box)
    if not (torch.isfinite(box.low) & torch.isfinite(box.high)).all():
        raise ArgumentError(f"{name}: expected finite bounds, got {box}")
    return box


def as_box(name: str, value: BoxLike) -> Box:
    """Return a box: itself, or made of any object with vectors `low` and `high`.

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
    return require_vector(name, Box(low, high))


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
