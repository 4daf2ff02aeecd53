"""Planning by gradient descent on actions, from several starting points at once.

The loop::

    candidates ← warm start, and random ones about the box centre
    repeat `iterations` times:
        gradient   ← ∂ Σ_n cost_n / ∂ candidates        each candidate its own
        candidates ← project(candidates - step_size · direction(gradient))
    answer: the cheapest candidate of all iterations

A step that is too long makes candidates worse, so the answer is the best iterate; its
gradient is that of the steps that led to it. Gradients come from `torch.func.grad` and
updates from pure rules, so the loop can be unrolled, differentiated again and compiled.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffplan._checks import require_choice, require_count, require_positive
from diffplan.functional._derivatives import inside_transform
from diffplan.functional._first_order import (
    RULES,
    FirstOrderRule,
    clip_norm,
    start_moments,
)
from diffplan.functional._isolation import finite_rows, isolated, known_finite
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
from diffplan.planners._arguments import Init
from diffplan.planners._compiling import any_afresh, start_plan, starts_afresh
from diffplan.planners._evaluation import (
    candidate_costs,
    checkpointed_gradient,
    pick,
    row_costs,
    worst_if_failed,
)
from diffplan.planners._numbers import set_number
from diffplan.planners._progress import Best, Progress, with_cheaper_last
from diffplan.planners._solution import stack_trace
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

_Optimizer = Literal["sgd", "adam", "rmsprop"]
"""The names of `diffplan.functional._first_order.RULES`."""

_DESCENT = {
    Unroll: Derivatives(order=2),
    Truncated: Derivatives(order=2),
    Detach: CONSTANT,
}


class _GradientPlanner(Planner):
    """Base of `ShootingGD` and `GradMPC`; owns the loop above.

    Attributes:
        num_candidates: N, how many action sequences descend side by side.
        iterations: Gradient steps.
        step_size: A number or a learnable tensor.
        rule: Turns gradients into directions, see `diffplan.functional._first_order`.
        clip: Largest norm of the gradient of one action, or None.
        uniform: Whether random starts are uniform in the box instead of normal.
        keep_best: Whether the answer is the best iterate instead of the last one.
    """

    learnable_numbers: ClassVar = ("step_size",)
    plans_under_noise: ClassVar[bool] = True
    needs_derivatives = True
    num_candidates: int
    iterations: int
    step_size: float | Tensor
    rule: FirstOrderRule
    clip: float | None = None
    uniform: bool = False
    keep_best: bool

    def configure_descent(
        self,
        *,
        horizon: int,
        iterations: int,
        step_size: float | Tensor,
        rule: FirstOrderRule,
        keep_best: bool,
    ) -> None:
        """Check and set the attributes that both planners name alike.

        Raises:
            ArgumentError: names the first argument that is out of range.
        """
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        set_number(self, "step_size", step_size)
        self.rule, self.keep_best = rule, keep_best

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of the starting points' N(0, 1) numbers, `[N, T, A]`."""
        return (self.num_candidates, self.horizon, request.problem.action_space.dim)

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the first of the random starting points."""
        points = self.starting_points(self.with_noise(request.afresh()))
        return start_plan(request.state, points[:, 0])

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop; see `Planner.solve`."""
        problem, state = request.problem, request.state
        candidates = self.starting_points(request)
        start = state.unsqueeze(1).expand(-1, candidates.shape[1], -1).contiguous()
        moments, progress = start_moments(candidates), Progress()
        afresh = starts_afresh(request.warm_start, state)
        seeks_middle = self.keep_best and any_afresh(afresh)

        for iteration in range(self.iterations):
            with tracked(self.gradient, iteration, self.iterations):
                if iteration == 0 and seeks_middle:
                    first = self._first(request, candidates, afresh)
                    candidates, gradient, cost = first
                else:
                    gradient, cost = self._slopes(problem, start, candidates)
                ok = None
                if not known_finite((gradient, cost)):
                    ok = finite_rows((gradient, cost), lead=2)
                    gradient = torch.where(ok[..., None, None], gradient, 0.0)
                progress.add(candidates, cost.detach(), ok)
                request.show(candidates, cost)
                if self.clip is not None:
                    gradient = clip_norm(gradient, self.clip)
                if problem.action_constraints:
                    gradient = self._allowed(problem, candidates, gradient)
                direction, moments = self.rule.direction(gradient, moments)
                candidates = self.step(request, candidates, direction, iteration)
                candidates = problem.project(candidates)
        return self._choose(problem, state, candidates, progress)

    def step(
        self,
        request: PlanRequest,
        candidates: Tensor,
        direction: Tensor,
        iteration: int,
    ) -> Tensor:
        """Return where candidates `[B, N, T, A]` go, not yet projected."""
        return candidates - self.step_size * direction

    def _first(
        self, request: PlanRequest, candidates: Tensor, afresh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first candidates, their gradients and their costs.

        Where the middle of the box is cheaper than all of them, it takes the place of
        the dearest of a fresh start: the descent has begun there and ends no higher.
        """
        problem, state = request.problem, request.state
        middle = self.initial_actions(request.afresh()).unsqueeze(1)
        tried = torch.cat((candidates, middle), dim=1)
        start = state.unsqueeze(1).expand(-1, tried.shape[1], -1).contiguous()
        gradient, cost = self._slopes(problem, start, tried)
        index = with_cheaper_last(worst_if_failed(cost.detach()), afresh)
        whole = index[:, :, None, None].expand_as(candidates)
        return tried.gather(1, whole), gradient.gather(1, whole), cost.gather(1, index)

    def _slopes(
        self, problem: PlanningProblem, start: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        slope = partial(self._slope, problem)
        gradient, cost = isolated(slope, start, candidates, lead=2)
        return gradient, cost

    def _slope(
        self, problem: PlanningProblem, start: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each candidate's gradient `[B, N, T, A]` and cost `[B, N]`."""
        transformed = inside_transform() or torch.compiler.is_compiling()
        if self.checkpoint and not transformed:
            return checkpointed_gradient(problem, start, candidates)

        def total_cost(actions: Tensor) -> tuple[Tensor, Tensor]:
            (cost,) = row_costs(problem, False, start, actions)
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

    def starting_points(self, request: PlanRequest) -> Tensor:
        """Return where each candidate starts `[B, N, T, A]`, allowed actions."""
        problem, warm_start = request.problem, request.warm_start
        noise = request.drawn()
        box = problem.action_space.aligned(noise)
        spread = 2 * torch.special.ndtr(noise) - 1 if self.uniform else noise
        points = box.center + box.scale * spread
        if warm_start is not None:
            points = torch.cat([warm_start.actions.unsqueeze(1), points[:, 1:]], dim=1)
        return problem.project(points)

    def _choose(
        self,
        problem: PlanningProblem,
        state: Tensor,
        candidates: Tensor,
        progress: Progress,
    ) -> Solution:
        with torch.no_grad():
            cost = worst_if_failed(candidate_costs(problem, state, candidates))
        last = Best.of(candidates, cost)
        best, first = last, cost.amin(dim=-1)
        if progress.costs:
            first = progress.costs[0].amin(dim=-1)
        if self.keep_best and progress.best is not None:
            best = progress.best.or_later(last)
        chosen = [pick(costs, best.candidate) for costs in progress.costs]
        cheapest = [costs.amin(dim=-1) for costs in progress.costs]
        return Solution(
            actions=best.actions,
            status=progress.status(first, last.least),
            iterations=self.iterations,
            diagnostics={
                "cost": stack_trace(chosen, state),
                "best_cost": stack_trace(cheapest, state),
                "candidate_cost": cost.detach(),
            },
        )


class ShootingGD(_GradientPlanner):
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

    supported_gradients: ClassVar = _DESCENT

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
            keep_best=keep_best,
        )
        self.num_candidates = require_count("num_starts", num_starts, 1)
        require_choice("init", init, Init)
        self.uniform = init == "uniform"
        self.checkpoint = checkpoint
        self.configure_gradient(gradient)


