"""The units in which collocation moves actions: about half the width of their box.

One damping and one multiplier per step serve all dimensions of an action, so that these
must be of one size. An action is a = centre + unit · v and the variable is v, with::

    unit = 2 h / (1 + h),   |v| ≤ (1 + h) / 2,   h half the width of the box

This is about 2 h for a narrow box, exactly 1 for [-1, 1] (as in the paper), and never
more than 2, for a wide box says nothing about the size of good actions. An action whose
box is a point has unit 0: it is the centre, whatever v is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.constraints._box import Box
from diffplan.planners._failures import with_value


@dataclass(frozen=True)
class ActionUnits:
    """A box of actions, and the variables v that stand for them.

    Each is `[A]`, or lines up with the actions `[B, T, A]`, as the bounds do.

    Attributes:
        box: The box.
        center: The actions of v = 0.
        unit: The actions' increment for one of v.
        low: Lower limits of v.
        high: Upper limits.
        pinned: Where the box leaves no choice, bool.
    """

    box: Box
    center: Tensor
    unit: Tensor
    low: Tensor
    high: Tensor
    pinned: Tensor

    @classmethod
    def of(cls, box: Box) -> "ActionUnits":
        """Return the units of a box; open sides leave actions as they are."""
        half, center = box.scale, box.center
        bounded = torch.isfinite(box.low) & torch.isfinite(box.high)
        pinned = bounded & (half == 0)
        limit = torch.where(pinned, 0.0, (1 + half) / 2)
        return cls(
            box=box,
            center=center,
            unit=torch.where(bounded, 2 * (half / (1 + half)), 1.0),
            low=torch.where(bounded, -limit, box.low - center),
            high=torch.where(bounded, limit, box.high - center),
            pinned=pinned,
        )

    def actions(self, variables: Tensor) -> Tensor:
        """Return the actions `[…, A]` of variables `[…, A]`."""
        return self.center + self.unit * variables

    def variables(self, actions: Tensor) -> Tensor:
        """Return the variables `[…, A]` of actions `[…, A]`; 0 where pinned."""
        unit = torch.where(self.pinned, 1.0, self.unit)
        found = self.pin((actions - self.center) / unit)
        # Rounding must not put allowed actions outside, where their limit is active.
        allowed = (actions >= self.box.low) & (actions <= self.box.high)
        inside = torch.where(allowed, found.clamp(self.low, self.high), found)
        return with_value(inside.detach(), found)

    def pin(self, variables: Tensor) -> Tensor:
        """Return the variables with zeros where there is no choice."""
        return torch.where(self.pinned, 0.0, variables)

    def excess(self, variables: Tensor) -> Tensor:
        """Return how far variables lie outside their limits, signed, `[…, A]`."""
        return variables - variables.clamp(self.low, self.high)

    def relative(self, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Return variables in units of their limit `[…, A]`, and where they have one.

        The limits are then ±1.
        """
        limited = torch.isfinite(self.low) & torch.isfinite(self.high) & ~self.pinned
        return variables / torch.where(limited, self.high, 1.0), limited
