"""Actions that are choices: one of so many, possibly beside continuous numbers."""

import torch
from torch import Tensor

from diffplan._checks import require_count
from diffplan.constraints._box import Box, BoxLike, as_box, require_vector
from diffplan.errors import ArgumentError
from diffplan.functional._projections import project_simplex


class Categorical(Box):
    """Actions that choose: each choice is a block of numbers, one of them 1, others 0.

    An action is `[A]`: first the numbers of `box`, if there is one (mixed actions),
    then a one-hot block for each choice. Dynamics and objective see those numbers; an
    index is `action[..., -n:].argmax(-1)`.

    Sampling planners take this space; planners that descend a cost refuse it. Their
    probabilities are points in between: those of a block are at least 0 and sum to 1.

    Args:
        *sizes: How many options each choice has.
        box: Bounds of the continuous numbers; None if all is chosen.

    Raises:
        ArgumentError: there is no choice, or one has no option.
        TensorTypeError, ShapeError: `box` is no box.

    Example:
        >>> space = Categorical(3, box=Box([-1.0], [1.0]))
        >>> space.dim
        4
        >>> space.project(torch.tensor([2.0, 0.2, 0.7, 0.1]))
        tensor([1., 0., 1., 0.])
    """

    def __init__(self, *sizes: int, box: BoxLike | None = None) -> None:
        if not sizes:
            raise ArgumentError("sizes: expected how many options there are, got none")
        self.sizes = tuple(require_count("sizes", size) for size in sizes)
        count = sum(self.sizes)
        low, high = torch.zeros(count).double(), torch.ones(count).double()
        self.box = None if box is None else require_vector("box", as_box("box", box))
        if isinstance(self.box, Categorical):
            raise ArgumentError("box: expected a dp.Box, got a dp.Categorical")
        if self.box is not None:
            low = torch.cat([self.box.low, low.to(self.box.low)])
            high = torch.cat([self.box.high, high.to(self.box.high)])
        super().__init__(low, high)

    def to(self, like: Tensor) -> "Categorical":
        """Return this space in the dtype and on the device of `like`."""
        box = super().to(like)
        if box is self:
            return self
        moved = Categorical.__new__(Categorical)
        moved.low, moved.high = box.low, box.high
        moved.sizes = self.sizes
        moved.box = None if self.box is None else self.box.to(like)
        return moved

    @property
    def center(self) -> Tensor:
        """Middle of the box, and equal probabilities of all options `[A]`."""
        numbers, *blocks = self.split(self.low)
        numbers = numbers if self.box is None else self.box.center
        equal = [torch.full_like(block, 1 / block.shape[-1]) for block in blocks]
        return torch.cat([numbers, *equal], dim=-1)

    def split(self, actions: Tensor) -> tuple[Tensor, ...]:
        """Return the continuous numbers of `[…, A]` and then each choice's block."""
        count = 0 if self.box is None else self.box.dim
        return actions.split([count, *self.sizes], dim=-1)

    def project(self, actions: Tensor, step: int | None = None) -> Tensor:
        """Return allowed actions: each block's largest number becomes its choice.

        That has no derivative: a block's is that of the identity (straight-through),
        except for infinite numbers.

        Args:
            actions: `[…, A]`.
            step: As for `Box`; choices are the same at all steps.
        """
        numbers, *_ = self.split(super().project(actions))
        _, *blocks = self.split(actions)
        chosen = [_one_hot(block) + _straight_through(block) for block in blocks]
        return torch.cat([numbers, *chosen], dim=-1)

    def hull(self, actions: Tensor) -> Tensor:
        """Return the nearest numbers inside the box and probabilities, `[…, A]`."""
        numbers, *_ = self.split(super().project(actions))
        _, *blocks = self.split(actions)
        one = actions.new_ones(())
        nearest = [
            project_simplex(block, one, torch.zeros_like(block), torch.ones_like(block))
            for block in blocks
        ]
        return torch.cat([numbers, *nearest], dim=-1)

    def contains(self, actions: Tensor) -> Tensor:
        """Return where actions `[…, A]` are allowed, exactly; booleans `[…]`."""
        inside = super().contains(actions)
        for block in self.split(actions)[1:]:
            inside = inside & (block == _one_hot(block)).all(dim=-1)
        return inside

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return (
            f"Categorical({sizes})"
            if self.box is None
            else (f"Categorical({sizes}, box={self.box})")
        )


def _straight_through(block: Tensor) -> Tensor:
    """Return zeros with the derivative of the block; NaN where it is NaN."""
    return torch.where(block.isinf(), 0.0, block - block.detach())


def _one_hot(block: Tensor) -> Tensor:
    largest = block.argmax(dim=-1, keepdim=True)
    options = torch.arange(block.shape[-1], device=block.device)
    return (options == largest).to(block.dtype)
