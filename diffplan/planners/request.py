"""What the core of a planner is asked for, in one record, and what it shows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan.errors import ArgumentError
from diffplan.plan import Plan
from diffplan.problem import PlanningProblem


@dataclass(frozen=True)
class Iterate:
    """What one iteration of a planner has looked at, before it goes on from there.

    Tensors have no graph.

    Attributes:
        iteration: From 0, throughout a call; a planner that runs another one several
            times goes on counting.
        actions: The N action sequences that were evaluated, `[…, N, T, A]`: samples,
            starts that descend side by side, or the one there is. Collocation's may lie
            outside of the action space.
        cost: Of each, `[…, N]`; infinite or NaN where it failed. A planner inside of
            another one knows its own: `AugmentedLagrangian` adds its penalties.
        states: Those of each, `[…, N, T+1, S]`, where the planner has them at hand
            (second-order shooting), or plans them (collocation); None elsewhere, see
            `PlanningProblem.rollout`.
    """

    iteration: int
    actions: Tensor
    cost: Tensor
    states: Tensor | None = None


Callback = Callable[[Iterate], None]
"""A function of yours that is shown every iteration."""


class Watch:
    """Shows a user's callback the iterates of one call, in the user's shapes.

    Args:
        callback: The user's.
        lead: Leading dimensions of the states that were given.
    """

    def __init__(self, callback: Callback, lead: torch.Size) -> None:
        self.callback, self.lead, self.count = callback, lead, 0

    def __call__(self, *values: Tensor | None) -> None:
        """Show the next iterate: actions `[B, N, T, A]`, cost and maybe states."""
        shaped = [
            None if v is None else v.detach().reshape(self.lead + v.shape[1:])
            for v in values
        ]
        self.callback(Iterate(self.count, *shaped))  # type: ignore[arg-type]
        self.count += 1


@dataclass(frozen=True)
class PlanRequest:
    """One call of a planner, already checked and with one batch dimension B.

    Attributes:
        problem: Dynamics, objective and action space.
        state: `[B, S]`.
        noise: The random numbers of the plan, from `Planner.noise_from_keys` or handed
            over by the user; None where the planner has none, or has yet to draw them.
        warm_start: An earlier plan with one batch dimension, or None.
        evaluate: Whether the answer is rolled out, see `Planner.forward`.
        keys: int64 `[B]`, one stream of random numbers for each problem's plan; None
            where the noise was handed over.
        watch: What iterates are shown to, by `show`; None if nobody looks.
    """

    problem: PlanningProblem
    state: Tensor
    noise: Tensor | None = None
    warm_start: Plan | None = None
    evaluate: bool = True
    keys: Tensor | None = None
    watch: Callable[..., None] | None = None

    def show(self, actions: Tensor, cost: Tensor, states: Tensor | None = None) -> None:
        """Show an iteration to the user's callback, if there is one; see `Iterate`.

        Args:
            actions: `[B, N, T, A]`.
            cost: `[B, N]`.
            states: `[B, N, T+1, S]`.
        """
        if self.watch is not None:
            self.watch(actions, cost, states)

    def drawn(self) -> Tensor:
        """Return the noise, for a planner that always has some.

        Raises:
            ArgumentError: there is none: the request did not come from a planner.
        """
        if self.noise is None:
            raise ArgumentError(
                "request.noise: expected a tensor, got None: this planner needs random "
                "numbers, see Planner.draw_noise"
            )
        return self.noise

    def map(self, function: Callable[[Tensor], Tensor]) -> "PlanRequest":
        """Return this request with a function applied to each of its own tensors.

        Those of its problem stay as they are.

        Args:
            function: Of a tensor.
        """
        noise, keys, start = self.noise, self.keys, self.warm_start
        return replace(
            self,
            state=function(self.state),
            noise=None if noise is None else function(noise),
            warm_start=None if start is None else start.map(function),
            keys=None if keys is None else function(keys),
        )

    def afresh(self) -> "PlanRequest":
        """Return this request without its warm start."""
        return replace(self, warm_start=None)
