"""Objectives: what a plan costs, with the structure that second-order planners use.

Any callable `(states […, T+1, S], actions […, T, A]) → cost […]` is an objective. Two
refinements say more about it:

* `StageObjective`: cost = initial(x_0, u_0) + Σ_{t=1}^{T-1} running(x_t, u_t)
  + terminal(x_T);
* `ResidualObjective`: each of those terms is ½‖residual‖², so that Gauss-Newton
  methods (LatCo, shooting Gauss-Newton) apply.

Every planner takes any objective; one that needs a refinement says so. An objective
that is `Quadratizable` besides knows its own second derivatives.
"""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffplan.errors import ShapeError


class StageObjective(nn.Module, ABC):
    """A cost that is a sum over time steps.

    A subclass defines `running_cost` and `terminal_cost`, both for any leading
    dimensions; `initial_cost` defaults to `running_cost` and is there for costs paid
    on arrival, which count no given state.

    Attributes:
        time_invariant: Whether the cost of a step follows from its state and action
            alone; costs may then be counted a few steps at a time.
    """

    time_invariant: bool = True

    @abstractmethod
    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost `[…]` of taking `action` `[…, A]` in `state` `[…, S]`."""

    @abstractmethod
    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost `[…]` of ending in `state` `[…, S]`."""

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost `[…]` of the first action, taken in the given state."""
        return self.running_cost(state, action)

    def forward(
        self,
        states: Float[Tensor, "*batch steps S"],
        actions: Float[Tensor, "*batch T A"],
    ) -> Float[Tensor, "*batch"]:
        """Return the cost of a whole trajectory."""
        check_trajectory(states, actions)
        cost = self.initial_cost(states[..., 0, :], actions[..., 0, :])
        cost = cost + self.terminal_cost(states[..., -1, :])
        if actions.shape[-2] > 1:
            running = self.running_cost(states[..., 1:-1, :], actions[..., 1:, :])
            cost = cost + running.sum(dim=-1)
        return cost


@runtime_checkable
class Quadratizable(Protocol):
    """An objective that knows its own second derivatives: autodiff is not needed."""

    def quadratize(
        self,
        states: Float[Tensor, "*batch T+1 S"],
        actions: Float[Tensor, "*batch T A"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Expand the cost about a trajectory to second order.

        Returns:
            Hessian `[…, T, n, n]` and gradient `[…, T, n]` of the cost of each step by
            (u_t, x_t), n = A + S; Hessian `[…, S, S]` and gradient `[…, S]` of the cost
            of the last state. Hessians are symmetric; one that is the same everywhere
            may be an expanded tensor.
        """
        ...


class ResidualObjective(StageObjective):
    """A cost ½ Σ ‖residual‖² over time steps, for Gauss-Newton planners.

    A subclass defines `running_residual` and `terminal_residual`, each returning
    `[…, R]` with an R of its own, zero included.
    """

    @abstractmethod
    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the residual `[…, R]` of taking `action` in `state`."""

    @abstractmethod
    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return the residual `[…, R]` of ending in `state`."""

    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the residual `[…, R]` of the first action (default: running)."""
        return self.running_residual(state, action)

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return ½‖running residual‖² `[…]`."""
        return half_square(self.running_residual(state, action))

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return ½‖terminal residual‖² `[…]`."""
        return half_square(self.terminal_residual(state))

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return ½‖initial residual‖² `[…]`."""
        return half_square(self.initial_residual(state, action))


def half_square(residual: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch"]:
    """Return ½‖residual‖²."""
    return 0.5 * residual.square().sum(dim=-1)


def no_residual(state: Tensor) -> Tensor:
    """Return a residual of size zero `[…, 0]` for a state `[…, S]`."""
    return state[..., :0]


def check_trajectory(states: Tensor, actions: Tensor) -> None:
    """Check that states `[…, T+1, S]` and actions `[…, T, A]` belong together.

    Raises:
        ShapeError: the time or leading dimensions do not match.
    """
    if states.ndim < 2 or actions.ndim < 2:
        raise ShapeError(
            "states, actions: expected […, T+1, S] and […, T, A], got "
            f"{list(states.shape)} and {list(actions.shape)}"
        )
    if states.shape[-2] != actions.shape[-2] + 1:
        raise ShapeError(
            f"states: expected {actions.shape[-2] + 1} steps (T+1) for "
            f"{actions.shape[-2]} actions, got {states.shape[-2]}"
        )
    if states.shape[:-2] != actions.shape[:-2]:
        torch.broadcast_shapes(states.shape[:-2], actions.shape[:-2])
