"""Shooting with gradient descent, the baseline of the LatCo paper."""

from torch import Tensor

from diffplan._checks import require_count
from diffplan.functional._first_order import RULES
from diffplan.gradients import GradientStrategy
from diffplan.planners._arguments import Init
from diffplan.planners.gradient.loop import GradientPlanner


class ShootingGD(GradientPlanner):
    """Shooting with gradient descent: Adam on the actions, projected after each step.

    LatCo's baseline "shooting GD". A plan that nobody differentiates is cheaper under
    `torch.no_grad()`: a graph of so many iterations takes memory.

    Args:
        horizon: T, number of planned actions.
        iterations: Adam steps (LatCo: 500 on Meta-World, 100 on DeepMind Control).
        step_size: Adam's step size, a number or a learnable tensor.
        num_starts: Random restarts that descend side by side; the best one is taken.
            Where the middle of the box is cheaper than all, it is one of them.
        init: Distribution of the starting points: "normal", N(centre, half width²) as
            LatCo's released code, or "uniform" in the box as its paper says.
        checkpoint: Let derivatives compute rollouts again instead of keeping them:
            memory grows with √T instead of T, for one more forward pass.
        keep_best: Return the cheapest iterate; False returns the last one, and starts
            at nothing but random points and the warm start, as the paper does.
        gradient: `Unroll()` (if None), `Truncated(k)` or `Detach()`. Where the best
            iterate comes before the last k, `Truncated(k)` has the gradient zero.

    Raises:
        ArgumentError: an argument is out of range.
        UnsupportedGradientError: `gradient` is another strategy.

    References:
        Rybkin et al. 2021, LatCo (arXiv:2106.13229), appendix D.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> plan = dp.ShootingGD(horizon=3, iterations=100)(problem, torch.zeros(1))
        >>> bool(plan.cost < 1e-2)
        True
    """

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 100,
        step_size: float | Tensor = 0.05,
        num_starts: int = 1,
        init: Init = "normal",
        checkpoint: bool = False,
        keep_best: bool = True,
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.configure_descent(
            horizon=horizon,
            iterations=iterations,
            step_size=step_size,
            rule=RULES["adam"],
            checkpoint=checkpoint,
            keep_best=keep_best,
        )
        self.num_starts = require_count("num_starts", num_starts, 1)
        self.uniform = init == "uniform"
        self.configure_gradient(gradient)
