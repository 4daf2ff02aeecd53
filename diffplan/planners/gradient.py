"""Planning by gradient descent on actions, from several starting points at once.

The loop::

    candidates ← warm start, and random ones about the box centre
    repeat `iterations` times:
        gradient   ← ∂ Σ_n cost_n / ∂ candidates        each candidate its own
        candidates ← project(candidates - step_size · direction(gradient))
    answer: the candidate of least cost

Gradients come from `torch.func.grad` and updates from pure rules, so the loop can be
unrolled, differentiated again and compiled.
"""

from typing import ClassVar, cast

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, require_count, require_positive
from diffplan.functional.derivatives import inside_transform
from diffplan.functional.first_order import (
    RULES,
    FirstOrderRule,
    clip_norm,
    start_moments,
)
from diffplan.gradients import (
    CONSTANT,
    Derivatives,
    Detach,
    GradientStrategy,
    Truncated,
    Unroll,
    tracked,
)
from diffplan.plan import Plan
from diffplan.planners.base import Planner, Solution, standard_normal
from diffplan.planners.candidates import candidate_costs, pick, worst_if_nan
from diffplan.planners.checkpointing import checkpointed_gradient
from diffplan.planners.numbers import set_number
from diffplan.planners.sampling import stack_trace
from diffplan.problem import PlanningProblem

DESCENT = {
    Unroll: Derivatives(order=2),
    Truncated: Derivatives(order=2),
    Detach: CONSTANT,
}


