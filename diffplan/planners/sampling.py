"""The loop of all planners that sample actions, weigh them and refit a Gaussian.

CEM, DCEM and MPPI differ in two lines: how costs become weights, and how the spread
follows from them::

    mean, std ← warm start or box centre, initial_std
    repeat `iterations` times:
        candidates ← project(mean + std · noise)          N of them
        cost       ← objective of their rollouts
        weights    ← weigh(cost)                          sum one
        mean       ← Σ weights · candidates
        std        ← refit_std(candidates, weights, mean, std)
    answer: mean

The mean of soft choices can be worse than each of them, also than the mean that a warm
start began with: that is the answer where it is better by more than a hundredth.
"""

from abc import abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, require_at_least, require_count
from diffplan.functional.coloured_noise import colour_noise
from diffplan.functional.gaussian import weighted_mean, weighted_std
from diffplan.gradients import tracked
from diffplan.plan import Plan, Status
from diffplan.planners.base import Planner, Solution, standard_normal
from diffplan.planners.candidates import candidate_costs, worst_if_failed
from diffplan.planners.numbers import set_number
from diffplan.problem import PlanningProblem

NOISE_LIMIT = 2**28
"""Bytes of noise drawn ahead of a plan; beyond, seeds are drawn instead (see below)."""


