"""The primal-dual iteration of collocation, apart from the engine that drives it.

An engine (`solvers.least_squares` or `solvers.theseus`) asks `PrimalDual.linearize` for
the blocks at an iterate and takes a Gauss-Newton step. A dual step follows every primal
step; the violations that it needs are those of the next linearisation, so nothing is
evaluated twice.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan.planners.collocation.multipliers import MultiplierRule
from diffplan.planners.collocation.residuals import Residuals, TrajectoryProblem
from diffplan.solvers.blocks import ChainBlocks
from diffplan.solvers.least_squares import Trajectory


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
    states: Tensor | None


@dataclass(frozen=True)
class Progress:
    """What the iteration threads from step to step.

    Attributes:
        multipliers: The current ones.
        records: One per iterate that was linearised or observed, the start first.
    """

    multipliers: Multipliers
    records: tuple[Record, ...] = ()

    def trace(self, name: str) -> Tensor:
        """Return one field of all records, `[B, iterates, …]`."""
        return torch.stack([getattr(record, name) for record in self.records], dim=1)


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
        keep_states: Whether records hold the states.
    """

    problem: TrajectoryProblem
    rule: MultiplierRule
    dynamics_tolerance: float
    action_tolerance: float
    normalize: bool = True
    keep_states: bool = False

    def linearize(
        self, trajectory: Trajectory, progress: Progress, damping: Tensor
    ) -> tuple[ChainBlocks, Progress]:
        """Return the damped Gauss-Newton subproblem after the pending dual step."""
        linearization = self.problem.linearize(trajectory)
        progress = self.observe(trajectory, progress, linearization.residuals)
        multipliers = progress.multipliers
        if self.normalize:
            # Dividing all residuals by c multiplies the damping by c²: the damping
            # rides on the multipliers, and the weights stay as they are.
            damping = damping * (multipliers.root_mean() + 1).square()
        weights = multipliers.dynamics, multipliers.action
        return linearization.weigh(*weights, damping), progress

    def observe(
        self, trajectory: Trajectory, progress: Progress, residuals: Residuals
    ) -> Progress:
        """Take the dual step that `residuals` call for, and record the iterate."""
        multipliers = progress.multipliers
        if progress.records:  # the start has no primal step behind it
            multipliers = self._dual_step(multipliers, residuals)
        record = Record(
            cost=residuals.cost.detach(),
            dynamics_violation=residuals.dynamics_violation.detach().mean(dim=1),
            action_violation=residuals.action_violation.detach().mean(dim=1),
            dynamics_multiplier=multipliers.dynamics.detach().mean(dim=1),
            action_multiplier=multipliers.action.detach().mean(dim=1),
            states=trajectory.states.detach() if self.keep_states else None,
        )
        return replace(
            progress, multipliers=multipliers, records=(*progress.records, record)
        )

    def _dual_step(self, multipliers: Multipliers, residuals: Residuals) -> Multipliers:
        return Multipliers(
            self.rule(
                multipliers.dynamics,
                residuals.dynamics_violation,
                self.dynamics_tolerance,
            ),
            self.rule(
                multipliers.action, residuals.action_violation, self.action_tolerance
            ),
        )
