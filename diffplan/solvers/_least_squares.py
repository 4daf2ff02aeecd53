"""Levenberg-Marquardt on a chain: residuals that couple neighbouring time steps.

One loop serves two uses. *Plain* problems keep their weights, and adaptive damping
accepts only steps that lower the cost. *Primal-dual* problems (LatCo) change their
weights between steps through the `carry` that `linearize` threads; with fixed damping
every step is taken in full. Trip counts are static, nothing synchronises with the host,
and batch elements never influence each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from diffplan._checks import (
    require_at_least,
    require_count,
    require_positive,
    require_share,
)
from diffplan._kinds import OrInfinite
from diffplan.errors import ArgumentError
from diffplan.functional._safe_math import require_learned
from diffplan.solvers.blocks import ChainBlocks, ChainSolver

CarryT = TypeVar("CarryT")

# More damping for an element whose system could not be factorised; the minimum lets a
# damping of zero grow too.
_RETRY_FACTOR = 10.0
_RETRY_MINIMUM = 1e-6


@dataclass(frozen=True)
class Trajectory:
    """The variables of a chain: states x_1 … x_T `[B, T, S]`, actions `[B, T, A]`."""

    states: Tensor
    actions: Tensor

    def moved(self, states: Tensor, actions: Tensor) -> "Trajectory":
        """Return the trajectory after an increment of both."""
        return Trajectory(self.states + states, self.actions + actions)

    def where(self, mask: Tensor, other: "Trajectory") -> "Trajectory":
        """Return this trajectory where `mask` `[B]` holds and `other` elsewhere."""
        chosen = mask[:, None, None]
        return Trajectory(
            torch.where(chosen, self.states, other.states),
            torch.where(chosen, self.actions, other.actions),
        )

    @property
    def finite(self) -> Tensor:
        """Return where every entry is finite, booleans `[B]`."""
        states = torch.isfinite(self.states).flatten(1).all(dim=1)
        return states & torch.isfinite(self.actions).flatten(1).all(dim=1)


class Layout:
    """How a trajectory `[B, T, S]`, `[B, T, A]` lies in one vector `[B, T (S + A)]`."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.horizon, self.state = trajectory.states.shape[1:]
        self.action = trajectory.actions.shape[2]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.horizon * (self.state + self.action)

    def flatten(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the vector of states and actions."""
        return torch.cat([states, actions], dim=-1).flatten(1)

    def unflatten(self, vector: Tensor) -> Trajectory:
        """Return the trajectory of a vector."""
        both = vector.unflatten(1, (self.horizon, self.state + self.action))
        return Trajectory(both[..., : self.state], both[..., self.state :])


@runtime_checkable
class Linearize(Protocol[CarryT]):
    """Hands out the blocks at a trajectory and threads what changes between steps."""

    def __call__(
        self, trajectory: Trajectory, carry: CarryT, damping: Tensor
    ) -> tuple[ChainBlocks, CarryT]:
        """Return the blocks for `damping` `[B]` and the next carry."""
        ...


LevenbergMarquardt = Callable[..., tuple[Trajectory, Any, "Report"]]
"""The signature of `levenberg_marquardt`, which every engine has."""


@dataclass(frozen=True)
class FixedDamping:
    """Always the same damping, always the full step (LatCo as released).

    Only an element whose system cannot be factorised gets more, see
    `levenberg_marquardt`.

    Attributes:
        value: Added to the diagonal of JᵀJ; a tensor `[]` to learn it.
    """

    value: float | Tensor = 5e-4

    def __post_init__(self) -> None:
        if isinstance(self.value, Tensor):
            require_learned("damping", self.value, zero=True)
        else:
            require_at_least("damping", self.value, 0.0)

    def start(self, like: Tensor) -> Tensor:
        """Return the first damping, in the shape `[B]` of `like`."""
        if isinstance(self.value, Tensor):
            return self.value.to(like).expand(like.shape)
        return torch.full_like(like, self.value)


@dataclass(frozen=True)
class AdaptiveDamping:
    """Levenberg's rule per batch element: shrink after success, grow after failure.

    A step is taken only if it lowers the cost, or leaves it as it is up to rounding.

    Attributes:
        initial: First damping, above 0; or a tensor that expands to `[B]`.
        shrink: Factor after an accepted step, in (0, 1].
        grow: Factor after a rejected one, at least 1.
        minimum: Lower limit.
        maximum: Upper limit.
        retry: Least damping after a failure: what many successes have made tiny need
            not grow from there.
    """

    initial: float | Tensor = 1e-3
    shrink: float = 0.3
    grow: float = 5.0
    minimum: float = 1e-12
    maximum: OrInfinite = 1e12
    retry: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.initial, Tensor):
            require_positive("damping.initial", self.initial)
        require_at_least("damping.grow", self.grow, 1.0)
        require_share("damping.shrink", self.shrink)
        require_at_least("damping.minimum", self.minimum, 0.0)
        require_at_least("damping.maximum", self.maximum, self.minimum)
        require_at_least("damping.retry", self.retry, 0.0)

    def start(self, like: Tensor) -> Tensor:
        """Return the first damping, in the shape `[B]` of `like`."""
        if isinstance(self.initial, Tensor):
            given = self.initial.to(like).expand(like.shape)
            return given.clamp(self.minimum, self.maximum)
        return torch.full_like(like, self.initial)


@dataclass(frozen=True)
class Report:
    """How a solve went, per batch element.

    Attributes:
        failed: The last linear system could not be factorised, `[B]`.
        non_finite: A step was refused because it left the finite numbers, `[B]`.
        step_norm: Euclidean norm of the last step, `[B]`.
        damping: The damping after the last step, `[B]`.
    """

    failed: Tensor
    non_finite: Tensor
    step_norm: Tensor
    damping: Tensor


@dataclass(frozen=True)
class Step:
    """One damped Gauss-Newton step, and where it could not be taken."""

    trajectory: Trajectory
    failed: Tensor
    non_finite: Tensor
    norm: Tensor


def damped_step(
    trajectory: Trajectory, blocks: ChainBlocks, solver: ChainSolver
) -> Step:
    """Take one full damped Gauss-Newton step, per element only where it is sound.

    An element whose system cannot be factorised, or whose step is not finite, stays
    where it is.
    """
    increment = solver(blocks)
    moved = trajectory.moved(increment.states, increment.actions)
    finite = moved.finite
    squared = increment.states.flatten(1).square().sum(dim=1)
    squared = squared + increment.actions.flatten(1).square().sum(dim=1)
    return Step(
        trajectory=moved.where(increment.ok & finite, trajectory),
        failed=~increment.ok,
        non_finite=~finite,
        # Only a diagnostic: keep it out of the graph (√ has no derivative at zero).
        norm=squared.detach().sqrt(),
    )


def levenberg_marquardt(
    linearize: Linearize[CarryT],
    start: Trajectory,
    carry: CarryT,
    *,
    iterations: int,
    damping: FixedDamping | AdaptiveDamping,
    solver: ChainSolver,
    cost: Callable[[Trajectory, CarryT], Tensor] | None = None,
) -> tuple[Trajectory, CarryT, Report]:
    """Minimise a sum of squares over a chain.

    An element whose system cannot be factorised stays where it is for one iteration and
    goes on with ten times the damping, until it succeeds.

    Args:
        linearize: `(trajectory, carry, damping) → (blocks, carry)`.
        start: Where to begin.
        carry: Whatever `linearize` threads (multipliers, traces); None if nothing.
        iterations: Number of steps, at least 0.
        damping: `FixedDamping` takes every step in full; `AdaptiveDamping` needs
            `cost`.
        solver: Turns blocks into a step.
        cost: `(trajectory, carry) → [B]`, what adaptive damping must lower.

    Returns:
        The last trajectory, the last carry, and a report.

    Raises:
        ArgumentError: `iterations` is negative, or adaptive damping has no `cost`.
    """
    iterations = require_count("iterations", iterations, 0)
    batch = start.states[:, 0, 0]
    never = torch.zeros_like(batch, dtype=torch.bool)
    amount = damping.start(batch)
    report = Report(never, never, torch.zeros_like(batch), amount)
    trajectory = start
    for _ in range(iterations):
        blocks, carry = linearize(trajectory, carry, amount)
        step = damped_step(trajectory, blocks, solver)
        if isinstance(damping, AdaptiveDamping):
            trajectory, amount = _accept(trajectory, step, carry, amount, damping, cost)
        else:
            trajectory = step.trajectory
            amount = more_damping(damping.value, amount, step.failed)
        report = Report(
            failed=step.failed,
            non_finite=report.non_finite | step.non_finite,
            step_norm=step.norm,
            damping=amount,
        )
    return trajectory, carry, report


def more_damping(fixed: Tensor | float, amount: Tensor, failed: Tensor) -> Tensor:
    """Return the next damping `[…]`: ten times the last where `failed`, else fixed."""
    raised = _RETRY_FACTOR * amount.clamp_min(_RETRY_MINIMUM)
    return torch.where(failed, raised, fixed)


def next_damping(
    rule: AdaptiveDamping | Tensor | float, damping: Tensor, moved: Tensor, ok: Tensor
) -> Tensor:
    """Return the next damping `[…]`.

    Args:
        rule: A number is kept, but for an element that could not be factored.
        damping: The last one.
        moved: Where a step was taken.
        ok: Where there was one.
    """
    if isinstance(rule, AdaptiveDamping):
        # Where nothing could be factored nothing has moved: grow faster.
        more = torch.where(ok, rule.grow, rule.grow**2)
        factor = torch.where(moved, rule.shrink, more).to(damping)
        return _clamped(rule, factor * damping, moved)
    kept = rule.to(damping) if isinstance(rule, Tensor) else rule
    return more_damping(kept, damping, ~ok)


def _accept(
    trajectory: Trajectory,
    step: Step,
    carry: CarryT,
    amount: Tensor,
    damping: AdaptiveDamping,
    cost: Callable[[Trajectory, CarryT], Tensor] | None,
) -> tuple[Trajectory, Tensor]:
    if cost is None:
        raise ArgumentError("cost: adaptive damping needs a cost to compare, got None")
    with torch.no_grad():
        old = cost(trajectory, carry)
        # Near a minimum steps lower the cost by less than its rounding.
        rounding = 4 * torch.finfo(old.dtype).eps * old.abs()
        better = cost(step.trajectory, carry) <= old + rounding
    better = better & ~step.failed & ~step.non_finite
    factor = torch.where(better, damping.shrink, damping.grow).to(amount.dtype)
    amount = _clamped(damping, amount * factor, better)
    return step.trajectory.where(better, trajectory), amount


def _clamped(rule: AdaptiveDamping, damping: Tensor, moved: Tensor) -> Tensor:
    if rule.retry:
        damping = torch.where(moved, damping, damping.clamp_min(rule.retry))
    return damping.clamp(rule.minimum, rule.maximum)
