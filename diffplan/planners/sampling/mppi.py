"""Model predictive path integral control: average all candidates, cheap ones more."""

from typing import ClassVar

import torch
from torch import Tensor

from diffplan._kinds import OrInfinite
from diffplan.functional._gaussian import weighted_std
from diffplan.functional.top_k import hard_top_k
from diffplan.gradients import UNROLLED, GradientStrategy
from diffplan.planners._numbers import set_number
from diffplan.planners.sampling.loop import SamplingPlanner

_FAR = 40.0
"""Costs twice as many temperatures above the least weigh nothing.

e^-80 is far below the rounding of any sum of weights. Smaller ones soon are subnormal
numbers of float32, with which a CPU calculates several times slower.
"""


class MPPI(SamplingPlanner):
    """Model predictive path integral control with softmax weights.

    Each iteration weighs all candidates by softmax(-cost / temperature) and refits mean
    and standard deviation with those weights. A low temperature follows the cheapest
    candidate, a high one averages all. The weights are smooth, so a plan can be
    differentiated by unrolling. A warm start sets the first mean; the spread starts
    afresh. Of actions that are choices (`dp.Categorical`) it refits the probabilities,
    as `DCEM` does.

    Args:
        horizon: T, number of planned actions.
        num_samples: N, candidates per iteration.
        num_elites: k, how many of the cheapest are weighed (TD-MPC); None stands for
            all.
        iterations: Refits.
        temperature: Divides the cost; a number above zero, or a tensor or
            `nn.Parameter` to learn it. LatCo's γ = 10 multiplies the return: 0.1 here.
        initial_std: Spread of the first candidates, a number or `[A]` (or a
            parameter); None stands for half the width of the action space.
        fixed_std: Keep `initial_std` in all iterations, as in the first papers.
        noise_exponent: Colour of the noise over time: 0 is white, larger is smoother.
        shared_noise: Give all problems of a batch the noise of the first one, which
            saves drawing and keeping the others'. A plan then depends on the batch:
            on the key of its first problem.
        chunk_size: Candidates rolled out at once, to bound memory; None takes all.
        checkpoint: Let backward compute rollouts again instead of keeping them: memory
            grows with √T instead of T, for one more forward pass.
        keep_best: Answer with the warm start where that costs less than the final mean
            by more than a hundredth; False always answers with the mean.
        gradient: `Unroll()` (if None), `Truncated(k)` or `Detach()`.

    Raises:
        ArgumentError: an argument is out of range.
        UnsupportedGradientError: `gradient` is another strategy.

    References:
        Williams et al. (2017), "Model Predictive Path Integral Control". The weighted
        refit of the spread is that of LatCo's released MPPI (arXiv:2106.13229,
        appendix D).

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> plan = dp.MPPI(horizon=3, temperature=0.01)(problem, torch.zeros(1))
        >>> bool(plan.cost < 1e-2)
        True
    """

    supported_gradients: ClassVar = UNROLLED
    learnable_numbers: ClassVar = ("temperature", "initial_std")
    temperature: float | Tensor

    def __init__(
        self,
        horizon: int,
        *,
        num_samples: int = 256,
        num_elites: int | None = None,
        iterations: int = 5,
        temperature: OrInfinite | Tensor = 0.1,
        initial_std: float | Tensor | None = None,
        fixed_std: bool = False,
        noise_exponent: float = 0.0,
        shared_noise: bool = False,
        chunk_size: int | None = None,
        checkpoint: bool = False,
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
            checkpoint=checkpoint,
        )
        self.num_elites = None if num_elites is None else self.elites(num_elites)
        set_number(self, "temperature", temperature)
        self.fixed_std = fixed_std
        self.configure_gradient(gradient)

    def weigh(self, cost: Tensor) -> Tensor:
        """Return softmax(-cost / temperature) over the candidates, or the elites.

        One of infinite cost weighs nothing; if none is finite, all weigh the same.
        """
        if self.num_elites is not None:
            elite = hard_top_k(-cost, self.num_elites) > 0
            cost = torch.where(elite, cost, torch.inf)
        least = cost.detach().amin(dim=-1, keepdim=True)
        some = least < torch.inf
        # Halved first: the difference of two large costs is infinite.
        excess = cost / 2 - torch.where(some, least, 0.0) / 2
        # Far ones would make the derivative by the temperature NaN, as infinite ones.
        near = excess < _FAR * self.temperature
        score = torch.where(near, excess, 0.0) / (-self.temperature / 2)
        return torch.softmax(score.masked_fill(~near & some, -torch.inf), dim=-1)

    def refit_std(
        self, candidates: Tensor, weights: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """Return the weighted standard deviation, or the one given if it is fixed."""
        if self.fixed_std:
            return std
        return weighted_std(candidates, weights, mean)
