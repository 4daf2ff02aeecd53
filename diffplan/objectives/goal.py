"""Residual objectives of classical control: reach a goal, spend little effort."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from diffplan._checks import require_at_least, require_finite, require_tensor
from diffplan._problem_data import aligned, hold
from diffplan.errors import ShapeError
from diffplan.objectives._base import (
    Forms,
    ResidualObjective,
    no_end,
    no_residual,
    root_of_weight,
)


class GoalDistance(ResidualObjective):
    """Squared distance to a goal at every step, with a weight of its own at the end.

    cost = ½ Σ_{t=0}^{T-1} w ‖x_t - goal‖² + ½ w_T ‖x_T - goal‖²

    Args:
        goal: `[S]`, or `[…, S]` to give each problem of a batch its own; the leading
            dimensions are those of the states that are planned from, candidates and
            steps may follow. It is met in the dtype of the states. An `nn.Parameter`
            is learned.
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
        hold(self, "goal", goal)
        # A negative weight has no residual: its root would be a complex number.
        for name, weight in (
            ("running_weight", running_weight),
            ("terminal_weight", terminal_weight),
        ):
            require_at_least(name, weight, 0.0)
        self.running_weight = running_weight
        self.terminal_weight = terminal_weight

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return √w (x - goal) `[…, S]`."""
        if self.running_weight == 0:
            return no_residual(state)
        return _times_root(self.running_weight, self._away(state))

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return √w_T (x - goal) `[…, S]`."""
        return _times_root(self.terminal_weight, self._away(state))

    def quadratize(self, states: Tensor, actions: Tensor) -> Forms:
        """Return Hessians and gradients along a trajectory; see `Quadratizable`."""
        size, width = states.shape[-1], actions.shape[-1]
        away, before = self._away(states), (width, 0)
        eye = torch.eye(size, dtype=states.dtype, device=states.device)
        hessian = pad(self.running_weight * eye, 2 * before)
        last = away[..., -1, :]
        return (
            hessian.expand(*actions.shape[:-1], -1, -1),
            pad(self.running_weight * away[..., :-1, :], before),
            (self.terminal_weight * eye).expand(*last.shape, -1),
            self.terminal_weight * last,
        )

    def _away(self, state: Tensor) -> Tensor:
        goal = aligned("goal", self.goal, state, own=1)
        if state.device.type == "cpu" and state.ndim > 2 and goal.ndim == 1:
            # A row of a few numbers that is taken from many costs five times as much as
            # a block of such rows.
            goal = goal.expand(state.shape[1:]).contiguous()
        return state - goal


def _times_root(weight: float, away: Tensor) -> Tensor:
    """Return √weight · away; sampling planners notice a pass over all candidates."""
    return away if weight == 1 else weight**0.5 * away


class Tracking(ResidualObjective):
    """Squared distance to a reference that moves: ½ Σ_{t=0}^{T} w_t ‖x_t - x*_t‖².

    Args:
        reference: x* `[T+1, S]`, or `[…, T+1, S]` to give each problem of a batch its
            own, as a goal of `GoalDistance`.
        weights: w `[T+1]`, at least zero; None counts each step once. With a weight for
            each number of the state `[T+1, S]`, or of each problem too `[…, T+1, S]`.

    Raises:
        ShapeError: a tensor has other dimensions.
        ArgumentError: a weight is negative.
        NonFiniteError: one holds NaN or infinity.

    Example:
        >>> import torch
        >>> reference = torch.tensor([[0.0], [1.0], [2.0]])
        >>> Tracking(reference)(torch.zeros(3, 1), torch.zeros(2, 1))  # ½ (1 + 4)
        tensor(2.5000)
    """

    per_problem: ClassVar[Mapping[str, int]] = {"reference": 2, "weights": 2}
    reference: Tensor
    weights: Tensor

    def __init__(self, reference: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        require_finite("reference", require_tensor("reference", reference))
        if reference.ndim < 2 or reference.numel() == 0:
            raise ShapeError(
                "reference: expected […, T+1, S] with numbers in it, got "
                f"{list(reference.shape)}"
            )
        steps = reference.shape[-2]
        if weights is None:
            weights = reference.new_ones(steps)
        require_finite("weights", require_tensor("weights", weights))
        size = reference.shape[-1]
        if weights.shape == (steps,) and not isinstance(weights, nn.Parameter):
            weights = weights.unsqueeze(-1).expand(steps, size)
        if weights.shape != (steps,) and weights.shape[-2:] != (steps, size):
            raise ShapeError(
                f"weights: expected [{steps}], [{steps}, {size}] or […, {steps}, "
                f"{size}], got {list(weights.shape)}"
            )
        require_at_least("weights", float(weights.detach().min()), 0.0)
        hold(self, "reference", reference)
        hold(self, "weights", weights)
        self.only_horizon = steps - 1

    def running_residual(  # type: ignore[override]
        self,
        state: Tensor,
        action: Tensor,
        time: Tensor,
    ) -> Tensor:
        """Return √w_t (x_t - x*_t) `[…, steps, S]`."""
        return self.terminal_residual(state, time)

    def quadratize(self, states: Tensor, actions: Tensor) -> Forms:
        """Return Hessians and gradients along a trajectory; see `Quadratizable`."""
        horizon, width = actions.shape[-2:]
        self._check_horizon(horizon)
        reference = aligned("reference", self.reference, states, own=2)
        weights = self._of_each_number(self.weights)
        weights = aligned("weights", weights, states, own=2)
        slope, before = weights * (states - reference), (width, 0)
        hessian = torch.diag_embed(pad(weights[..., :-1, :], before))
        total = hessian.shape[-1]
        return (
            hessian.expand(*actions.shape[:-1], total, total),
            pad(slope[..., :-1, :], before),
            torch.diag_embed(weights[..., -1, :]).expand(*slope[..., -1, :].shape, -1),
            slope[..., -1, :],
        )

    def terminal_residual(  # type: ignore[override]
        self, state: Tensor, time: Tensor
    ) -> Tensor:
        """Return √w_T (x_T - x*_T) `[…, 1, S]`."""
        roots = self._of_each_number(root_of_weight(self.weights, state))
        chosen, root = (
            aligned(name, value.index_select(-2, time), state, own=2)
            for name, value in (("reference", self.reference), ("weights", roots))
        )
        return root * (state - chosen)

    def _of_each_number(self, weights: Tensor) -> Tensor:
        if weights.ndim == 1:
            return weights.unsqueeze(-1).expand(-1, self.reference.shape[-1])
        return weights


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

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return √weight u `[…, A]`."""
        return self.weight**0.5 * action

    def quadratize(self, states: Tensor, actions: Tensor) -> Forms:
        """Return Hessians and gradients along a trajectory; see `Quadratizable`."""
        size = states.shape[-1]
        eye = torch.eye(actions.shape[-1], dtype=states.dtype, device=states.device)
        hessian = pad(self.weight * eye, (0, size, 0, size))
        return (
            hessian.expand(*actions.shape[:-1], -1, -1),
            pad(self.weight * actions, (0, size)),
            *no_end(states),
        )

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return no residual `[…, 0]`."""
        return no_residual(state)
