"""Planning by gradient descent on actions, from several starting points at once.

The loop::

    candidates ← warm start, and random ones about the box centre
    repeat `iterations` times:
        gradient   ← ∂ Σ_n cost_n / ∂ candidates        each candidate its own
        candidates ← project(candidates - step_size · direction(gradient))
    answer: the cheapest candidate of all iterations

A candidate whose cost or gradient is not finite leaves the contest from there on. A
step that is too long makes candidates worse, so the answer is the best iterate; its
gradient is that of the steps that led to it. Gradients come from `torch.func.grad` and
updates from pure rules, so the loop can be unrolled, differentiated again and compiled.
"""

from typing import ClassVar

import torch
from torch import Tensor

from diffplan._checks import describe, require_count
from diffplan._user_functions import call, require_result
from diffplan.errors import TensorTypeError
from diffplan.functional._derivatives import inside_transform
from diffplan.functional._first_order import (
    FirstOrderRule,
    Moments,
    clip_norm,
    start_moments,
)
from diffplan.functional._isolation import finite_rows, isolated, known_finite
from diffplan.gradients import UNROLLED, tracked
from diffplan.plan import Plan
from diffplan.planners._compiling import any_afresh, start_plan, starts_afresh
from diffplan.planners._evaluation import (
    candidate_costs,
    checkpointed_gradient,
    pick,
    row_costs,
    worst_if_failed,
)
from diffplan.planners._numbers import set_number
from diffplan.planners._progress import Best, Descent, with_cheaper_last
from diffplan.planners._solution import stack_trace
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem


