"""The loop of all planners that sample actions, weigh them and refit a Gaussian.

CEM, DCEM and MPPI differ in two lines: how costs become weights, and how the spread
follows from them::

    search ← begin: mean of the warm start or box centre, initial_std
    repeat `iterations` times:
        candidates ← project(propose(search, noise))      mean + std · noise
        cost       ← objective of their rollouts
        weights    ← weigh(cost)                          sum one
        search     ← refit(search, candidates, cost, weights)
                         mean ← Σ weights · candidates
                         std  ← refit_std(candidates, weights, mean, std)
    answer(search)                                        mean

Other planners override the steps in between: they add candidates, keep elites or
momentum in what a `Search` carries, or answer with the best candidate. The mean of soft
choices can be worse than each of them, also than the mean that a warm start began with:
that is the answer where it is better by more than a hundredth.

Where actions are choices (`dp.Categorical`), the mean holds probabilities, the
likeliest sequence is a candidate too, and the answer is the best candidate of all
iterations: `_distributions.py` has what differs.
"""

import math
from abc import abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_count
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional._gaussian import weighted_mean, weighted_std
from diffplan.functional._isolation import known_finite
from diffplan.functional._random import fold, standard_normal
from diffplan.functional.coloured_noise import colour_noise
from diffplan.gradients import tracked
from diffplan.plan import Plan, Status
from diffplan.planners._compiling import start_plan
from diffplan.planners._evaluation import candidate_costs, worst_if_failed
from diffplan.planners._numbers import set_number
from diffplan.planners._randomness import require_noise
from diffplan.planners._solution import stack_trace
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.planners.sampling._distributions import Search, distribution_over
from diffplan.problem import PlanningProblem

_NOISE_LIMIT = 2**28
"""Bytes of noise drawn ahead of a plan; beyond, iterations draw theirs (see below)."""


