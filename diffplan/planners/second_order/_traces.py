"""What a second-order shooting planner remembers of its iterations."""

from typing import cast

import torch
from torch import Tensor

from diffplan.functional._isolation import finite_rows, select_rows
from diffplan.plan import Status
from diffplan.planners.base import Solution
from diffplan.planners.request import PlanRequest
from diffplan.planners.second_order._line_search import Nominal


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


def show(request: PlanRequest, nominal: Nominal) -> None:
    """Show the trajectories of an iteration, of `[B]` problems or `[B, N]` starts."""
    shown = nominal.actions, nominal.cost, nominal.states
    if nominal.cost.ndim == 1:
        shown = tuple(value.unsqueeze(1) for value in shown)  # type: ignore[assignment]
    request.show(*shown)


Outcome = tuple[Solution, Tensor]
"""A solution of every element, and what it costs `[…]`."""


def went_well(solution: Solution, cost: Tensor) -> Tensor:
    """Return where cost and derivatives were finite throughout, `[…]` bool."""
    known = solution.diagnostics
    found = (cost, known["optimality"], known["gradient_norm"])
    return finite_rows(found, cost.dim())


def never_moved(actions: Tensor) -> Solution:
    """Return the solution of elements that fail at the actions `[…, T, A]`."""
    lead = actions[..., 0, 0]
    status = torch.full_like(lead, int(Status.NON_FINITE), dtype=torch.long)
    return Solution(actions, status, torch.zeros_like(status))


def in_place_of(failed: Outcome, ok: Tensor, others: Outcome) -> Outcome:
    """Return the outcome of others where ok, else that of what failed, as constants.

    Args:
        failed: The outcome of all; what its solution does not tell is NaN.
        ok: Which did not fail, `[…]` bool.
        others: The outcome with others in the place of those that failed.
    """
    (before, cost), (after, other_cost) = failed, others

    def chosen(new: Tensor, old: Tensor | None) -> Tensor:
        old = new.new_full((), torch.nan) if old is None else old.detach()
        return select_rows(ok, (new,), (old,))[0]

    solution = Solution(
        actions=chosen(after.actions, before.actions),
        status=chosen(cast(Tensor, after.status), before.status),
        iterations=chosen(
            cast(Tensor, after.iterations), cast(Tensor, before.iterations)
        ),
        diagnostics={
            name: chosen(value, before.diagnostics.get(name))
            for name, value in after.diagnostics.items()
        },
        memory={
            name: chosen(value, before.memory.get(name, value))
            for name, value in after.memory.items()
        },
    )
    return solution, chosen(other_cost, cost)
