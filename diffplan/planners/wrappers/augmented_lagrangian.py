"""Constraints on states, kept by any planner: the method of multipliers.

The loop, for constraints g ≤ 0 along the plan (ρ > 0 the penalty, λ the multipliers)::

    repeat `outer_iterations` times:
        plan ← planner(objective + ½ ρ ‖max(0, g + λ/ρ)‖², warm-started)
        λ    ← max(0, λ + ρ g(plan))
        ρ    ← growth · ρ, for plans whose violation has not fallen enough
    answer: the last plan, unless the warm start is better, and λ

If the inner plans are minima, this reaches the constrained optimum at a finite ρ, which
a penalty alone does not: the multipliers converge to those of the problem, and ρ stays
where inner problems are well conditioned.

References:
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., section 17.3, algorithm 17.4;
    Birgin and Martínez 2014, *Practical Augmented Lagrangian Methods for Constrained
    Optimization*, algorithm 4.1, for the rule of the penalty.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_count, require_positive
from diffplan._kinds import OrInfinite
from diffplan.errors import ShapeError
from diffplan.functional._isolation import isolated
from diffplan.gradients import (
    CONSTANT,
    Derivatives,
    Detach,
    GradientStrategy,
    Unroll,
)
from diffplan.objectives._penalty import (
    ConstraintMultipliers,
    ConstraintPenalty,
    add_penalty,
)
from diffplan.plan import Plan, Status
from diffplan.planners._compiling import known_before
from diffplan.planners._evaluation import worst_if_failed
from diffplan.planners._progress import has_risen
from diffplan.planners._solution import stack_trace
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

_ENOUGH = 0.25
"""The penalty grows unless the violation fell to this share of the one before."""


class AugmentedLagrangian(Planner):
    """Any planner, made to keep the state constraints of the problem.

    A residual objective stays one, so that LatCo, iLQR and Gauss-Newton planners can be
    wrapped as well as those that only ask for costs. The constraints hold up to
    `tolerance` for the states that the plan's actions lead to. Without state
    constraints it is the wrapped planner.

    An answer is never worse than the warm start, which is kept where the last plan's
    constraints exceed the tolerance by more than a hundredth more, or no less and it
    costs more by over a hundredth.

    The plan is the constrained optimum, and its multipliers are the prices of the
    constraints, if the wrapped planner ends at a minimum: `ILQR`, `ShootingGN` and
    `LatCo` with `MethodOfMultipliers` do; `LatCo` with its own multipliers and planners
    that sample do not.

    First-order planners diverge once step_size · ρ is large: give them a `growth` near
    one. Second-order ones bear any ρ.

    `plan.status`: CONVERGED where the largest violation is within the tolerance,
    CONSTRAINT_VIOLATED where it is not, or how the wrapped planner failed.

    `plan.diagnostics`: traces over the outer iterations `[…, outer_iterations]`:
    `cost` (the objective's own), `constraint_violation` (the largest max(0, g)) and
    `constraint_penalty`; the wrapped planner's last ones as `planner_…`.

    `plan.memory`, with which a warm start goes on: `constraint_multipliers`
    `[…, T, C]`, `terminal_multipliers` `[…, 1, C']`, `constraint_penalty` `[…, 1, 1]`,
    and what the wrapped planner keeps. C counts the constraints of all objects.

    Args:
        planner: Any planner.
        outer_iterations: How often multipliers are updated.
        penalty: ρ at the start.
        growth: Factor of ρ, at least 1.
        tolerance: Largest g that counts as kept.
        max_penalty: ρ does not grow beyond.
        gradient: `Unroll()` differentiates through all outer iterations, multipliers
            included, and through each run of the wrapped planner by that planner's own
            strategy (and to no higher order); `Detach()`. None stands for `Detach()`
            if that is the wrapped planner's strategy, else `Unroll()`.

    Raises:
        ArgumentError, TensorTypeError: an argument is out of range, or no planner.
        UnsupportedGradientError: `gradient` is another strategy, or `Unroll()` of a
            planner that detaches.

    Example:
        >>> import diffplan as dp
        >>> wall = lambda state, action=None: state[..., :1] - 0.5
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.ones(1)),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ...     constraints=[dp.constraints.StateConstraint(wall, terminal=wall)],
        ... )
        >>> planner = dp.AugmentedLagrangian(dp.LatCo(horizon=3, iterations=20))
        >>> plan = planner(problem, torch.zeros(1))
        >>> bool((plan.states <= 0.5 + 1e-4).all())
        True
    """

    supported_gradients: ClassVar = {Unroll: Derivatives(order=2), Detach: CONSTANT}
    keeps_state_constraints: ClassVar[bool] = True

    def __init__(
        self,
        planner: Planner,
        *,
        outer_iterations: int = 10,
        penalty: float = 10.0,
        growth: float = 10.0,
        tolerance: float = 1e-4,
        max_penalty: OrInfinite = 1e6,
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.planner = planner
        self.horizon = planner.horizon
        self.needs_derivatives = planner.needs_derivatives
        self.leaves_bounds = planner.leaves_bounds
        self.plans_categories = planner.plans_categories
        # No problem has both noise and constraints on states.
        self.plans_under_noise = planner.plans_under_noise  # type: ignore[misc]
        self.outer_iterations = require_count("outer_iterations", outer_iterations)
        self.penalty = require_positive("penalty", penalty)
        self.growth = require_at_least("growth", growth, 1)
        self.tolerance = require_positive("tolerance", tolerance)
        self.max_penalty = require_positive("max_penalty", max_penalty)
        # As much as the wrapped planner promises for its own strategy.
        promise = planner.supported_gradients[type(planner.gradient)]
        self.supported_gradients = {Detach: CONSTANT}  # type: ignore[misc]
        if promise.order > 0:
            self.supported_gradients = {Unroll: promise, Detach: CONSTANT}  # type: ignore[misc]
        self.configure_gradient(gradient, planner)

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise what the wrapped planner raises for the problem it will be given."""
        self.planner.check_problem(problem.relaxed(problem.objective))
        self.planner._check_learnable()

    def check_derivatives(self, problem: PlanningProblem, state: Tensor) -> None:
        """Raise what the wrapped planner raises for the problem it will be given."""
        relaxed = problem.relaxed(problem.objective)
        self.planner.check_derivatives(relaxed, state)

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...] | None:
        """Return the shape of the wrapped planner's noise."""
        return self.planner.noise_shape(request)

    def noise_from_keys(self, request: PlanRequest) -> Tensor | None:
        """Draw the wrapped planner's noise, which all outer iterations share."""
        return self.planner.noise_from_keys(request)

    def check_noise(self, request: PlanRequest) -> None:
        """Raise if noise is not such as the wrapped planner takes."""
        self.planner.check_noise(request)

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return where the wrapped planner starts, with the first multipliers."""
        inner = self.planner.cold_start(request)
        if not request.problem.state_constraints:
            return inner
        return replace(
            inner, memory=inner.memory | _named(self._start(request.afresh()))
        )

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop; see `Planner.solve`."""
        problem, state = request.problem, request.state
        if not problem.state_constraints:
            plan = self.planner.plan_for(request)
            traces = {"cost": plan.cost.detach()[:, None]}
            return _solution(plan, plan.status, plan.memory, traces)
        # Multipliers follow from the states of each inner plan: all are rolled out.
        given, request = request, replace(request, evaluate=True)
        multipliers = self._start(request)
        before = torch.full_like(state[:, 0], torch.inf)
        trace: dict[str, list[Tensor]] = {
            "cost": [],
            "constraint_violation": [],
            "constraint_penalty": [],
        }
        for _ in range(self.outer_iterations):
            term = ConstraintPenalty(problem.state_constraints, multipliers)
            relaxed = problem.relaxed(add_penalty(problem.objective, term))
            plan = self.planner.plan_for(replace(request, problem=relaxed))
            request = replace(request, warm_start=plan)
            values = _values(problem, plan)
            violation = values.largest()
            with torch.no_grad():
                cost = problem.trajectory_cost(plan.states, plan.actions)
            trace["cost"].append(cost)
            trace["constraint_violation"].append(violation)
            trace["constraint_penalty"].append(multipliers.penalty[:, 0, 0])
            unmet = values.unmet(multipliers)
            multipliers = self._update(multipliers, values, violation, unmet, before)
            before = unmet
        memory = plan.memory | _named(multipliers)
        plan, violation = self._unless_worse(given, plan, violation, cost)
        status = self._status(plan.status, violation)
        traces = {name: stack_trace(values, state) for name, values in trace.items()}
        return _solution(plan, status, memory, traces)

    def _start(self, request: PlanRequest) -> ConstraintMultipliers:
        problem, state, warm_start = request.problem, request.state, request.warm_start
        action = problem.project(problem.middle(state, self.horizon))[:, 0]
        with torch.no_grad():
            # Only their number is wanted here, so that any step will do.
            step = torch.zeros((), dtype=torch.int64, device=state.device)
            constraints = problem.state_constraints
            stage = torch.cat([c.stage(state, action, step) for c in constraints], -1)
            terminal = torch.cat([c.end(state, step) for c in constraints], -1)
        start = {
            "constraint_multipliers": stage.new_zeros(
                stage.shape[0], self.horizon, stage.shape[-1]
            ),
            "terminal_multipliers": torch.zeros_like(terminal)[:, None],
            "constraint_penalty": torch.full_like(state[:, :1, None], self.penalty),
        }
        memory = {} if warm_start is None else warm_start.memory
        for name, zeros in start.items():
            if name in memory:
                if memory[name].shape != zeros.shape:
                    raise ShapeError(
                        f"warm_start.memory[{name!r}]: expected {list(zeros.shape)} "
                        f"for these constraints, got {list(memory[name].shape)}"
                    )
                start[name] = memory[name]
        return ConstraintMultipliers(*start.values())

    def _update(
        self,
        multipliers: ConstraintMultipliers,
        values: "_ConstraintValues",
        violation: Tensor,
        unmet: Tensor,
        before: Tensor,
    ) -> ConstraintMultipliers:
        penalty = multipliers.penalty
        stuck = (violation > self.tolerance) & (unmet > _ENOUGH * before)
        grown = (self.growth * penalty).clamp_max(max(self.max_penalty, self.penalty))
        return ConstraintMultipliers(
            stage=_ascend(multipliers.stage, penalty, values.stage),
            terminal=_ascend(multipliers.terminal, penalty, values.terminal),
            penalty=torch.where(stuck[:, None, None], grown, penalty),
        )

    def _unless_worse(
        self, request: PlanRequest, plan: Plan, violation: Tensor, cost: Tensor
    ) -> tuple[Plan, Tensor]:
        """Return a plan with the warm start's actions where those are better.

        Args:
            request: As it was given.
            plan: Its own.
            violation: Of the plan, `[B]`.
            cost: Of the plan by the objective, `[B]`, without a graph.

        Returns:
            The plan, and the violation of its actions.
        """
        if request.warm_start is None or not request.evaluate:
            return plan, violation
        problem, found = request.problem, plan.actions
        start = self.initial_actions(request)
        known = known_before(request.warm_start, found, start)
        with torch.no_grad():
            states, least = problem.evaluate(request.state, known)
            before = _values(problem, Plan(known, states, least)).largest()
            excess = [
                worst_if_failed(value - self.tolerance).clamp_min(0)
                for value in (before, violation)
            ]
            dearer = has_risen(worst_if_failed(least), worst_if_failed(cost))
            no_safer = excess[1] >= excess[0]
            kept = has_risen(*excess) | (no_safer & dearer)
        actions = torch.where(kept[:, None, None], known, found)
        return replace(plan, actions=actions), torch.where(kept, before, violation)

    def _status(self, status: Tensor, violation: Tensor) -> Tensor:
        kept = violation <= self.tolerance
        judged = torch.where(
            kept, int(Status.CONVERGED), int(Status.CONSTRAINT_VIOLATED)
        )
        return torch.where(status > int(Status.ITERATION_LIMIT), status, judged)


