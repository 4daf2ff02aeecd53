"""The differentiable cross-entropy method: the choice of the elites is a projection."""

from typing import ClassVar

import torch
from torch import Tensor

from diffplan._kinds import OrInfinite
from diffplan.functional._safe_math import safe_norm
from diffplan.functional.lml import lml
from diffplan.functional.top_k import hard_top_k
from diffplan.gradients import UNROLLED, GradientStrategy
from diffplan.planners._numbers import set_number
from diffplan.planners.sampling.loop import SamplingPlanner

_SPREAD_FLOOR = 1e-6
"""Added to the standard deviation of the costs before it divides them, as by the
authors. One relative to the costs would go on where searches of small costs end."""


class DCEM(SamplingPlanner):
    """The cross-entropy method with soft elites, differentiable by unrolling.

    As `CEM`, but the elites are chosen by `diffplan.functional.lml`: candidate n gets
    the weight y_n / num_elites, where y is the projection of the negated costs. A high
    temperature averages many candidates, a low one chooses as CEM does; in the limit
    zero both planners are equal (with CEM's `epsilon=0`). The gradient flows through
    the means, spreads, candidates and weights of all iterations, the standardisation
    of the costs included. The answer is the final mean, exactly inside the action
    space. A warm start sets the first mean; the spread starts afresh.

    Of actions that are choices (`dp.Categorical`) it refits the probabilities. The
    answer is the cheapest candidate, with the derivative of the probabilities, an
    estimator; `plan.diagnostics["probabilities"]` have their own.

    A candidate of infinite (or NaN) cost weighs nothing and takes no part in the
    standardisation. If fewer than `num_elites` are left, those share the weight; if
    none is, all candidates weigh the same.

    Args:
        horizon: T, number of planned actions.
        num_samples: N, candidates per iteration.
        num_elites: k, the sum of the soft choices, at most N.
        iterations: Refits.
        temperature: τ of the projection, divides the (standardised) costs; a number
            above zero, or a tensor or `nn.Parameter` to learn it. (The `temp` of the
            authors' code multiplies: it is 1/τ.)
        standardize: Bring each problem's costs to mean 0 and standard deviation 1
            before they are weighed, so that one temperature suits all scales. Costs
            that differ by much less than 1e-6 count as equal: scale them up.
        straight_through: Choose exactly `num_elites` candidates as CEM does, and take
            the derivative of the projection for that of the choice. An estimator: the
            plan is a piecewise constant function of the weights.
        initial_std: Spread of the first candidates, a number or `[A]` (or a
            parameter); None stands for half the width of the action space.
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
        Amos and Yarats 2020, "The Differentiable Cross-Entropy Method"
        (arXiv:1909.12830), algorithm 1 and proposition 3. Straight-through gradients:
        Bengio et al. 2013 (arXiv:1308.3432).

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> start = torch.zeros(1, requires_grad=True)
        >>> plan = dp.DCEM(horizon=1, temperature=0.1)(problem, start)
        >>> bool(plan.cost < 1e-2)
        True
        >>> plan.actions.sum().backward()  # the start reached every iteration
        >>> bool(start.grad != 0)
        True
    """

    supported_gradients: ClassVar = UNROLLED
    learnable_numbers: ClassVar = ("temperature", "initial_std")
    temperature: float | Tensor

    def __init__(
        self,
        horizon: int,
        *,
        num_samples: int = 100,
        num_elites: int = 10,
        iterations: int = 10,
        temperature: OrInfinite | Tensor = 1.0,
        standardize: bool = True,
        straight_through: bool = False,
        initial_std: float | Tensor | None = None,
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
        self.num_elites = self.elites(num_elites)
        set_number(self, "temperature", temperature)
        self.standardize = standardize
        self.straight_through = straight_through
        self.configure_gradient(gradient)

    def weigh(self, cost: Tensor) -> Tensor:
        """Return the projection of the negated costs, divided by its sum."""
        scores = -(_standardized(cost) if self.standardize else cost)
        chosen = lml(scores, self.num_elites, self.temperature)
        available = cost < torch.inf
        if self.straight_through:
            # The difference is exactly zero; only its derivative counts.
            hard = hard_top_k(scores, self.num_elites) * available
            chosen = hard + (chosen - chosen.detach())
        count = available.sum(-1, keepdim=True)
        weights = chosen / count.clamp(1, self.num_elites)
        return torch.where(count > 0, weights, 1 / cost.shape[-1])


def _standardized(cost: Tensor) -> Tensor:
    """Return costs `[…, N]` shifted to mean 0 and divided by their standard deviation.

    The deviation is the unbiased one plus `_SPREAD_FLOOR`. Mean and deviation are those
    of the finite costs; infinite ones stay infinite.
    """
    finite = torch.isfinite(cost)
    count = finite.sum(-1, keepdim=True)
    known = torch.where(finite, cost, 0.0)
    # in units in which no sum overflows: one, unless the costs come near to that
    share = 4 * cost.shape[-1] / torch.finfo(cost.dtype).max
    unit = (known.detach().abs().amax(-1, keepdim=True) * share).clamp_min(1)
    known = known / unit
    mean = known.sum(-1, keepdim=True) / count.clamp_min(1)
    deviation = torch.where(finite, known - mean, 0.0)
    spread = safe_norm(deviation) / (count - 1).clamp_min(1).to(cost.dtype).sqrt()
    standard = deviation / (spread + _SPREAD_FLOOR / unit)
    return torch.where(finite, standard, cost)
