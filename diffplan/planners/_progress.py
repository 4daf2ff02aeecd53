"""What a descent has seen: the best iterate, and how the descent ended.

An answer is never worse than what was known before: a step that is too long makes
iterates worse, and what was better is not given up.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional._isolation import isolated, may_look
from diffplan.plan import Status
from diffplan.planners._evaluation import pick, worst_if_failed
from diffplan.problem import PlanningProblem

ROUNDING = 10.0
"""How many units of rounding a cost may rise and still count as the same."""

_WORSE = 0.01
"""Costs that rise by more than this share have become worse."""


def no_worse(later: Tensor, least: Tensor) -> Tensor:
    """Return where a later cost is no higher than the least so far, up to rounding."""
    slack = ROUNDING * torch.finfo(least.dtype).eps
    return later <= torch.add(least, least.abs(), alpha=slack)


def has_risen(first: Tensor, last: Tensor) -> Tensor:
    """Return where costs have risen by more than a hundredth, `[…]` bool.

    Args:
        first: What the search began with, infinite for a failure.
        last: What it ended with, likewise.
    """
    return last - first > _WORSE * first.abs()  # False if both are infinite


def with_cheaper_last(cost: Tensor, wanted: Tensor) -> Tensor:
    """Return indices `[B, N]` of what to go on with, of N + 1 candidates.

    The first N; but where the last one is wanted and cheaper than all of them, it is
    in the place of the dearest.

    Args:
        cost: `[B, N + 1]`, never NaN.
        wanted: `[B]` bool.
    """
    count = cost.shape[1] - 1
    others, last = cost[:, :count], cost[:, count:]
    index = torch.arange(count, device=cost.device)
    replaced = index == others.argmax(dim=1, keepdim=True)
    cheaper = wanted[:, None] & (last < others.amin(dim=1, keepdim=True))
    return torch.where(replaced & cheaper, count, index)


Evaluation = Callable[[PlanningProblem, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(problem, state […, S], actions […, T, A]) → (states […, T+1, S], cost […])`."""


def unless_worse(
    evaluate: Evaluation,
    problem: PlanningProblem,
    state: Tensor,
    actions: Tensor,
    known: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Roll out actions and what was known before; keep that where it is better.

    Where it costs less by more than a hundredth. Both are rolled out side by side.

    Args:
        evaluate: Rolls out.
        problem: The problem.
        state: `[B, S]`.
        actions: `[B, T, A]`.
        known: `[B, T, A]`.

    Returns:
        Actions `[B, T, A]`, states `[B, T+1, S]` and cost `[B]`.
    """
    both = torch.stack((known, actions), dim=1)
    start = state.unsqueeze(1).expand(-1, 2, -1)
    states, cost = isolated(evaluate, problem, start, both, lead=2)
    first, last = worst_if_failed(cost.detach()).unbind(dim=1)
    index = torch.where(has_risen(first, last), 0, 1)
    return pick(both, index), pick(states, index), pick(cost, index)


class Best(NamedTuple):
    """The cheapest actions that a search has seen, per batch element.

    Of actions that cost the same up to rounding the latest are kept: a descent that
    has arrived goes on to a better gradient, not to a lower cost.

    Attributes:
        actions: `[B, T, A]`, with the graph of the iterate that they are.
        candidate: Which one that was, `[B]`.
        least: The lowest cost that was seen, `[B]`.
    """

    actions: Tensor
    candidate: Tensor
    least: Tensor

    @classmethod
    def of(cls, candidates: Tensor, cost: Tensor) -> "Best":
        """Return the cheapest candidates.

        Args:
            candidates: `[B, N, T, A]`.
            cost: `[B, N]`, never NaN.
        """
        if cost.shape[1] == 1:
            only = torch.zeros_like(cost[:, 0], dtype=torch.long)
            return cls(candidates.squeeze(1), only, cost.squeeze(1))
        least, index = cost.min(dim=-1)
        return cls(pick(candidates, index), index, least)

    def or_later(self, other: "Best") -> "Best":
        """Return the best of both; what came later, `other`, wins a tie."""
        if may_look(other.least) and bool((other.least <= self.least).all()):
            return other  # as in most iterations of a descent: nothing to mix
        better = no_worse(other.least, self.least)
        return Best(
            torch.where(better[:, None, None], other.actions, self.actions),
            torch.where(better, other.candidate, self.candidate),
            torch.minimum(self.least, other.least),
        )


class Descent:
    """What is remembered of the iterations.

    Attributes:
        costs: Of each iteration's candidates, `[B, N]`, infinite for those that left.
        best: The cheapest so far, or None.
        left: Which candidates have had a cost or a gradient that was not finite,
            `[B, N]` bool; None for none.
        replaced: How many had left before the first iteration, `[B]`.
        descended: Where some candidate had a derivative, `[B]` bool; None for all.
    """

    def __init__(self) -> None:
        self.costs: list[Tensor] = []
        self.best: Best | None = None
        self.left: Tensor | None = None
        self.replaced: Tensor | int = 0
        self.descended: Tensor | None = None

    def add(self, candidates: Tensor, cost: Tensor, ok: Tensor | None) -> None:
        """Remember an iteration.

        Args:
            candidates: `[B, N, T, A]`.
            cost: `[B, N]`, without a graph.
            ok: Whether cost and gradient are finite, `[B, N]` bool; None if all are.
        """
        could = None
        if ok is not None:
            could = ok.any(dim=-1)
            self.left = ~ok if self.left is None else self.left | ~ok
        cost = self.in_contest(cost)
        if not self.costs:
            self.descended = could
        elif could is None or self.descended is None:
            self.descended = None
        else:
            self.descended = self.descended | could
        found = Best.of(candidates, cost)
        self.best = found if self.best is None else self.best.or_later(found)
        self.costs.append(cost)

    def in_contest(self, cost: Tensor) -> Tensor:
        """Return costs `[B, N]`, infinite for failures and for candidates that left.

        Where all have left it is a contest among them: the finite costs are back.
        """
        if self.left is None:
            return cost
        out = self.left & ~self.left.all(dim=-1, keepdim=True)
        return worst_if_failed(cost).masked_fill(out, torch.inf)

    def discarded(self, cost: Tensor) -> Tensor:
        """Return how many candidates have left, `[B]`, in the end by their last cost.

        Args:
            cost: The last one, `[B, N]`.
        """
        failed = cost == torch.inf
        failed = failed if self.left is None else failed | self.left
        return failed.sum(dim=-1) + self.replaced

    def status(self, first: Tensor, last: Tensor) -> Tensor:
        """Return how the descent ended, `[B]`.

        Args:
            first: The lowest cost that it began with, `[B]`.
            last: The lowest cost that it ended with, `[B]`.
        """
        status = torch.full_like(first, int(Status.COMPLETED), dtype=torch.long)
        if not self.costs:
            return status
        status = torch.where(has_risen(first, last), int(Status.DIVERGED), status)
        if self.descended is None:
            return status
        return torch.where(self.descended, status, int(Status.NON_FINITE))