@dataclass(frozen=True)
class _ConstraintValues:
    """g at the steps `[B, T, C]` and at the end `[B, 1, C']`."""

    stage: Tensor
    terminal: Tensor

    def largest(self) -> Tensor:
        """Return the largest max(0, g) of each plan `[B]`, without a graph."""
        values = torch.cat([self.stage.flatten(1), self.terminal.flatten(1)], dim=1)
        return _largest(values.detach().clamp_min(0))

    def unmet(self, multipliers: ConstraintMultipliers) -> Tensor:
        """Return the largest |max(g, -λ/ρ)| `[B]`: what is infeasible or no optimum."""
        parts = [
            torch.maximum(value, -multiplier / multipliers.penalty)
            for value, multiplier in (
                (self.stage, multipliers.stage),
                (self.terminal, multipliers.terminal),
            )
        ]
        values = torch.cat([part.flatten(1) for part in parts], dim=1)
        return _largest(values.detach().abs())


def _named(multipliers: ConstraintMultipliers) -> dict[str, Tensor]:
    return {
        "constraint_multipliers": multipliers.stage,
        "terminal_multipliers": multipliers.terminal,
        "constraint_penalty": multipliers.penalty,
    }


def _values(problem: PlanningProblem, plan: Plan) -> _ConstraintValues:
    def evaluate(
        problem: PlanningProblem, states: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        constraints = problem.state_constraints
        stage = torch.cat([c.stages(states, actions) for c in constraints], dim=-1)
        terminal = torch.cat([c.last(states) for c in constraints], dim=-1)
        return stage, terminal

    given = plan.states, plan.actions
    return _ConstraintValues(*isolated(evaluate, problem, *given, lead=1))


def _ascend(multiplier: Tensor, penalty: Tensor, value: Tensor) -> Tensor:
    """max(0, λ + ρ g); where the rollout failed, λ stays as it is."""
    return torch.where(
        value < torch.inf, (multiplier + penalty * value).relu(), multiplier
    )


def _largest(values: Tensor) -> Tensor:
    none = torch.zeros_like(values[:, :1])  # constraints may have no elements
    return torch.cat([none, values], dim=1).amax(dim=1)


def _solution(
    plan: Plan,
    status: Tensor,
    memory: dict[str, Tensor],
    traces: dict[str, Tensor],
) -> Solution:
    inner = {f"planner_{name}": value for name, value in plan.diagnostics.items()}
    return Solution(
        actions=plan.actions,
        status=status,
        iterations=traces["cost"].shape[-1],
        diagnostics={**inner, **traces},
        memory=memory,
    )
