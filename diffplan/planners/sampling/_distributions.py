"""What a sampling planner draws actions from: a Gaussian, and probabilities of choices.

Continuous actions are drawn from the Gaussian of a `Search` as it is. Where actions are
choices (`dp.Categorical`), the mean `[n]` of a choice holds the probabilities of its
options. One is drawn by the Gumbel-max trick: the largest of log p + g, with
independent Gumbel numbers g, is option i with the probability p_i. That is a Gaussian's
mean + std · noise with other numbers, and taking the largest is what
`Categorical.project` does. The weighted mean of one-hot candidates is how often each
option was chosen among the good ones: the next probabilities, of which some of the last
ones are kept, so that no option is lost because a few samples had none of it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.constraints import Box
from diffplan.constraints.categorical import Categorical
from diffplan.planners._compiling import known_before
from diffplan.planners._failures import with_value
from diffplan.planners._progress import Best
from diffplan.planners.request import PlanRequest

SMOOTHING = 0.2
"""The share of the last probabilities in the next ones."""

WARM_SHARE = 0.5
"""How much the actions of a warm start count in the first probabilities."""


class Search(NamedTuple):
    """What a sampling planner knows between two refits.

    Attributes:
        mean: Middle of the next candidates, `[B, T, A]`.
        std: Their spread, `[B, T, A]`.
        carried: Whatever else a planner goes on with, by name, each `[B, …, T, A]` or
            `[B, …, 1, k]`.
    """

    mean: Tensor
    std: Tensor
    carried: Mapping[str, Tensor] = MappingProxyType({})


First = Callable[[PlanRequest], Tensor]
"""`Planner.initial_actions`: request → actions `[B, T, A]`."""

Propose = Callable[[Search, Tensor, int], Tensor]
"""`SamplingPlanner.propose`: (search, noise, iteration) → candidates."""


class Gaussian:
    """Continuous actions, whose mean and spread are those of a `Search`."""

    def first(self, planner: First, request: PlanRequest, horizon: int) -> Tensor:
        """Return the mean `[B, T, A]` that the search begins with.

        Args:
            planner: What every planner begins with.
            request: Of the plan.
            horizon: T.
        """
        return planner(request)

    def propose(
        self, planner: Propose, search: Search, noise: Tensor, iteration: int
    ) -> Tensor:
        """Return candidates `[B, M, T, A]` before they are projected.

        Args:
            planner: What the planner proposes for a Gaussian.
            search: What is known so far.
            noise: N(0, 1), `[B, N, T, A]`.
            iteration: From 0.
        """
        return planner(search, noise, iteration)

    def refitted(self, after: Search, before: Search) -> Search:
        """Return what the planner knows after an iteration, made fit to draw from."""
        return after

    def best(self, best: Best | None, candidates: Tensor, cost: Tensor) -> Best | None:
        """Return what is remembered of the candidates so far; None for nothing."""
        return None

    def diagnostics(self, search: Search) -> dict[str, Tensor]:
        """Return what a plan tells of the last search, beside its traces."""
        return {}

    def kept(
        self, answer: Tensor, start: Tensor, request: PlanRequest, best: Best | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions, and others that replace them if better; see `Solution.known`.

        Args:
            answer: What the search ended with, `[B, T, A]`.
            start: What it began with.
            request: Of the plan.
            best: What was remembered.
        """
        if request.warm_start is None:
            return answer, None
        return answer, known_before(request.warm_start, answer, start)


class Probabilities(Gaussian):
    """Choices, and what is continuous beside them.

    Args:
        space: Where the choices are.
    """

    def __init__(self, space: Categorical) -> None:
        self.space = space

    def first(self, planner: First, request: PlanRequest, horizon: int) -> Tensor:
        """Return equal probabilities, or those that lean to the warm start's choices.

        See `Gaussian.first`.
        """
        space = self.space.to(request.state)
        even = space.center.expand(request.state.shape[0], horizon, -1)
        if request.warm_start is None:
            return even
        warm = space.hull(request.warm_start.actions)
        return _mixed(space, warm, even, 1 - WARM_SHARE)

    def propose(
        self, planner: Propose, search: Search, noise: Tensor, iteration: int
    ) -> Tensor:
        """Return numbers whose largest are the choices, the likeliest as the last."""
        mean, std, noise = as_gaussian(self.space, search.mean, search.std, noise)
        drawn = planner(search._replace(mean=mean, std=std), noise, iteration)
        return torch.cat([drawn, mean.unsqueeze(1)], dim=1)

    def refitted(self, after: Search, before: Search) -> Search:
        """Return the search with a share of the last probabilities."""
        mean = _mixed(self.space, after.mean, before.mean, SMOOTHING)
        return after._replace(mean=mean)

    def best(self, best: Best | None, candidates: Tensor, cost: Tensor) -> Best:
        """Return the cheapest of all candidates so far."""
        found = Best.of(candidates.detach(), cost.detach())
        return found if best is None else best.or_later(found)

    def diagnostics(self, search: Search) -> dict[str, Tensor]:
        """Return the last probabilities."""
        return {"probabilities": search.mean}

    def kept(
        self, answer: Tensor, start: Tensor, request: PlanRequest, best: Best | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the cheapest candidate, with the derivative of the answer."""
        return (answer if best is None else with_value(best.actions, answer)), None


def distribution_over(space: Box) -> Gaussian:
    """Return what the actions of a space are drawn from."""
    return Probabilities(space) if isinstance(space, Categorical) else Gaussian()


def as_gaussian(
    space: Categorical, mean: Tensor, std: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p, ones and Gumbel noise in the place of mean, std and noise.

    For the blocks of choices; continuous numbers stay as they are. Samples are
    constants: a probability that moves a little changes none of them.

    Args:
        space: Where the choices are.
        mean: `[B, T, A]`.
        std: `[B, T, A]`.
        noise: N(0, 1), `[B, N, T, A]`.
    """
    tiny = torch.finfo(mean.dtype).tiny
    numbers, *chances = space.split(mean)
    spread, *others = space.split(std)
    normal, *drawn = space.split(noise)
    # -log u of a uniform u = Φ(noise), without the digits that u itself loses near 1
    waits = [-torch.special.log_ndtr(one) for one in drawn]
    return (
        torch.cat([numbers, *(p.detach().clamp_min(tiny).log() for p in chances)], -1),
        torch.cat([spread, *map(torch.ones_like, others)], -1),
        torch.cat([normal, *(-wait.clamp_min(tiny).log() for wait in waits)], -1),
    )


def _mixed(space: Categorical, new: Tensor, old: Tensor, share: float) -> Tensor:
    """Return `new` `[…, A]` with a share of the old probabilities of its choices."""
    numbers, *blocks = space.split(new)
    others = space.split(old)[1:]
    pairs = zip(blocks, others, strict=True)
    return torch.cat([numbers, *(a.lerp(b, share) for a, b in pairs)], dim=-1)
