"""Residual objectives of classical control: reach a goal, spend little effort."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from diffplan.errors import (
    ShapeError,
    require_at_least,
    require_finite,
    require_tensor,
)
from diffplan.objectives.base import ResidualObjective, no_residual


class GoalDistance(ResidualObjective):
    """Squared distance to a goal at every step, with a weight of its own at the end.

    cost = ½ Σ_{t=0}^{T-1} w ‖x_t - goal‖² + ½ w_T ‖x_T - goal‖²

    Args:
        goal: `[S]`, or `[…, S]` to give each problem of a batch its own; the leading
            dimensions are those of the states that are planned from, candidates and
            steps may follow. It is met in the dtype of the states.
        running_weight: w, at least zero; zero judges the last state only.
        terminal_weight: w_T, at least zero.

    Raises:
        ArgumentError: a weight is negative, or the goal is not finite.
        ShapeError: the goal is a scalar; later, it does not fit the states.

    Example:
        >>> import torch
        >>> objective = GoalDistance(torch.zeros(2), running_weight=0.0)
        >>> objective(torch.ones(3, 2), torch.zeros(2, 1))
        tensor(1.)
    """

    per_problem: ClassVar[Mapping[str, int]] = {"goal": 1}
    goal: Tensor

    def __init__(
        self, goal: Tensor, running_weight: float = 1.0, terminal_weight: float = 1.0
    ) -> None:
        super().__init__()
        require_finite("goal", require_tensor("goal", goal))
        if goal.ndim == 0:
            raise ShapeError("goal: expected [S] or […, S], got a scalar")
        self.register_buffer("goal", goal)
        # A negative weight has no residual: its root would be a complex number.
        for name, weight in (
            ("running_weight", running_weight),
            ("terminal_weight", terminal_weight),
        ):
            require_at_least(name, weight, 0.0)
        self.running_weight = running_weight
        self.terminal_weight = terminal_weight

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        """Return √w (x - goal) `[…, S]`."""
        if self.running_weight == 0:
            return no_residual(state)
        return self.running_weight**0.5 * (state - self._aligned_goal(state))

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return √w_T (x - goal) `[…, S]`."""
        return self.terminal_weight**0.5 * (state - self._aligned_goal(state))

    def _aligned_goal(self, state: Tensor) -> Tensor:
        # Candidates, and for running states time, stand behind the problem's own
        # dimensions.
        goal = self.goal.to(state.dtype)
        lead, size = goal.shape[:-1], goal.shape[-1]
        if not lead and size == state.shape[-1]:
            return goal
        if size != state.shape[-1] or state.shape[:-1][: len(lead)] != lead:
            raise ShapeError(
                f"goal: expected [{state.shape[-1]}], or […, {state.shape[-1]}] with "
                f"the first dimensions of the states {list(state.shape)}, got "
                f"{list(goal.shape)}"
            )
        return goal.reshape(*lead, *(1,) * (state.ndim - goal.ndim), size)


class ActionPenalty(ResidualObjective):
    """Squared effort: cost = ½ Σ_t weight ‖u_t‖².

    Args:
        weight: A number, at least zero.

    Raises:
        ArgumentError: the weight is negative.

    Example:
        >>> import torch
        >>> ActionPenalty(4.0)(torch.zeros(3, 4), torch.ones(2, 1))
        tensor(4.)
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = require_at_least("weight", weight, 0.0)

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        """Return √weight u `[…, A]`."""
        return self.weight**0.5 * action

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return no residual `[…, 0]`."""
        return no_residual(state)
