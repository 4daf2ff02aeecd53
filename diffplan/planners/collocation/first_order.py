"""First-order LatCo: the paper's ablation "no second-order optimisation"."""

from typing import Any

from torch import Tensor

from diffplan.planners.collocation._first_order import (
    FirstOrderCollocation,
    RelaxedProblem,
)
from diffplan.planners.collocation.multipliers import DualAscent
from diffplan.problem import PlanningProblem


class FirstOrderLatCo(FirstOrderCollocation):
    """Collocation by Adam on states and actions, with multipliers by dual ascent.

    What `LatCo` does by Gauss-Newton steps, by gradient steps: each is far cheaper, and
    far more are needed. Any objective that has a derivative will do; a reward enters
    linearly (`NegativeReturn`).

    Multipliers weigh *squared* violations and grow as long as these exceed their
    tolerance, so the plan nears the constrained optimum as they grow, as one over them.
    States and actions start at N(0, 1), as in `LatCo`, and as there the model is asked
    about states and actions that no rollout meets.

    `plan.diagnostics` and `plan.memory` are those of `LatCo`.

    Args:
        horizon: T, at least 1.
        iterations: Adam steps (paper: 5,000).
        step_size: Adam's, a number or a learnable tensor (paper: 0.05), in the units of
            states, and for actions of about half the width of their box.
        dual_every: The multipliers follow every so many steps.
        multiplier_rules: Of the dynamics, and of the action limits. None stands for
            `DualAscent(10)` twice.
        initial_multipliers: λ and ν at the start, at least 0. Large ones keep the plan
            feasible and let it move slowly.
        dynamics_tolerance: ε of ‖x_{t+1} - f(x_t, u_t)‖².
        action_tolerance: ε of the action limits.
        fall_back: Whether to answer with the actions that were given where the plan's
            rollout costs more, see `LatCo`.
        keep_multipliers: Whether a warm start also goes on with its multipliers.
        gradient: `Unroll()` (if None), `Truncated(k)` or `Detach()`.

    Raises:
        ArgumentError, UnsupportedGradientError: a setting is out of range.

    References:
        Rybkin et al. 2021, LatCo (arXiv:2106.13229), appendix B, "LatCo no second
        order"; Table 3.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> plan = dp.FirstOrderLatCo(horizon=3)(problem, torch.zeros(1))
        >>> bool(plan.cost < 1e-2)
        True
    """

    @classmethod
    def released(cls, horizon: int = 30, **options: Any) -> "FirstOrderLatCo":
        """Return the ablation as the authors' code has it.

        5,000 steps of 0.05. It weighs the dynamics by 1e4 λ, which the paper does not
        mention, with λ = 1 at the start: here λ = 1e4. Every 5 steps multipliers grow
        by 1.5 times the violation, no tolerance taken off; Σ max(0, a² - 1) is that of
        the action limits; the plan is the answer whatever its rollout costs.
        """
        rules = DualAscent(1.5e4, slack=False), DualAscent(1.5, slack=False)
        given = {
            "iterations": 5000,
            "step_size": 0.05,
            "fall_back": False,
            "multiplier_rules": rules,
            "initial_multipliers": (1e4, 1.0),
        }
        return cls(horizon, **{**given, **options})

    def relaxed(self, problem: PlanningProblem, state: Tensor) -> RelaxedProblem:
        """Return the problem whose variables are states."""
        return RelaxedProblem(problem, state, self.action_violation)