class GradientPlanner(Planner):
    """Base of `ShootingGD` and `GradMPC`; owns the loop above.

    A planner that descends from other points overrides `starting_points`, and
    `remember` if it goes on with more than the best actions.

    Attributes:
        num_starts: N, how many action sequences descend side by side.
        iterations: Gradient steps.
        step_size: A number or a learnable tensor.
        rule: Turns gradients into directions, see `diffplan.functional._first_order`.
        clip: Largest norm of the gradient of one action, or None.
        uniform: Whether random starts are uniform in the box instead of normal.
        keep_best: Whether the answer is the best iterate instead of the last one.
    """

    supported_gradients: ClassVar = UNROLLED
    learnable_numbers: ClassVar[tuple[str, ...]] = ("step_size",)
    plans_under_noise: ClassVar[bool] = True
    needs_derivatives = True
    num_starts: int
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
        checkpoint: bool,
        keep_best: bool,
    ) -> None:
        """Check and set the attributes that both planners name alike.

        Raises:
            ArgumentError: names the first argument that is out of range.
        """
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        set_number(self, "step_size", step_size)
        self.rule, self.checkpoint, self.keep_best = rule, checkpoint, keep_best

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of the starting points' N(0, 1) numbers, `[N, T, A]`."""
        return (self.num_starts, self.horizon, request.problem.action_space.dim)

    def starting_points(self, request: PlanRequest) -> Tensor:
        """Return where the descents begin, allowed actions `[B, N, T, A]`.

        By default random points, the first of which gives way to the warm start. An
        override, such as one with proposals of a policy, should begin with the warm
        start too: an answer is no worse than any of these that has a gradient.
        """
        problem, warm_start = request.problem, request.warm_start
        noise = request.drawn()
        box = problem.action_space.aligned(noise)
        spread = 2 * torch.special.ndtr(noise) - 1 if self.uniform else noise
        points = box.center + box.scale * spread
        if warm_start is not None:
            points = torch.cat([warm_start.actions.unsqueeze(1), points[:, 1:]], dim=1)
        return problem.project(points)

    def remember(self, candidates: Tensor) -> dict[str, Tensor]:
        """Return what the next `starting_points` finds in `request.warm_start.memory`.

        It is shifted in time as the actions are (default: nothing).

        Args:
            candidates: Where the descents ended `[B, N, T, A]`.
        """
        return {}

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the first of the starting points."""
        points = self.starting_points(self.with_noise(request.afresh()))
        return start_plan(request.state, points[:, 0], self.remember(points))

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop; see `Planner.solve`."""
        problem, state = request.problem, request.state
        candidates = self.starting_points(request)
        start = state.unsqueeze(1).expand(-1, candidates.shape[1], -1).contiguous()
        moments, progress = start_moments(candidates), Descent()
        afresh = starts_afresh(request.warm_start, state)
        seeks_middle = self.keep_best and any_afresh(afresh)

        for iteration in range(self.iterations):
            with tracked(self.gradient, iteration, self.iterations):
                if iteration == 0 and seeks_middle:
                    first = self._first(request, candidates, afresh)
                    candidates, gradient, cost, progress.replaced = first
                else:
                    seen = problem.redrawn(iteration, 0, candidates.shape[1])
                    gradient, cost = self._slopes(seen, start, candidates)
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
                direction, moments = self._direction(gradient, moments)
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the first candidates, their gradients, their costs.

        Where the middle of the box is cheaper than all of them, it takes the place of
        the dearest of a fresh start: the descent has begun there and ends no higher.
        Also how many failed ones it replaced, `[B]`.
        """
        problem, state = request.problem, request.state
        middle = self.initial_actions(request.afresh()).unsqueeze(1)
        tried = torch.cat((candidates, middle), dim=1)
        start = state.unsqueeze(1).expand(-1, tried.shape[1], -1).contiguous()
        seen = problem.redrawn(0, 0, tried.shape[1])
        gradient, cost = self._slopes(seen, start, tried)
        sound = finite_rows((gradient, cost), lead=2)
        # Where none can descend the cheapest is the answer: see `Descent.in_contest`.
        out = ~sound & sound.any(dim=1, keepdim=True)
        known = worst_if_failed(cost.detach()).masked_fill(out, torch.inf)
        index = with_cheaper_last(known, afresh)
        replaced = sound.gather(1, index).sum(1) - sound[:, :-1].sum(1)
        whole = index[:, :, None, None].expand_as(candidates)
        first = tried.gather(1, whole), gradient.gather(1, whole)
        return *first, cost.gather(1, index), replaced

    def _direction(self, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return what the rule makes of gradients `[B, N, T, A]`, and check it."""
        begins, rule = "optimizer:", self.rule.direction
        advice = "a rule takes each number for itself"
        found = call(begins, rule, gradient, moments, advice=advice)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TensorTypeError(
                f"{begins} expected {describe(rule)} to return a tuple of direction "
                f"and record, got {type(found).__name__}"
            )
        require_result(begins, rule, found[0], gradient.shape, like=gradient)
        return found

    def _slopes(
        self, problem: PlanningProblem, start: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        gradient, cost = isolated(self._slope, problem, start, candidates, lead=2)
        return gradient, cost

    def _slope(
        self, problem: PlanningProblem, start: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each candidate's gradient `[B, N, T, A]` and cost `[B, N]`."""
        # Segments are differentiated one by one by `torch.autograd`, which records
        # nothing in inference mode and sees no transform further out.
        unseen = torch.compiler.is_compiling() or inside_transform()
        if self.checkpoint and not unseen and not torch.is_inference_mode_enabled():
            return checkpointed_gradient(problem, start, candidates)

        def total_cost(actions: Tensor) -> tuple[Tensor, Tensor]:
            (cost,) = row_costs(problem, start, actions)
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

    def _choose(
        self,
        problem: PlanningProblem,
        state: Tensor,
        candidates: Tensor,
        progress: Descent,
    ) -> Solution:
        with torch.no_grad():
            how = None, False, self.iterations
            cost = worst_if_failed(candidate_costs(problem, state, candidates, *how))
        discarded, cost = progress.discarded(cost), progress.in_contest(cost)
        last = Best.of(candidates, cost)
        best, first = last, cost.amin(dim=-1)
        if progress.costs:
            first = progress.costs[0].amin(dim=-1)
        if not problem.common_noise:  # what has risen may be bad luck
            first = last.least
        if self.keep_best and progress.best is not None:
            best = progress.best.or_later(last)
        chosen = [pick(costs, best.candidate) for costs in progress.costs]
        cheapest = [costs.amin(dim=-1) for costs in progress.costs]
        return Solution(
            actions=best.actions,
            status=progress.status(first, last.least),
            iterations=self.iterations,
            memory=self.remember(candidates),
            diagnostics={
                "cost": stack_trace(chosen, state),
                "best_cost": stack_trace(cheapest, state),
                "candidate_cost": cost.detach(),
                "discarded": discarded,
            },
        )
