"""Collocation by the method of multipliers: the constrained optimum itself.

With penalties λ, ν and shifts s, r, iterations lower the augmented Lagrangian (here
twice of it, as everywhere in collocation)::

    2 cost + Σ_t λ_t (‖d_t + s_t‖² - ‖s_t‖²) + Σ_t ν_t (‖e(u_t + r_t)‖² - ‖r_t‖²)

where d is the defect of the dynamics and e(u) the way from the allowed actions to u.
Lagrange multipliers are y = λ s and z = ν r. An element takes its dual step, s ← d + s
and r ← e(u + r), once the gradient is small beside what that step changes. Where the
violation has not fallen enough since the last one, the penalty grows and the shift
shrinks, so that the multipliers stay.

A fixed point has d = 0, e(u) = 0 and the gradient of the Lagrangian zero: it solves the
KKT system, at any penalty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffplan.constraints._base import ActionConstraint
from diffplan.errors import ShapeError
from diffplan.functional._chain import times
from diffplan.functional._isolation import finite_rows, isolated
from diffplan.functional.linearize import batched_jacobian
from diffplan.gradients import Implicit
from diffplan.plan import Status
from diffplan.planners._failures import where_sound
from diffplan.planners._implicit import differentiate_actions
from diffplan.planners._solution import Solution
from diffplan.planners.collocation._primal_dual import (
    Multipliers,
    PrimalDual,
    PrimalDualState,
)
from diffplan.planners.collocation._residuals import Linearization
from diffplan.planners.collocation._units import ActionUnits
from diffplan.planners.collocation.multipliers import MethodOfMultipliers
from diffplan.planners.request import PlanRequest
from diffplan.solvers._least_squares import AdaptiveDamping, Report, Trajectory
from diffplan.solvers._stationary import tolerance_or
from diffplan.solvers.blocks import ChainBlocks, ChainSolver


@dataclass(frozen=True)
class AugmentedState(PrimalDualState):
    """What the iteration threads; its multipliers are the penalties λ and ν.

    Attributes:
        shifts: s, r, and r of further constraints, side by side `[B, T, S + A + K]`.
        unmet: The largest violations of dynamics and limits at the last dual step
            `[B, 2]`, infinite before the first.
        stationarity: Largest number of the Lagrangian's gradient over one and the
            largest multiplier `[B]`, at the last iterate.
        violation: Largest violation there `[B]`.
    """

    shifts: Tensor = field(kw_only=True)
    unmet: Tensor = field(kw_only=True)
    stationarity: Tensor = field(kw_only=True)
    violation: Tensor = field(kw_only=True)

    def warmed(self, first: Tensor, memory: Mapping[str, Tensor]) -> "AugmentedState":
        """Return the state with penalties and shifts of a warm start."""
        state = super().warmed(first, memory)
        if "shifts" not in memory:  # of another rule
            return self
        kept = memory["shifts"]
        if kept.shape != self.shifts.shape:
            raise ShapeError(
                f"warm_start.memory['shifts']: expected {list(self.shifts.shape)} for "
                f"these constraints, got {list(kept.shape)}"
            )
        return replace(state, shifts=where_sound(first, kept, self.shifts))


@dataclass(frozen=True)
class Augmented(PrimalDual):
    """The augmented Lagrangian of a problem, and its dual steps.

    Its rule is `MethodOfMultipliers`; tolerances of squared violations are not used.

    Attributes:
        solver: That of the steps.
    """

    solver: ChainSolver = field(kw_only=True)

    def begin(self, multipliers: Multipliers) -> AugmentedState:
        """Return the state of a start: no shifts."""
        like = multipliers.dynamics
        unknown = torch.full_like(like.detach()[:, 0], torch.inf)
        return AugmentedState(
            multipliers,
            self.problem.all_sound,
            shifts=like.new_zeros(*like.shape, sum(self._sizes)),
            unmet=torch.stack([unknown, unknown], dim=1),
            stationarity=unknown,
            violation=unknown,
        )

    def stepping(
        self, damping: Tensor | float, report: Report | None = None
    ) -> dict[str, Any]:
        """Return the engine's options: no step is taken that raises the merit."""
        first = damping if report is None else report.damping
        if not isinstance(first, Tensor):
            first = max(first, AdaptiveDamping.minimum)
        rule = AdaptiveDamping(first, shrink=0.1, grow=10.0, retry=1e-3)
        return {"damping": rule, "cost": self.merit}

    def linearize(
        self, trajectory: Trajectory, progress: Any, damping: Tensor
    ) -> tuple[ChainBlocks, AugmentedState]:
        """Return the damped Gauss-Newton subproblem after the dual step that is due."""
        linear, progress = self._observed(trajectory, progress)
        if self.show is not None:
            self.show(trajectory, progress.records[-1].cost)
        # a system that cannot be factorised: no step, and nothing flows back from it
        damping = where_sound(progress.sound, damping, torch.nan)
        blocks = self._blocks(trajectory, linear, progress, damping)
        return self._foreseen(trajectory, progress, blocks), progress

    def observe(self, trajectory: Trajectory, progress: Any) -> AugmentedState:
        """Take the dual step that the last iterate calls for, and record it."""
        return self._observed(trajectory, progress)[1]

    def merit(self, trajectory: Trajectory, progress: AugmentedState) -> Tensor:
        """Return twice the augmented Lagrangian `[B]`."""
        residuals, _ = self.problem.sound_residuals(trajectory, progress.sound)
        shifts = progress.shifts
        values = self._constrained(residuals.defect, trajectory.actions, shifts)
        weights = self._weights(progress.multipliers)
        beyond = weights * (values - shifts) * (values + shifts)
        return 2 * residuals.cost + beyond.flatten(1).sum(dim=1)

    def status(self, progress: Any, report: Report, iterations: int) -> Tensor:
        """Return how each element ended: CONVERGED at a solution of the KKT system."""
        tolerance = self._tolerance(progress.stationarity)
        solved = (progress.stationarity <= tolerance) & (iterations > 0)
        solved = solved & (progress.violation <= tolerance)
        status = torch.where(
            report.failed, int(Status.FACTORIZATION_FAILED), int(Status.ITERATION_LIMIT)
        )
        status = torch.where(solved, int(Status.CONVERGED), status)
        return torch.where(progress.sound, status, int(Status.NON_FINITE))

    def memory(self, progress: Any) -> dict[str, Tensor]:
        """Return what a warm start goes on with."""
        return {**super().memory(progress), "shifts": progress.shifts}

    def diagnostics(self, progress: Any) -> dict[str, Tensor]:
        """Return how far the last iterate is from a solution of the KKT system."""
        return {
            **super().diagnostics(progress),
            "stationarity": progress.stationarity[:, None],
            "violation": progress.violation[:, None],
        }

    @property
    def _constraints(self) -> tuple[ActionConstraint, ...]:
        return tuple(self.problem.constraints)

    @property
    def _method(self) -> MethodOfMultipliers:
        assert isinstance(self.rule, MethodOfMultipliers)
        return self.rule

    def _tolerance(self, like: Tensor) -> float:
        return tolerance_or(self._method.tolerance, like, 1e-6, 1e-3)

    def _observed(
        self, trajectory: Trajectory, progress: AugmentedState
    ) -> tuple[Linearization, AugmentedState]:
        linear, sound = self.problem.sound_linearization(trajectory, progress.sound)
        assert isinstance(linear, Linearization)  # narrows the type
        progress = replace(progress, sound=sound)
        if progress.records:  # the start has no primal step behind it
            progress = self._judged(trajectory, linear, progress)
        return linear, progress.recorded(linear.residuals)

    def _judged(
        self, trajectory: Trajectory, linear: Linearization, progress: AugmentedState
    ) -> AugmentedState:
        """Say how far an iterate is from the optimum; take the dual step if it is due.

        The gradient of the augmented Lagrangian is that of the Lagrangian at the
        multipliers that a dual step would lead to.
        """
        old, size = progress.multipliers, self._sizes[0]
        actions = trajectory.actions
        values = self._constrained(linear.residuals.defect, actions, progress.shifts)
        sound = progress.sound & finite_rows((values,), 1)
        with torch.no_grad():
            blocks = self._blocks(trajectory, linear, progress, sound.to(values))
            slope, weights = _slope(blocks), self._weights(old)
            change = (values - progress.shifts).abs()
            unmet = [_most(part) for part in (change[..., :size], change[..., size:])]
            violation = torch.stack(unmet, dim=1)
            due = sound & (slope <= self._method.share * _most(weights * change))
            stuck = violation > self._method.enough * progress.unmet
            stuck = stuck & due[:, None] & (violation > self._tolerance(slope))
            scale = 1 + _most(weights * values.abs())
        raised = Multipliers(
            self._method.raised(old.dynamics, stuck[:, :1]),
            self._method.raised(old.action, stuck[:, 1:]),
        )
        moved = values * (weights / self._weights(raised))
        return replace(
            progress,
            sound=sound,
            multipliers=raised,
            shifts=where_sound(due, moved, progress.shifts),
            unmet=torch.where(due[:, None], violation, progress.unmet),
            stationarity=torch.where(sound, slope / scale, torch.inf),
            violation=torch.where(sound, violation.amax(dim=1), torch.inf),
        )

    def _constrained(self, defect: Tensor, variables: Tensor, shifts: Tensor) -> Tensor:
        """Return d + s, e(u + r) and those of further constraints, side by side."""
        of_dynamics, of_limits, *others = shifts.split(self._sizes, -1)
        limits = self.problem.units.excess(variables + of_limits)
        actions = self.problem.units.actions(variables)
        ways = [
            _way(constraint, actions + shift)
            for constraint, shift in zip(self._constraints, others, strict=True)
        ]
        return torch.cat([defect + of_dynamics, limits, *ways], dim=-1)

    @property
    def _sizes(self) -> list[int]:
        """Return how many numbers each kind of constraint has at each step."""
        action = self.problem.problem.action_space.dim
        kinds = 1 + len(self._constraints)
        return [self.problem.state.shape[-1], *[action] * kinds]

    def _weights(self, multipliers: Multipliers) -> Tensor:
        """Return the penalty of each constraint, `[B, T, S + A + K]`."""
        size, *others = self._sizes
        penalties = [multipliers.dynamics[..., None].expand(-1, -1, size)]
        penalties.append(multipliers.action[..., None].expand(-1, -1, sum(others)))
        return torch.cat(penalties, dim=-1)

    def _foreseen(
        self, trajectory: Trajectory, progress: AugmentedState, blocks: ChainBlocks
    ) -> ChainBlocks:
        """Return the model with the limits that its own step meets.

        Else a step ends far behind a limit that it did not know, and is refused. So
        does the method of active sets for a quadratic program.
        """
        units = self.problem.units
        shift = progress.shifts.split(self._sizes, -1)[1]
        at = trajectory.actions + shift
        with torch.no_grad():
            ahead = at + self.solver(blocks).actions
            met = units.excess(ahead)
        limit = torch.where(met > 0, units.high, units.low)
        held = units.pinned | (met != 0)
        # an open side is infinite, and is never met
        return replace(
            blocks,
            limit_residual=torch.where(held, at - torch.where(held, limit, 0.0), 0.0),
            limit_slope=held.to(at.dtype),
        )

    def _blocks(
        self,
        trajectory: Trajectory,
        linear: Linearization,
        progress: AugmentedState,
        damping: Tensor,
    ) -> ChainBlocks:
        """Return the Gauss-Newton model of the augmented Lagrangian."""
        units, variables = self.problem.units, trajectory.actions
        of_dynamics, of_limits, *others = progress.shifts.split(self._sizes, -1)
        excess = units.excess(variables + of_limits)
        actions = units.actions(variables)
        ways = [linear.residuals.breach[..., :0]]
        slopes = [linear.breach_jacobian[..., :0, :]]
        for constraint, shift in zip(self._constraints, others, strict=True):
            way = partial(_way, constraint)
            value, (jacobian,) = batched_jacobian(way, actions + shift)
            ways.append(value)
            slopes.append(jacobian * units.unit.unsqueeze(-2))
        shifted = linear._replace(
            residuals=linear.residuals._replace(
                defect=linear.residuals.defect + of_dynamics,
                excess=excess,
                breach=torch.cat(ways, dim=-1),
            ),
            limit_slope=(units.pinned | (excess != 0)).to(excess.dtype),
            breach_jacobian=torch.cat(slopes, dim=-2),
        )
        weights = progress.multipliers
        return shifted.weigh(weights.dynamics, weights.action, damping)


