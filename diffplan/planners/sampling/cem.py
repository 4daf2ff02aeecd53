"""The cross-entropy method: refit a Gaussian to the best candidates."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from diffplan._checks import require_at_least
from diffplan.functional._gaussian import weighted_std
from diffplan.functional.top_k import hard_top_k
from diffplan.gradients import CONSTANT, Detach, GradientStrategy
from diffplan.planners.sampling._distributions import Search
from diffplan.planners.sampling.loop import SamplingPlanner


class CEM(SamplingPlanner):
    """The cross-entropy method with a diagonal Gaussian over action sequences.

    Each iteration keeps the `num_elites` cheapest candidates and refits mean and
    (biased) standard deviation to them. Candidates are clipped to the action space and
    rolled out deterministically; the answer is the final mean. A warm start sets the
    first mean; the spread starts afresh.

    Of actions that are choices (`dp.Categorical`) it refits the probabilities, and the
    answer is the cheapest candidate.

    A candidate of infinite (or NaN) cost is no elite, and fewer than `num_elites` then
    share the weight; if all are, the first ones are as good as any.

    The choice of elites is piecewise constant, so there is no gradient through a plan:
    the differentiable sibling is DCEM.

    Args:
        horizon: T, number of planned actions.
        num_samples: N, candidates per iteration.
        num_elites: k, how many are kept, at most N.
        iterations: Refits.
        initial_std: Spread of the first candidates, a number or `[A]`; None stands for
            half the width of the action space.
        noise_exponent: Colour of the noise over time: 0 is white, larger is smoother
            (iCEM; 2 to 4 suits inertial systems).
        epsilon: Added to the variance after each refit.
        shared_noise: Give all problems of a batch the noise of the first one, which
            saves drawing and keeping the others'. A plan then depends on the batch:
            on the key of its first problem.
        chunk_size: Candidates rolled out at once, to bound memory; None takes all.
        keep_best: Answer with the warm start where that costs less than the final mean
            by more than a hundredth; False always answers with the mean.
        gradient: `Detach()`. If None, a state that requires a gradient is answered
            with a `ConstantPlanWarning`, once.

    Raises:
        ArgumentError: an argument is out of range.
        UnsupportedGradientError: `gradient` is another strategy.

    References:
        Rubinstein and Kroese (2004), "The Cross-Entropy Method"; for latent planning
        PlaNet, Hafner et al. 2019 (arXiv:1811.04551), algorithm 2. `epsilon` is that of
        LatCo's released CEM. Coloured noise: iCEM, Pinneri et al. 2020
        (arXiv:2008.06389).

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> plan = dp.CEM(horizon=3)(problem, torch.zeros(1))
        >>> bool(plan.cost < 1e-2)
        True
    """

    supported_gradients: ClassVar = {Detach: CONSTANT}

    def __init__(
        self,
        horizon: int,
        *,
        num_samples: int = 300,
        num_elites: int = 30,
        iterations: int = 10,
        initial_std: float | Tensor | None = None,
        noise_exponent: float = 0.0,
        shared_noise: bool = False,
        epsilon: float = 1e-6,
        chunk_size: int | None = None,
        keep_best: bool = True,
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.configure_sampling(
            horizon=horizon,
            num_samples=num_samples,
            iterations=iterations,
            initial_std=initial_std,
            noise_exponent=noise_exponent,
            shared_noise=shared_noise,
            chunk_size=chunk_size,
            keep_best=keep_best,
        )
        self.num_elites = self.elites(num_elites)
        self.epsilon = require_at_least("epsilon", epsilon, 0.0)
        self.configure_gradient(gradient)

    @classmethod
    def planet(cls, horizon: int = 12, **options: Any) -> "CEM":
        """Return CEM as in PlaNet: 10 refits of 1,000 candidates, the best 100 kept.

        Args:
            horizon: T.
            **options: Of the constructor, instead of these.
        """
        numbers = {"num_samples": 1000, "num_elites": 100, "iterations": 10}
        return cls(horizon, **{**numbers, **options})

    def weigh(self, cost: Tensor) -> Tensor:
        """Weigh the elites equally, and failures only where there is nothing else."""
        elite = hard_top_k(-cost, self.num_elites)
        finite = elite * (cost < torch.inf)
        chosen = torch.where(finite.any(dim=-1, keepdim=True), finite, elite)
        return chosen / chosen.sum(dim=-1, keepdim=True)

    def refit(
        self, search: Search, candidates: Tensor, cost: Tensor, weights: Tensor
    ) -> Search:
        """Return mean and spread of the elites; see `SamplingPlanner.refit`."""
        if type(self).weigh is CEM.weigh:  # an own one may weigh others as well
            # Only elites count, and most of a refit was to read all the others.
            elites = weights.topk(self.num_elites, sorted=False).indices
            elites = elites.sort().values  # ties come in no order of their own
            weights = weights.gather(1, elites)
            count, number = candidates.shape[:2]
            begins = torch.arange(0, count * number, number, device=cost.device)
            rows = (elites + begins[:, None]).flatten()  # whole rows are quick to copy
            chosen = candidates.flatten(0, 1).index_select(0, rows)
            candidates = chosen.unflatten(0, elites.shape)
        return super().refit(search, candidates, cost, weights)

    def refit_std(
        self,
        candidates: Tensor,
        weights: Tensor,
        mean: Tensor,
        std: Tensor,
    ) -> Tensor:
        """Return √(variance of the elites + epsilon)."""
        return weighted_std(candidates, weights, mean, self.epsilon)