class SamplingPlanner(Planner):
    """Base of CEM, DCEM and MPPI; owns the loop above.

    A concrete planner sets the attributes below, usually by `configure_sampling`, and
    defines `weigh`; it may override the loop's other steps: `begin`, `propose`, `refit`
    or only `refit_std`, and `answer`. Weights with a graph make the whole planner
    differentiable.

    All noise is drawn before the loop, `[B, iterations, N, T, A]`. Where that would
    take more than `_NOISE_LIMIT` bytes (256 MiB), each iteration draws the same numbers
    when it needs them.

    Attributes:
        num_samples: N, candidates per iteration.
        iterations: Refits of mean and spread.
        initial_std: Spread of the first candidates, a number or `[A]`; None stands for
            half the width of the action space.
        noise_exponent: Colour of the noise over time, see `colour_noise`.
        shared_noise: Whether all problems see the noise of the first one,
            `[1, iterations, N, T, A]`, which saves drawing and keeping the others'. A
            plan then depends on the batch: on the key of its first problem.
        chunk_size: Candidates rolled out at once; None takes all.
        keep_best: Whether a warm start that is better is the answer; of choices, the
            best candidate.
        remembered: What of `Search.carried` goes into the memory of a plan, where the
            next `begin` finds it, shifted in time as the actions are.
    """

    plans_under_noise: ClassVar[bool] = True
    plans_categories = True
    remembered: ClassVar[tuple[str, ...]] = ()
    num_samples: int
    iterations: int
    initial_std: float | Tensor | None
    noise_exponent: float
    shared_noise: bool = False
    keep_best: bool = True
    chunk_size: int | None

    def configure_sampling(
        self,
        *,
        horizon: int,
        num_samples: int,
        iterations: int,
        initial_std: float | Tensor | None,
        noise_exponent: float,
        chunk_size: int | None,
        shared_noise: bool = False,
        checkpoint: bool = False,
        keep_best: bool = True,
    ) -> None:
        """Check and set the attributes that all sampling planners share.

        Raises:
            ArgumentError: names the first argument that is out of range.
        """
        self.horizon = require_count("horizon", horizon)
        self.num_samples = require_count("num_samples", num_samples, 1)
        self.iterations = require_count("iterations", iterations, 0)
        set_number(self, "initial_std", initial_std, per_action=True)
        self.noise_exponent = require_at_least("noise_exponent", noise_exponent, 0.0)
        if chunk_size is not None:
            chunk_size = require_count("chunk_size", chunk_size, 1)
        self.chunk_size, self.checkpoint = chunk_size, checkpoint
        self.shared_noise, self.keep_best = shared_noise, keep_best

    def elites(self, num_elites: int) -> int:
        """Return how many elites a planner chooses among its samples.

        Raises:
            ArgumentError: it is no whole number from 1 to `num_samples`.
        """
        count = require_count("num_elites", num_elites, 1)
        if count > self.num_samples:
            raise ArgumentError(
                f"num_elites: expected at most num_samples ({self.num_samples}), "
                f"got {num_elites}"
            )
        return count

    @abstractmethod
    def weigh(self, cost: Tensor) -> Tensor:
        """Turn costs `[B, N]` (infinite, never NaN) into weights of sum one."""

    def begin(self, request: PlanRequest) -> Search:
        """Return what the search starts from; `request.warm_start` may be None.

        Also asked without a warm start and without noise, for `cold_start`.
        """
        mean = self.initial_actions(request)
        return Search(mean, self._starting_std(request.problem, mean))

    def propose(self, search: Search, noise: Tensor, iteration: int) -> Tensor:
        """Return the candidates `[B, M, T, A]` of an iteration, any number of them.

        They are projected onto the allowed actions afterwards.

        Args:
            search: What is known so far.
            noise: The iteration's N(0, 1) numbers `[B, N, T, A]`.
            iteration: From 0 to `iterations` - 1.
        """
        return torch.addcmul(search.mean.unsqueeze(1), search.std.unsqueeze(1), noise)

    def refit(
        self,
        search: Search,
        candidates: Tensor,
        cost: Tensor,
        weights: Tensor,
    ) -> Search:
        """Return what is known after an iteration (default: a new mean and spread).

        Args:
            search: What the candidates came from.
            candidates: `[B, M, T, A]`, allowed.
            cost: Theirs `[B, M]`, infinite for failures, never NaN.
            weights: What `weigh` returned for it.
        """
        mean = weighted_mean(candidates, weights)
        std = self.refit_std(candidates, weights, mean, search.std)
        return search._replace(mean=mean, std=std)

    def answer(self, search: Search) -> Tensor:
        """Return the actions `[B, T, A]` to answer with (default: the mean)."""
        return search.mean

    def refit_std(
        self,
        candidates: Tensor,
        weights: Tensor,
        mean: Tensor,
        std: Tensor,
    ) -> Tensor:
        """Return the next spread `[B, T, A]` (default: weighted, about the new mean).

        Args:
            candidates: `[B, N, T, A]`.
            weights: `[B, N]`.
            mean: The new mean `[B, T, A]`.
            std: The spread that the candidates were drawn with `[B, T, A]`.
        """
        return weighted_std(candidates, weights, mean)

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of one problem's noise, `[iterations, N, T, A]`."""
        width = request.problem.action_space.dim
        return (self.iterations, self.num_samples, self.horizon, width)

    def noise_from_keys(self, request: PlanRequest) -> Tensor | None:
        """Draw the noise of all iterations, or return its keys `[B]` if too large."""
        state, keys = request.state, cast(Tensor, request.keys)
        keys = keys[:1] if self.shared_noise else keys
        _, *one = self.noise_shape(request)
        count = keys.shape[0] * self.iterations * math.prod(one)
        if count * state.element_size() > _NOISE_LIMIT:
            return keys
        iterations = torch.arange(self.iterations, device=keys.device)
        white = standard_normal(fold(keys[:, None], iterations), tuple(one), state)
        return colour_noise(white, self.noise_exponent)

    def check_noise(self, request: PlanRequest) -> None:
        """Raise if noise is neither such as `draw_noise` returns, nor keys of it."""
        name, shape, dtype = type(self).__name__, self.noise_shape(request), None
        if isinstance(request.noise, Tensor) and request.noise.dtype == torch.int64:
            shape, dtype = (), torch.int64
        shared = self.shared_noise
        require_noise(name, request, shape, shared=shared, dtype=dtype)

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the plan of a search that has only begun."""
        search = self.begin(request.afresh())
        memory = self._memory(search)
        return start_plan(request.state, self.answer(search), memory)

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop; see `Planner.solve`."""
        noise, state = request.drawn(), request.state
        distribution = distribution_over(request.problem.action_space)
        search = self.begin(request)
        start, best = search.mean, None
        trace: dict[str, list[Tensor]] = {"cost": [], "best_cost": [], "spread": []}
        for iteration in range(self.iterations):
            with tracked(self.gradient, iteration, self.iterations):
                drawn = self.noise_of(noise, iteration, start)
                candidates = request.problem.project(
                    distribution.propose(self.propose, search, drawn, iteration)
                )
                cost = self._costs(request, candidates, iteration)
                best = distribution.best(best, candidates, cost)
                found = self._refitted(search, candidates, cost, trace)
                search = distribution.refitted(found, search)
        actions, known = self.answer(search), None
        if self.keep_best:
            actions, known = distribution.kept(actions, start, request, best)
        diagnostics = {name: stack_trace(v, state) for name, v in trace.items()}
        return Solution(
            actions=actions,
            status=_status(trace["best_cost"]),
            iterations=self.iterations,
            diagnostics={**diagnostics, **distribution.diagnostics(search)},
            memory=self._memory(search),
            known=known,
        )

    def initial_actions(self, request: PlanRequest) -> Tensor:
        """Return the first mean, or probabilities; see `Planner.initial_actions`."""
        distribution = distribution_over(request.problem.action_space)
        return distribution.first(super().initial_actions, request, self.horizon)

    def _costs(
        self, request: PlanRequest, candidates: Tensor, iteration: int
    ) -> Tensor:
        """Return the cost of candidates `[B, M]`, infinite where they failed."""
        given = request.problem, request.state, candidates
        how = self.chunk_size, self.checkpoint, iteration
        cost = worst_if_failed(candidate_costs(*given, *how))
        request.show(candidates, cost)
        return cost

    def _refitted(
        self,
        search: Search,
        candidates: Tensor,
        cost: Tensor,
        trace: dict[str, list[Tensor]],
    ) -> Search:
        """Weigh candidates and go on with what they tell."""
        weights = self.weigh(cost)
        trace["cost"].append(_weighted_cost(cost, weights))
        trace["best_cost"].append(cost.amin(dim=-1))
        trace["spread"].append(search.std.mean(dim=(-2, -1)))
        return self.refit(search, candidates, cost, weights)

    def _memory(self, search: Search) -> dict[str, Tensor]:
        kept = {name: search.carried[name] for name in self.remembered}
        return {"std": search.std, **kept}

    def _starting_std(self, problem: PlanningProblem, mean: Tensor) -> Tensor:
        if self.initial_std is None:
            std = problem.action_space.to(mean).scale
        elif isinstance(self.initial_std, Tensor):
            std = self.initial_std.to(mean)
            if std.ndim > 0 and std.shape[-1] not in (1, mean.shape[-1]):
                raise ShapeError(
                    f"initial_std: expected [] or [{mean.shape[-1]}] for the action "
                    f"space, got {list(std.shape)}"
                )
        else:  # filled on the device: a copy from the host would be waited for
            std = mean.new_full((), self.initial_std)
        return std.expand(mean.shape)

    def noise_of(self, noise: Tensor, iteration: int, mean: Tensor) -> Tensor:
        """Return the noise `[B, N, T, A]` of an iteration, of a request's noise."""
        if noise.is_floating_point():
            return noise[:, iteration]
        shape = (self.num_samples, *mean.shape[1:])
        white = standard_normal(fold(noise, iteration), shape, mean)
        return colour_noise(white, self.noise_exponent)


def _status(cheapest: list[Tensor]) -> Tensor | None:
    """NON_FINITE where no candidate of any iteration had a finite cost."""
    if not cheapest or known_finite((cheapest[-1],)):
        return None
    seen = torch.stack(cheapest).detach().amin(dim=0) < torch.inf
    return torch.where(seen, int(Status.COMPLETED), int(Status.NON_FINITE))


def _weighted_cost(cost: Tensor, weights: Tensor) -> Tensor:
    """Return Σ weights · cost `[B]`; weight zero silences an infinite cost."""
    return (weights * cost).nansum(dim=-1)  # 0 · inf is NaN