class GradMPC(_GradientPlanner):
    """Gradient-based planning: many candidates descend, the best one is taken.

    The starting points are N(centre, half width²), brought into the box; with a warm
    start the first one is that plan, without one of them is the middle of the box where
    that is cheaper than all. A plan is differentiated through every gradient
    step, second derivatives included; which candidate is best is piecewise constant and
    carries no gradient.

    The paper gives neither the optimiser nor the step size of the actions: plain
    gradient descent as in its algorithm 1 is the default here, and no clipping.

    Args:
        horizon: T, number of planned actions.
        iterations: Gradient steps.
        num_candidates: N. Memory grows with N · iterations · T where a plan is
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
        >>> plan = dp.GradMPC(horizon=3, num_candidates=10)(problem, target)
        >>> plan.actions.sum().backward()  # d Σ actions / d state = -1
        >>> target.grad.round(decimals=2)
        tensor([-1.])
    """

    supported_gradients: ClassVar = _DESCENT

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 20,
        num_candidates: int = 16,
        step_size: float | Tensor = 0.1,
        optimizer: _Optimizer | FirstOrderRule = "sgd",
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
            rule=_rule(optimizer),
            keep_best=keep_best,
        )
        self.num_candidates = require_count("num_candidates", num_candidates, 1)
        self.clip = None if clip is None else require_positive("clip", clip)
        self.checkpoint = checkpoint
        self.configure_gradient(gradient)

    @classmethod
    def paper(cls, horizon: int = 12, **options: Any) -> "GradMPC":
        """Return the paper's size: 1,000 candidates, 40 steps, the last iterate."""
        numbers = {"iterations": 40, "num_candidates": 1000, "keep_best": False}
        return cls(horizon, **{**numbers, **options})


def _rule(optimizer: _Optimizer | FirstOrderRule) -> FirstOrderRule:
    if not isinstance(optimizer, str):
        return optimizer
    require_choice("optimizer", optimizer, _Optimizer)
    return RULES[optimizer]
