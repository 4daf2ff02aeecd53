"""The primal-dual iteration of collocation, apart from the engine that drives it.

An engine (`solvers.least_squares` or `solvers.theseus`) asks `PrimalDual.linearize` for
the blocks at an iterate and takes a Gauss-Newton step. A dual step follows every primal
step; the violations that it needs are those of the next linearisation, so nothing is
evaluated twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffplan._user_functions import call, require_result
from diffplan.functional._derivatives import constants
from diffplan.functional._isolation import finite_rows
from diffplan.plan import Status
from diffplan.planners._failures import where_sound
from diffplan.planners.collocation._residuals import Residuals, TrajectoryProblem
from diffplan.planners.collocation.multipliers import (
    MethodOfMultipliers,
    MultiplierRule,
)
from diffplan.solvers._least_squares import (
    FixedDamping,
    LevenbergMarquardt,
    Report,
    Trajectory,
)
from diffplan.solvers.blocks import ChainBlocks

StateT = TypeVar("StateT", bound="PrimalDualState")


@dataclass(frozen=True)
class Multipliers:
    """λ of the dynamics and ν of the action limits, each `[B, T]`.

    They weigh *squared* residuals.
    """

    dynamics: Tensor
    action: Tensor

    def stacked(self) -> Tensor:
        """Return both, `[B, T, 2]`."""
        return torch.stack([self.dynamics, self.action], dim=-1)

    def root_mean(self) -> Tensor:
        """Return mean_t √λ + mean_t √ν, `[B]`."""
        # The floor keeps √ differentiable where dual ascent drove a multiplier to zero.
        dynamics = self.dynamics.clamp_min(1e-12).sqrt().mean(dim=1)
        return dynamics + self.action.clamp_min(1e-12).sqrt().mean(dim=1)


@dataclass(frozen=True)
class Record:
    """One iterate as the diagnostics keep it, without a graph."""

    cost: Tensor
    dynamics_violation: Tensor
    action_violation: Tensor
    dynamics_multiplier: Tensor
    action_multiplier: Tensor


# Once and for all: a compiled graph cannot ask a class for its fields.
TRACES = tuple(each.name for each in fields(Record))


@dataclass(frozen=True)
class PrimalDualState:
    """What the iteration threads from step to step.

    Attributes:
        multipliers: The current ones.
        sound: Which elements have not failed, `[B]` bool. One that has stays where it
            is, with its multipliers.
        records: One per iterate that was linearised or observed, the start first.
    """

    multipliers: Multipliers
    sound: Tensor
    records: tuple[Record, ...] = ()

    def trace(self, name: str) -> Tensor:
        """Return one field of all records, `[B, iterates, …]`."""
        return torch.stack([getattr(record, name) for record in self.records], dim=1)

    def warmed(self: StateT, first: Tensor, memory: Mapping[str, Tensor]) -> StateT:
        """Return the state with the multipliers of a warm start for some elements.

        Args:
            first: Which, `[B]` bool.
            memory: That of the warm start, for all elements.
        """
        if "multipliers" not in memory:
            return self
        kept, now = memory["multipliers"], self.multipliers
        multipliers = Multipliers(
            where_sound(first, kept[..., 0], now.dynamics),
            where_sound(first, kept[..., 1], now.action),
        )
        return replace(self, multipliers=multipliers)

    def recorded(self: StateT, residuals: Residuals) -> StateT:
        """Return the state with a record of an iterate that has these residuals."""

        def known(value: Tensor) -> Tensor:
            return where_sound(self.sound, value.detach(), torch.nan)

        record = Record(
            cost=known(residuals.cost),
            dynamics_violation=known(residuals.dynamics_violation.mean(dim=1)),
            action_violation=known(residuals.action_violation.mean(dim=1)),
            dynamics_multiplier=self.multipliers.dynamics.detach().mean(dim=1),
            action_multiplier=self.multipliers.action.detach().mean(dim=1),
        )
        return replace(self, records=(*self.records, record))


@dataclass(frozen=True)
class _Resumed(FixedDamping):
    """Fixed damping that goes on with a retry.

    Attributes:
        report: Of the steps before.
    """

    report: Report = field(kw_only=True)

    def start(self, like: Tensor) -> Tensor:
        fixed = super().start(like)  # with its graph, where it is learned
        return torch.where(self.report.failed, self.report.damping, fixed)


def next_multiplier(
    name: str,
    rule: MultiplierRule,
    multiplier: Tensor,
    violation: Tensor,
    tolerance: float,
) -> Tensor:
    """Return the next multiplier, and check what the rule returned.

    Args:
        name: What the rule was handed over as, for the message.
        rule: The rule.
        multiplier: `[B, T]`, what the rule is given; so are the others.
        violation: `[B, T]`.
        tolerance: Of the constraint.

    Raises:
        ShapeError, TensorTypeError: the rule fails, or returns another shape, which
            would be broadcast, or another dtype.
    """
    begins, given = f"{name}:", (multiplier, violation, tolerance)
    advice = "a rule takes each constraint and step for itself"
    following = call(begins, rule, *given, advice=advice)
    return require_result(begins, rule, following, multiplier.shape, like=multiplier)


@dataclass(frozen=True)
class PrimalDual:
    """Residuals, their weights, and how the weights follow the violations.

    Attributes:
        problem: The residuals.
        rule: How multipliers follow violations.
        dynamics_tolerance: ε of ‖x_{t+1} - f(x_t, u_t)‖².
        action_tolerance: ε of the action limits.
        normalize: Divide all residuals by mean√λ + mean√ν + 1 (release; the paper does
            not mention it).
        show: Called with a trajectory and its cost `[B]` in each iteration, or None.
    """

    problem: TrajectoryProblem
    rule: MultiplierRule | MethodOfMultipliers
    dynamics_tolerance: float
    action_tolerance: float
    normalize: bool = True
    show: Callable[[Trajectory, Tensor], None] | None = None

    def begin(self, multipliers: Multipliers) -> PrimalDualState:
        """Return the state of a start."""
        return PrimalDualState(multipliers, self.problem.all_sound)

    def run(
        self,
        engine: LevenbergMarquardt,
        trajectory: Trajectory,
        progress: PrimalDualState,
        *,
        iterations: int,
        damping: Tensor | float,
        kept: int | None,
    ) -> tuple[Trajectory, PrimalDualState, Report]:
        """Run all iterations, and take the last dual step.

        Args:
            engine: With its solver.
            trajectory: Where to begin.
            progress: Likewise.
            iterations: How many.
            damping: The first.
            kept: How many of the last ones leave a graph; None stands for all.
        """
        options = self.stepping(damping)
        cut = 0 if kept is None else max(iterations - kept, 0)
        before: tuple[Record, ...] = ()
        broken: Tensor | bool = False
        if kept is not None:
            with constants():
                trajectory, progress, report = engine(
                    self.linearize, trajectory, progress, iterations=cut, **options
                )
                progress = self.observe(trajectory, progress)
            options, broken = self.stepping(damping, report), report.non_finite
            # both parts record the iterate between them
            before = progress.records[:-1]
            progress = replace(progress, records=())
        trajectory, progress, report = engine(
            self.linearize, trajectory, progress, iterations=iterations - cut, **options
        )
        progress = self.observe(trajectory, progress)
        progress = replace(progress, records=(*before, *progress.records))
        report = replace(report, non_finite=report.non_finite | broken)
        return trajectory, progress, report

    def stepping(
        self,
        damping: Tensor | float,
        report: Report | None = None,
    ) -> dict[str, Any]:
        """Return the engine's options, to begin with or to go on with a report."""
        if report is None:
            return {"damping": FixedDamping(damping)}
        return {"damping": _Resumed(damping, report=report)}

    def linearize(
        self, trajectory: Trajectory, progress: PrimalDualState, damping: Tensor
    ) -> tuple[ChainBlocks, PrimalDualState]:
        """Return the damped Gauss-Newton subproblem after the pending dual step."""
        linearization, sound = self.problem.sound_linearization(
            trajectory, progress.sound
        )
        progress = replace(progress, sound=sound)
        progress = self._observe(trajectory, progress, linearization.residuals)
        if self.show is not None:
            self.show(trajectory, progress.records[-1].cost)
        multipliers = progress.multipliers
        if self.normalize:
            # Dividing all residuals by c multiplies the damping by c²: the damping
            # rides on the multipliers, and the weights stay as they are.
            damping = damping * (multipliers.root_mean() + 1).square()
        weights = multipliers.dynamics, multipliers.action
        # a system that cannot be factorised: no step, and nothing flows back from it
        damping = where_sound(progress.sound, damping, torch.nan)
        return linearization.weigh(*weights, damping), progress

    def observe(
        self, trajectory: Trajectory, progress: PrimalDualState
    ) -> PrimalDualState:
        """Take the dual step that the last iterate calls for, and record it."""
        residuals, sound = self.problem.sound_residuals(trajectory, progress.sound)
        progress = replace(progress, sound=sound)
        return self._observe(trajectory, progress, residuals)

    def _observe(
        self, trajectory: Trajectory, progress: PrimalDualState, residuals: Residuals
    ) -> PrimalDualState:
        if progress.records:  # the start has no primal step behind it
            progress = self._dual_step(progress, residuals)
        return progress.recorded(residuals)

    def _dual_step(
        self, progress: PrimalDualState, residuals: Residuals
    ) -> PrimalDualState:
        old = progress.multipliers
        assert not isinstance(self.rule, MethodOfMultipliers)  # narrows the type
        follow = partial(next_multiplier, "multiplier_rule", self.rule)
        new = (
            follow(old.dynamics, residuals.dynamics_violation, self.dynamics_tolerance),
            follow(old.action, residuals.action_violation, self.action_tolerance),
        )
        sound = progress.sound & finite_rows(new, 1)
        multipliers = Multipliers(
            where_sound(sound, new[0], old.dynamics.detach()),
            where_sound(sound, new[1], old.action.detach()),
        )
        return replace(progress, multipliers=multipliers, sound=sound)

    def status(
        self, progress: PrimalDualState, report: Report, iterations: int
    ) -> Tensor:
        """Return how each element ended, see `Status`.

        The logarithmic rule settles near its tolerance; twice that is feasible, but
        nothing is claimed of a start that no step has improved.

        Args:
            progress: With the record of the last iterate.
            report: What the engine tells.
            iterations: How many there were.
        """
        violation = progress.records[-1].dynamics_violation
        feasible = (violation <= 2 * self.dynamics_tolerance) & (iterations > 0)
        limit = int(Status.ITERATION_LIMIT)
        status = torch.where(feasible, int(Status.CONVERGED), limit)
        status = torch.where(report.failed, int(Status.FACTORIZATION_FAILED), status)
        broken = report.non_finite | ~progress.sound
        return torch.where(broken, int(Status.NON_FINITE), status)

    def diagnostics(self, progress: PrimalDualState) -> dict[str, Tensor]:
        """Return the traces, without the start's."""
        return {name: progress.trace(name)[:, 1:] for name in TRACES}

    def memory(self, progress: PrimalDualState) -> dict[str, Tensor]:
        """Return what a warm start goes on with, beside the states."""
        return {"multipliers": progress.multipliers.stacked()}
