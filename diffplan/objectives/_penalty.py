"""The augmented Lagrangian's term for constraints g ≤ 0, as a sum of squares.

    ½ Σ_t ρ ‖max(0, g(x_t, u_t) + λ_t / ρ)‖²,  residual √ρ max(0, g + λ/ρ)

Up to a constant this is the augmented Lagrangian of the inequalities, and since it is a
`ResidualObjective` it joins any objective without taking structure from it: residuals
stay residuals, stage costs stay stage costs.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor

from diffplan.constraints.state import StateConstraint
from diffplan.errors import ShapeError
from diffplan.objectives._base import ResidualObjective
from diffplan.objectives.change import _with_term
from diffplan.problem import Objective


@dataclass(frozen=True)
class ConstraintMultipliers:
    """Multipliers of one batch of plans and the weight of their penalty.

    Attributes:
        stage: λ of the constraints at t = 0 … T-1, `[B, T, C]`.
        terminal: λ of the constraints at T, `[B, 1, C']`.
        penalty: ρ, `[B, 1, 1]`.
    """

    stage: Tensor
    terminal: Tensor
    penalty: Tensor


class ConstraintPenalty(ResidualObjective):
    """The augmented Lagrangian's term for given multipliers.

    The multipliers belong to one batch of plans, so the states that it is asked about
    must lead with that batch: `[B, …]` with candidates or particles in between, or
    `[B·k, …]` where k neighbours are starts of one problem. The time says which steps
    the states belong to.

    Args:
        constraints: What is kept.
        multipliers: Of the plans.
    """

    def __init__(
        self,
        constraints: Sequence[StateConstraint],
        multipliers: ConstraintMultipliers,
    ) -> None:
        super().__init__()
        self.constraints = tuple(constraints)
        self.multipliers = multipliers

    def changed_functions(self, change: Callable[..., Any]) -> "ConstraintPenalty":
        """Return the term of changed constraints, or itself if they are the same.

        Args:
            change: Of one function; see `diffplan._problem_data`.
        """
        constraints = tuple(item.changed(change) for item in self.constraints)
        if all(map(is_, constraints, self.constraints)):
            return self
        other = copy.copy(self)
        other.constraints = constraints
        return other

    def initial_residual(self, state: Tensor, action: Tensor, time: Tensor) -> Tensor:
        """Return √ρ max(0, g + λ/ρ) `[…, C]` at t = 0."""
        values = [
            constraint.start(state, action, time) for constraint in self.constraints
        ]
        return self._residual(values, self._at(time))

    def running_residual(  # type: ignore[override]
        self, state: Tensor, action: Tensor, time: Tensor
    ) -> Tensor:
        """Return √ρ max(0, g + λ/ρ) `[…, C]` at the steps `time`."""
        values = [
            constraint.stage(state, action, time) for constraint in self.constraints
        ]
        return self._residual(values, self._at(time))

    def terminal_residual(  # type: ignore[override]
        self, state: Tensor, time: Tensor
    ) -> Tensor:
        """Return √ρ max(0, g + λ/ρ) `[…, C']` at T."""
        values = [constraint.end(state, time) for constraint in self.constraints]
        return self._residual(values, self.multipliers.terminal)

    def _at(self, time: Tensor) -> Tensor:
        """Multipliers of some steps, `[B, steps, C]`."""
        return self.multipliers.stage.index_select(1, time)

    def _residual(self, values: Sequence[Tensor], multipliers: Tensor) -> Tensor:
        value = torch.cat(list(values), dim=-1)
        multiplier = _aligned(multipliers, value)
        penalty = _aligned(self.multipliers.penalty[:, 0], value)
        return penalty.sqrt() * (value + multiplier / penalty).relu()


def add_penalty(objective: Objective, penalty: ConstraintPenalty) -> Objective:
    """Return the sum of an objective and the constraints' term; see `_with_term`."""
    return _with_term(objective, penalty, 0)


def _aligned(values: Tensor, like: Tensor) -> Tensor:
    """Give values `[B, *rest]` the dimensions of `[B·k, *between, *rest]`."""
    count, wanted = values.shape[0], like.shape[0]
    if wanted != count:
        if count == 0 or wanted % count:
            raise ShapeError(
                f"state: constraints with multipliers for {count} plans need a leading "
                f"dimension of {count} or a multiple, got {list(like.shape)}"
            )
        values = values.repeat_interleave(wanted // count, dim=0)
    between = (1,) * (like.ndim - values.ndim)
    return values.reshape(values.shape[0], *between, *values.shape[1:])