class GradientPlanner(Planner):
    """Base of `ShootingGD` and `GradMPC`; owns the loop above.

    Attributes:
        num_candidates: N, how many action sequences descend side by side.
        iterations: Gradient steps.
        step_size: A number or a learnable tensor.
        rule: Turns gradients into directions, see `diffplan.functional.first_order`.
        clip: Largest norm of the gradient of one action, or None.
        uniform: Whether random starts are uniform in the box instead of normal.
    """

    learnable_numbers: ClassVar = ("step_size",)
    plans_under_noise: ClassVar[bool] = True
    exportable: ClassVar[bool] = False
    num_candidates: int
    iterations: int
    step_size: float | Tensor
    rule: FirstOrderRule
    clip: float | None = None
    uniform: bool = False

    def configure_descent(
        self,
        *,
        horizon: int,
        iterations: int,
        step_size: float | Tensor,
        rule: FirstOrderRule,
    ) -> None:
        """Check and set the attributes that both planners name alike.

        Raises:
            ArgumentError: names the first argument that is out of range.
        """
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        set_number(self, "step_size", step_size)
        self.rule = rule

    def draw_noise(
        self,
        problem: PlanningProblem,
        state: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Draw the N(0, 1) numbers of the starting points `[B, N, T, A]`."""
        count, steps = self.num_candidates, self.horizon
        shape = (state.shape[0], count, steps, problem.action_space.dim)
        return standard_normal(shape, state, generator)

    def solve(
        self,
        problem: PlanningProblem,
        state: Tensor,
        noise: Tensor | None,
        warm_start: Plan | None,
    ) -> Solution:
        """Run the loop; see `Planner.solve`."""
        noise = cast(Tensor, noise)
        candidates = self._starting_points(problem, noise, warm_start)
        moments = start_moments(candidates)
        trace: list[Tensor] = []

        for iteration in range(self.iterations):
            with tracked(self.gradient, iteration, self.iterations):
                gradient, cost = self._slope(problem, state, candidates)
                if self.clip is not None:
                    gradient = clip_norm(gradient, self.clip)
                if problem.action_constraints:
                    gradient = self._allowed(problem, candidates, gradient)
                direction, moments = self.rule.direction(gradient, moments)
                candidates = candidates - self.step_size * direction
                candidates = problem.project(candidates)
            trace.append(worst_if_nan(cost.detach()))
        candidates = problem.project(candidates)
        return self._choose(problem, state, candidates, trace)

    def _slope(
        self, problem: PlanningProblem, state: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each candidate's gradient `[B, N, T, A]` and cost `[B, N]`."""
        transformed = inside_transform() or torch.compiler.is_compiling()
        if self.checkpoint and not transformed:
            start = state.unsqueeze(1).expand(-1, candidates.shape[1], -1)
            return checkpointed_gradient(problem, start, candidates)

        def total_cost(actions: Tensor) -> tuple[Tensor, Tensor]:
            cost = candidate_costs(problem, state, actions)
            return cost.sum(), cost

        return torch.func.grad(total_cost, has_aux=True)(candidates)

    def _allowed(
        self, problem: PlanningProblem, candidates: Tensor, gradient: Tensor
    ) -> Tensor:
        """Return what constraints leave of a gradient: zero at the constrained optimum.

        Rules that scale each coordinate by itself (Adam, RMSprop) would slide along a
        curved or oblique boundary past the optimum; beside a box they cannot. For plain
        gradient descent nothing changes.
        """
        ahead = problem.project(candidates - self.step_size * gradient)
        return (candidates - ahead) / self.step_size

    def _starting_points(
        self, problem: PlanningProblem, noise: Tensor, warm_start: Plan | None
    ) -> Tensor:
        box = problem.action_space.to(noise)
        spread = 2 * torch.special.ndtr(noise) - 1 if self.uniform else noise
        points = box.center + box.scale * spread
        if warm_start is None:
            return points
        return torch.cat([warm_start.actions.unsqueeze(1), points[:, 1:]], dim=1)

    def _choose(
        self,
        problem: PlanningProblem,
        state: Tensor,
        candidates: Tensor,
        trace: list[Tensor],
    ) -> Solution:
        with torch.no_grad():
            cost = worst_if_nan(candidate_costs(problem, state, candidates))
        best = cost.argmin(dim=-1)
        chosen = [pick(costs, best) for costs in trace]
        cheapest = [costs.amin(dim=-1) for costs in trace]
        return Solution(
            actions=pick(candidates, best),
            iterations=self.iterations,
            diagnostics={
                "cost": stack_trace(chosen, state),
                "best_cost": stack_trace(cheapest, state),
                "candidate_cost": cost.detach(),
            },
        )


class ShootingGD(GradientPlanner):
    """Shooting with gradient descent: Adam on the actions, projected after each step.

    LatCo's baseline "shooting GD". Differentiable, though its many iterations make
    `Detach()` the default.

    Args:
        horizon: T, number of planned actions.
        iterations: Adam steps (LatCo: 500 on Meta-World, 100 on DeepMind Control).
        step_size: Adam's step size, a number or a learnable tensor.
        num_starts: Random restarts that descend side by side; the best one is taken.
        init: Distribution of the starting points: "normal", N(centre, half width²) as
            LatCo's released code, or "uniform" in the box as its paper says.
        checkpoint: Let derivatives compute rollouts again instead of keeping them:
            memory grows with √T instead of T, for one more forward pass.
        gradient: `Detach()`, `Unroll()` or `Truncated(k)`.

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

    supported_gradients: ClassVar = DESCENT

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 500,
        step_size: float | Tensor = 0.05,
        num_starts: int = 1,
        init: str = "normal",
        checkpoint: bool = False,
        gradient: GradientStrategy = Detach(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__()
        self.configure_descent(
            horizon=horizon,
            iterations=iterations,
            step_size=step_size,
            rule=RULES["adam"],
        )
        self.num_candidates = require_count("num_starts", num_starts, 1)
        if init not in ("normal", "uniform"):
            raise ArgumentError(f"init: expected 'normal' or 'uniform', got {init!r}")
        self.uniform = init == "uniform"
        self.checkpoint = checkpoint
        self.configure_gradient(gradient)


class GradMPC(GradientPlanner):
    """Gradient-based planning: many candidates descend, the best one is taken.

    The starting points are N(centre, half width²); with a warm start the first one is
    that plan. A plan is differentiated through every gradient step, second derivatives
    included; which candidate is best is piecewise constant and carries no gradient.

    The paper gives neither the optimiser nor the step size of the actions: plain
    gradient descent as in its algorithm 1 is the default here, and no clipping.

    Args:
        horizon: T, number of planned actions.
        iterations: Gradient steps.
        num_candidates: N.
        step_size: A number or a learnable tensor (the paper lists 0.1 to 0.0001).
        optimizer: "sgd", "adam", "rmsprop", or a rule with the method `direction`.
        clip: Largest norm of the gradient of one action; None leaves it as it is.
        checkpoint: Let derivatives compute rollouts again instead of keeping them:
            memory grows with √T instead of T, for one more forward pass.
        gradient: `Unroll()`, `Truncated(k)` or `Detach()`.

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
        >>> plan = dp.GradMPC(horizon=3, num_candidates=10)(problem, target)
        >>> plan.actions.sum().backward()  # d Σ actions / d state = -1
        >>> target.grad.round(decimals=2)
        tensor([-1.])
    """

    supported_gradients: ClassVar = DESCENT

    def __init__(
        self,
        horizon: int = 12,
        *,
        iterations: int = 40,
        num_candidates: int = 1000,
        step_size: float | Tensor = 0.1,
        optimizer: str | FirstOrderRule = "sgd",
        clip: float | None = None,
        checkpoint: bool = False,
        gradient: GradientStrategy = Unroll(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__()
        self.configure_descent(
            horizon=horizon,
            iterations=iterations,
            step_size=step_size,
            rule=_rule(optimizer),
        )
        self.num_candidates = require_count("num_candidates", num_candidates, 1)
        self.clip = None if clip is None else require_positive("clip", clip)
        self.checkpoint = checkpoint
        self.configure_gradient(gradient)


def _rule(optimizer: str | FirstOrderRule) -> FirstOrderRule:
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer not in RULES:
        raise ArgumentError(
            f"optimizer: expected one of {', '.join(RULES)}, got {optimizer!r}"
        )
    return RULES[optimizer]