class SamplingPlanner(Planner):
    """Base of CEM, DCEM and MPPI; owns the loop above.

    A concrete planner sets the attributes below, usually by `configure_sampling`, and
    defines `weigh`; it may override `refit_std`. Weights with a graph make the whole
    planner differentiable.

    All noise is drawn before the loop, `[B, iterations, N, T, A]`. Where that would
    take more than `NOISE_LIMIT` bytes (256 MiB), one seed per iteration is drawn
    instead and each iteration draws its noise from its seed: as repeatable, but not
    compilable in one graph.

    Attributes:
        num_samples: N, candidates per iteration.
        iterations: Refits of mean and spread.
        initial_std: Spread of the first candidates, a number or `[A]`; None stands for
            half the width of the action space.
        noise_exponent: Colour of the noise over time, see `colour_noise`.
        shared_noise: Whether all batch elements see the same noise, `[1, iterations,
            N, T, A]`; a plan then does not depend on the batch it is made in.
        chunk_size: Candidates rolled out at once; None takes all.
        keep_best: Whether a warm start that is better is the answer.
    """

    plans_under_noise: ClassVar[bool] = True
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
        set_number(self, "initial_std", initial_std)
        self.noise_exponent = require_at_least("noise_exponent", noise_exponent, 0.0)
        if noise_exponent == float("inf"):
            raise ArgumentError("noise_exponent: expected a finite number, got inf")
        if chunk_size is not None:
            chunk_size = require_count("chunk_size", chunk_size, 1)
        self.chunk_size, self.checkpoint = chunk_size, checkpoint
        self.shared_noise, self.keep_best = shared_noise, keep_best

    @abstractmethod
    def weigh(self, cost: Tensor) -> Tensor:
        """Turn costs `[B, N]` (infinite, never NaN) into weights of sum one."""

    def refit_std(
        self,
        candidates: Tensor,
        weights: Tensor,
        mean: Tensor,
        std: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Return the next spread `[B, T, A]` (default: weighted, about the new mean).

        Args:
            candidates: `[B, N, T, A]`.
            weights: `[B, N]`.
            mean: The new mean `[B, T, A]`.
            std: The spread that the candidates were drawn with `[B, T, A]`.
        """
        return weighted_std(candidates, weights, mean)

    def draw_noise(
        self,
        problem: PlanningProblem,
        state: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Draw the noise of all iterations, or one seed per iteration if too large."""
        batch = 1 if self.shared_noise else state.shape[0]
        one = (batch, self.num_samples, self.horizon, problem.action_space.dim)
        count = self.iterations * torch.Size(one).numel()
        if count * state.element_size() > NOISE_LIMIT:
            return draw_seeds(self.iterations, state, generator)
        shape = (one[0], self.iterations, *one[1:])
        white = standard_normal(shape, state, generator)
        return colour_noise(white, self.noise_exponent)

    def solve(
        self,
        problem: PlanningProblem,
        state: Tensor,
        noise: Tensor | None,
        warm_start: Plan | None,
    ) -> Solution:
        """Run the loop; see `Planner.solve`."""
        noise = cast(Tensor, noise)
        mean = start = self.initial_actions(problem, state, warm_start)
        std = self._starting_std(problem, mean)
        trace: dict[str, list[Tensor]] = {"cost": [], "best_cost": [], "spread": []}
        for iteration in range(self.iterations):
            with tracked(self.gradient, iteration, self.iterations):
                mean, std = self._refit(
                    problem,
                    state,
                    (mean, std),
                    self._noise_of(noise, iteration, mean),
                    trace,
                )
        return Solution(
            actions=mean,
            status=_status(trace["best_cost"]),
            iterations=self.iterations,
            diagnostics={name: stack_trace(v, state) for name, v in trace.items()},
            memory={"std": std},
            known=start if self.keep_best and warm_start is not None else None,
        )

    def _refit(
        self,
        problem: PlanningProblem,
        state: Tensor,
        gaussian: tuple[Tensor, Tensor],
        noise: Tensor,
        trace: dict[str, list[Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """One iteration: from mean and spread `[B, T, A]` to the next ones."""
        mean, std = gaussian
        candidates = torch.addcmul(mean.unsqueeze(1), std.unsqueeze(1), noise)
        candidates = problem.project(candidates)
        cost = candidate_costs(
            problem, state, candidates, self.chunk_size, self.checkpoint
        )
        cost = worst_if_failed(cost)
        weights = self.weigh(cost)
        mean = weighted_mean(candidates, weights)
        trace["cost"].append(weighted_cost(cost, weights))
        trace["best_cost"].append(cost.amin(dim=-1))
        trace["spread"].append(std.mean(dim=(-2, -1)))
        return mean, self.refit_std(candidates, weights, mean, std)

    def _starting_std(self, problem: PlanningProblem, mean: Tensor) -> Tensor:
        if self.initial_std is None:
            std = problem.action_space.to(mean).scale
        elif isinstance(self.initial_std, Tensor):
            std = self.initial_std.to(mean)
        else:  # filled on the device: a copy from the host would be waited for
            std = mean.new_full((), self.initial_std)
        return std.expand(mean.shape)

    def _noise_of(self, noise: Tensor, iteration: int, mean: Tensor) -> Tensor:
        if noise.is_floating_point():
            return noise[:, iteration]
        generator = torch.Generator(mean.device).manual_seed(int(noise[iteration]))
        batch = 1 if self.shared_noise else mean.shape[0]
        shape = (batch, self.num_samples, *mean.shape[1:])
        white = standard_normal(shape, mean, generator)
        return colour_noise(white, self.noise_exponent)


def _status(cheapest: list[Tensor]) -> Tensor | None:
    """NON_FINITE where no candidate of any iteration had a finite cost."""
    if not cheapest:
        return None
    seen = torch.stack(cheapest).detach().amin(dim=0) < torch.inf
    return torch.where(seen, int(Status.COMPLETED), int(Status.NON_FINITE))


def weighted_cost(cost: Tensor, weights: Tensor) -> Tensor:
    """Return Σ weights · cost `[B]`; weight zero silences an infinite cost."""
    return (weights * cost).nansum(dim=-1)  # 0 · inf is NaN


def stack_trace(values: list[Tensor], state: Tensor) -> Tensor:
    """Stack numbers `[B]` of each iteration into a trace `[B, iterations]`."""
    if not values:
        return state.new_zeros(state.shape[0], 0)
    return torch.stack(values, dim=-1).detach()


def draw_seeds(count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw `count` seeds, integers on the CPU."""
    if generator is None:
        generator = torch.Generator(like.device).manual_seed(0)
    drawn = torch.randint(2**62, (count,), generator=generator, device=generator.device)
    return drawn.cpu()
