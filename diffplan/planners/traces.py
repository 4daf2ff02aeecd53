"""What a second-order shooting planner remembers of its iterations."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from diffplan.functional.isolation import select_rows
from diffplan.plan import Status
from diffplan.planners.base import Solution


class Traces:
    """What is remembered of each iteration, `[…]` per entry."""

    def __init__(self) -> None:
        names = ("cost", "gradient_norm", "damping", "step_size")
        self.values: dict[str, list[Tensor]] = {name: [] for name in names}
        self.busy: list[Tensor] = []

    def add(self, done: Tensor, *entries: Tensor) -> None:
        """Remember one iteration: who had finished, and a number per trace."""
        for trace, entry in zip(self.values.values(), entries, strict=True):
            trace.append(entry.detach())
        self.busy.append(~done)

    def stacked(self, like: Tensor) -> dict[str, Tensor]:
        """Return the traces `[…, iterations]`."""
        return {
            name: torch.stack(trace, -1) if trace else like.new_zeros(*like.shape, 0)
            for name, trace in self.values.items()
        }

    def iterations(self, like: Tensor) -> Tensor:
        """Return how many iterations each element used `[…]`."""
        if not self.busy:
            return torch.zeros_like(like, dtype=torch.long)
        return torch.stack(self.busy).sum(0)


def with_failed(solution: Solution, ok: Tensor, actions: Tensor) -> Solution:
    """Say of elements that are not ok that they failed at the actions they began with.

    Args:
        solution: Of others in their place.
        ok: `[…]` bool.
        actions: `[…, T, A]`.
    """
    worst = ("cost", "gradient_norm", "optimality")
    diagnostics = {
        name: _or_number(ok, value, torch.inf if name in worst else 0.0)
        for name, value in solution.diagnostics.items()
    }
    (kept,) = select_rows(ok, (solution.actions,), (actions.detach(),))
    status, iterations = cast(Tensor, solution.status), solution.iterations
    return replace(
        solution,
        actions=kept,
        status=torch.where(ok, status, int(Status.NON_FINITE)),
        iterations=torch.where(ok, iterations, 0),
        diagnostics=diagnostics,
    )


def _or_number(ok: Tensor, value: Tensor, number: float) -> Tensor:
    return select_rows(ok, (value,), (value.new_full((), number),))[0]
