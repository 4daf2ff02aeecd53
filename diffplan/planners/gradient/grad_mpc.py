"""Grad-MPC: many candidates descend the objective, the best one is taken."""

from typing import Any

from torch import Tensor

from diffplan._checks import require_count, require_positive
from diffplan._kinds import formerly
from diffplan.functional._first_order import FirstOrderRule, Optimizer, rule_of
from diffplan.gradients import GradientStrategy
from diffplan.planners.gradient.loop import GradientPlanner


class GradMPC(GradientPlanner):
    """Gradient-based planning: many candidates descend, the best one is taken.

    The starting points are N(centre, half width²), brought into the box; with a warm
    start the first one is that plan, without one of them is the middle of the box where
    that is cheaper than all. A plan is differentiated through every gradient
    step, second derivatives included; which candidate is best is piecewise constant and
    carries no gradient. A candidate whose cost or gradient is not finite leaves the
    contest, and `plan.discarded` counts those that did.

    The paper gives neither the optimiser nor the step size of the actions: plain
    gradient descent as in its algorithm 1 is the default here, and no clipping.

    Args:
        horizon: T, number of planned actions.
        iterations: Gradient steps.
        num_starts: N. Memory grows with N · iterations · T where a plan is
            differentiated; `GradMPC.paper()` is for acting.
        step_size: A number or a learnable tensor (the paper lists 0.1 to 0.0001).
        optimizer: "sgd", "adam", "rmsprop", or a rule with the method `direction`.
        clip: Largest norm of the gradient of one action; None leaves it as it is.
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
        S V et al. 2023, "Gradient-based Planning with World Models"
        (arXiv:2312.17227), algorithm 1 and table 3.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> target = torch.zeros(1, requires_grad=True)
        >>> plan = dp.GradMPC(horizon=3, num_starts=10)(problem, target)
        >>> plan.actions.sum().backward()  # d Σ actions / d state = -1
        >>> target.grad.round(decimals=2)
        tensor([-1.])
    """

    @formerly(num_candidates="num_starts")
    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 20,
        num_starts: int = 16,
        step_size: float | Tensor = 0.1,
        optimizer: Optimizer | FirstOrderRule = "sgd",
        clip: float | None = None,
        checkpoint: bool = False,
        keep_best: bool = True,
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.configure_descent(
            horizon=horizon,
            iterations=iterations,
            step_size=step_size,
            rule=rule_of(optimizer),
            checkpoint=checkpoint,
            keep_best=keep_best,
        )
        self.num_starts = require_count("num_starts", num_starts, 1)
        self.clip = None if clip is None else require_positive("clip", clip)
        self.configure_gradient(gradient)

    @classmethod
    def paper(cls, horizon: int = 12, **options: Any) -> "GradMPC":
        """Return the paper's size: 1,000 candidates, 40 steps, the last iterate."""
        numbers = {"iterations": 40, "num_starts": 1000, "keep_best": False}
        return cls(horizon, **{**numbers, **options})
