"""What a planner's `solve` returns, before `Planner` makes a `Plan` of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """What `Planner.solve` found, with one batch dimension B.

    Attributes:
        actions: `[B, T, A]`; `Planner` projects them onto the action space.
        status: `[B]` integers of `Status`; None means `Status.COMPLETED`.
        iterations: `[B]` integers, or one number for all.
        diagnostics: See `Plan.diagnostics`.
        memory: See `Plan.memory`.
        known: Actions `[B, T, A]` that are returned instead where they cost less by
            more than a hundredth, such as an allowed warm start; or None.
    """

    actions: Tensor
    status: Tensor | None = None
    iterations: Tensor | int = 0
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None