def differentiate_optimum(
    request: PlanRequest, solution: Solution, strategy: Implicit
) -> Solution:
    """Give the plan the derivative of the constrained optimum.

    There the dynamics hold, so that eliminating the states by them leaves a minimum of
    the rolled-out cost inside the box; its Newton system is the KKT system's, with the
    exact Hessian of the Lagrangian.

    Args:
        request: What was asked for; no constraints but the box.
        solution: Where the iteration ended.
        strategy: Tolerances and limits.
    """
    problem, state = request.problem, request.state
    units = ActionUnits.of(problem.action_space.to(state))
    shift = solution.memory["shifts"][..., state.shape[-1] :]
    shifted = solution.actions + units.unit * shift
    limit = problem.project(shifted)
    # One with a multiplier is at its limit, but for rounding; Newton must know it.
    exact = torch.where(limit != shifted, limit, solution.actions)
    solution = replace(solution, actions=exact.detach())
    found = differentiate_actions(problem, state, solution, strategy)
    states, _ = isolated(type(problem).evaluate, problem, state, found.actions, lead=1)
    planned = {"planned_states": states[:, 1:], "raw_actions": found.actions}
    return replace(
        found,
        diagnostics={**found.diagnostics, **planned},
        memory={**found.memory, "states": states[:, 1:]},
    )


def _way(constraint: ActionConstraint, actions: Tensor) -> Tensor:
    """Return the way from the nearest allowed actions, `[…, A]`.

    Not the constraint's own `excess`: only with the way itself is the shift of a fixed
    point a multiple of the multiplier, whatever the set.
    """
    return constraint.beyond_rounding(actions - constraint.project(actions))


def _most(value: Tensor) -> Tensor:
    """Return the largest number of each element, `[B]`."""
    return value.flatten(1).amax(dim=1)


def _slope(blocks: ChainBlocks) -> Tensor:
    """Return the largest number of the gradient of half the merit, `[B]`."""
    costs = blocks.right_hand_side()
    force = blocks.transition_weight[..., None] * blocks.defect
    back = times(force, blocks.state_jacobian)
    by_state = force - costs.states
    by_state[:, :-1] -= back[:, 1:]
    by_action = -times(force, blocks.action_jacobian) - costs.actions
    return torch.maximum(_most(by_state.abs()), _most(by_action.abs()))
