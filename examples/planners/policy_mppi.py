"""TD-MPC2's planner: MPPI on elites, a policy's proposals, and limits of the spread.

Hansen, Su and Wang 2024, "TD-MPC2: Scalable, robust world models for continuous
control" (arXiv:2310.16828), section 3.2; Hansen, Wang and Su 2022 (arXiv:2203.04955),
algorithm 1. What the horizon leaves out is the objective's terminal value. The papers
draw one elite by its weight; here the weighted mean is the answer.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffplan as dp
from diffplan.gradients import CONSTANT
from diffplan.planners import PlanRequest, Search, actions_of, follow


class PolicyMPPI(dp.MPPI):
    """MPPI that also tries what a policy would do.

    Args:
        horizon: T, number of planned actions.
        policy: `(state […, S]) → action […, A]`; a module becomes a submodule.
        num_samples: Candidates per iteration, the policy's included.
        num_proposals: Of them by the policy, to which the least spread is added.
        num_elites: The cheapest candidates, which alone are weighed.
        min_std: Least spread.
        max_std: Largest spread, also the first one.
        iterations: Refits.
        temperature: Of the weights; the papers' 0.5 multiplies costs, here it divides.
        **options: Others of `dp.MPPI`.
    """

    supported_gradients: ClassVar = {dp.Detach: CONSTANT}  # proposals have no graph
    learnable_numbers: ClassVar = ()

    def __init__(
        self,
        horizon: int,
        policy: Callable[[Tensor], Tensor],
        *,
        num_samples: int = 512,
        num_proposals: int = 24,
        num_elites: int = 64,
        min_std: float = 0.05,
        max_std: float = 2.0,
        iterations: int = 6,
        temperature: float = 2.0,
        **options: Any,
    ) -> None:
        options |= {"num_samples": num_samples, "num_elites": num_elites}
        options |= {"initial_std": max_std}
        super().__init__(
            horizon, iterations=iterations, temperature=temperature, **options
        )
        if not 0 <= num_proposals <= num_samples:
            raise dp.errors.ArgumentError(
                f"num_proposals: expected 0 … {num_samples} (num_samples), "
                f"got {num_proposals}"
            )
        self.policy = policy
        self.num_proposals = num_proposals
        self.min_std, self.max_std = min_std, max_std

    def begin(self, request: PlanRequest) -> Search:
        """Roll the policy out once; every iteration tries its actions again."""
        search, problem, state = super().begin(request), request.problem, request.state
        width = problem.action_space.dim
        extra = state.new_zeros(len(state), self.num_proposals, self.horizon, width)
        if request.noise is not None and self.iterations > 0:
            noise = self.noise_of(request.noise, 0, search.mean)
            extra = extra + self.min_std * noise[:, : self.num_proposals]
        with torch.no_grad():
            proposals = follow(self._propose, problem, state, extra)
        return search._replace(carried={"proposals": proposals})

    def _propose(self, state: Tensor, noise: Tensor) -> Tensor:
        return actions_of(self.policy, state, size=noise.shape[-1]) + noise

    def propose(self, search: Search, noise: Tensor, iteration: int) -> Tensor:
        """Return the policy's proposals and samples around the mean."""
        drawn = super().propose(search, noise[:, self.num_proposals :], iteration)
        return torch.cat([search.carried["proposals"], drawn], dim=1)

    def refit_std(
        self, candidates: Tensor, weights: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """Return the weighted spread, within its limits."""
        fitted = super().refit_std(candidates, weights, mean, std)
        return fitted.clamp(self.min_std, self.max_std)
