"""What is planned: dynamics, an objective and the actions that are allowed.

A planner receives a `PlanningProblem` when it is called and keeps nothing of it, so
one planner serves any model and a checkpoint of a planner never holds a world model.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Normal

from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
    require_finite,
    require_shape,
    require_tensor,
)

Dynamics = Callable[[Tensor, Tensor], Tensor]
"""`(state […, S], action […, A]) → next_state […, S]`, for any leading dimensions."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""`(states […, T+1, S], actions […, T, A]) → cost […]`, to be minimised."""


@runtime_checkable
class Linearizable(Protocol):
    """Dynamics that know their own Jacobian (for an RSSM 6× faster than autodiff)."""

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return next state `[…, S]` and Jacobians `[…, S, S]` and `[…, S, A]`."""
        ...


@runtime_checkable
class Predictable(Protocol):
    """Dynamics that know the distribution of the next state."""

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        """Return the distribution of the next state, mean and spread `[…, S]`."""
        ...


CapabilityT = TypeVar("CapabilityT")


class Box:
    """The actions that are allowed: `low ≤ action ≤ high`, per dimension.

    Args:
        low: Lower bounds `[A]`, a tensor or numbers; `-inf` leaves a side open.
        high: Upper bounds `[A]`, likewise; `inf` leaves a side open.

    Raises:
        ShapeError: the bounds are no vectors of one length.
        ArgumentError: a bound is NaN, or some `low` exceeds its `high`.

    Example:
        >>> Box([-1.0, -1.0], [1.0, 1.0]).dim
        2
    """

    def __init__(self, low: Tensor | list[float], high: Tensor | list[float]) -> None:
        self.low = torch.as_tensor(low, dtype=_float_dtype(low))
        self.high = torch.as_tensor(high, dtype=self.low.dtype)
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ShapeError(
                "action_space: expected low and high of one shape [A], got "
                f"{list(self.low.shape)} and {list(self.high.shape)}"
            )
        if self.low.isnan().any() or self.high.isnan().any():
            raise ArgumentError("action_space: expected bounds, got NaN")
        if (self.low > self.high).any():
            worst = int((self.low - self.high).argmax())
            raise ArgumentError(
                "action_space: expected low ≤ high in every dimension, got low "
                f"{float(self.low[worst])} above high {float(self.high[worst])} "
                f"in dimension {worst}"
            )

    @property
    def dim(self) -> int:
        """Number of action dimensions, A."""
        return self.low.shape[0]

    def to(self, like: Tensor) -> "Box":
        """Return this box in the dtype and on the device of `like`."""
        if self.low.dtype == like.dtype and self.low.device == like.device:
            return self
        # Not checked again: the comparisons would break torch.compile and vmap.
        moved = Box.__new__(Box)
        moved.low, moved.high = self.low.to(like), self.high.to(like)
        return moved

    @property
    def center(self) -> Tensor:
        """Middle of the box `[A]`; the nearest point to zero where a side is open."""
        bounded = torch.isfinite(self.low) & torch.isfinite(self.high)
        nearest = torch.zeros_like(self.low).clamp(self.low, self.high)
        low, high = self.low.nan_to_num(0, 0, 0), self.high.nan_to_num(0, 0, 0)
        return torch.where(bounded, (low + high) / 2, nearest)

    @property
    def scale(self) -> Tensor:
        """Half the width `[A]`; 1 where a side is open."""
        bounded = torch.isfinite(self.low) & torch.isfinite(self.high)
        low, high = self.low.nan_to_num(0, 0, 0), self.high.nan_to_num(0, 0, 0)
        return torch.where(bounded, (high - low) / 2, torch.ones_like(self.low))

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest allowed actions, same shape `[…, A]`."""
        box = self.to(actions)
        return actions.clamp(box.low, box.high)

    def contains(self, actions: Tensor) -> Tensor:
        """Return where actions `[…, A]` are allowed, exactly; booleans `[…]`."""
        box = self.to(actions)
        return ((actions >= box.low) & (actions <= box.high)).all(dim=-1)

    def excess(self, actions: Tensor) -> Tensor:
        """Return how far actions `[…, A]` lie outside, per dimension and signed.

        Positive above `high`, negative below `low`, zero inside; its square summed is
        LatCo's action constraint `max(0, |a| - a_m)²` (paper, Eq. 8) for any box.
        """
        return actions - self.project(actions)

    def __repr__(self) -> str:
        return f"Box(low={self.low.tolist()}, high={self.high.tolist()})"


class PlanningProblem:
    """Dynamics, objective and action space: all that a planner needs to know.

    Args:
        dynamics: `(state, action) → next_state`, see `Dynamics`; a world model or
            its `step` method, an analytic system, or any function.
        objective: `(states, actions) → cost`, see `Objective`.
        action_space: The box that every returned action lies in.

    Raises:
        TensorTypeError: an argument is not of the kind above.

    Example:
        >>> import diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + 0.1 * action,
        ...     objective=lambda states, actions: states.square().sum((-1, -2)),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> problem.action_space.dim
        1
    """

    def __init__(
        self, dynamics: Dynamics, objective: Objective, action_space: Box
    ) -> None:
        for name, value in (("dynamics", dynamics), ("objective", objective)):
            if not callable(value):
                raise TensorTypeError(
                    f"{name}: expected a callable, got {type(value).__name__}"
                )
        if not isinstance(action_space, Box):
            raise TensorTypeError(
                "action_space: expected a diffplan.Box, got "
                f"{type(action_space).__name__}"
            )
        self.dynamics = dynamics
        self.objective = objective
        self.action_space = action_space

    def find(self, capability: type[CapabilityT]) -> CapabilityT | None:
        """Return the dynamics' `capability`, or None.

        It is looked for on the dynamics and, where these are the bound method `step`
        of a model, on the model: `model` and `model.step` mean the same dynamics.
        """
        owner = self.dynamics
        if getattr(owner, "__name__", "") == "step" and hasattr(owner, "__self__"):
            owner = owner.__self__
        return owner if isinstance(owner, capability) else None

    def require(self, capability: type[CapabilityT], needed_by: str) -> CapabilityT:
        """Return the dynamics' `capability`.

        Raises:
            UnsupportedProblemError: the dynamics do not have it.
        """
        found = self.find(capability)
        if found is None:
            raise UnsupportedProblemError(
                f"dynamics: {needed_by} needs dynamics with the methods of "
                f"{capability.__name__}, got {_describe(self.dynamics)} without them"
            )
        return found

    def require_objective(self, kind: type[CapabilityT], needed_by: str) -> CapabilityT:
        """Return the objective as `kind`, a refinement such as `ResidualObjective`.

        Raises:
            UnsupportedProblemError: the objective is not of that kind.
        """
        if not isinstance(self.objective, kind):
            raise UnsupportedProblemError(
                f"objective: {needed_by} needs a {kind.__name__}, got "
                f"{_describe(self.objective)}"
            )
        return self.objective

    def check_state(self, state: Tensor) -> Tensor:
        """Check the given planning state `[…, S]` before any work is done.

        One step of the dynamics is tried, so a wrong state size or a wrong callable
        fails here with its own name.

        Raises:
            TensorTypeError: not a floating-point tensor, or on another device.
            NonFiniteError: it holds NaN or infinity.
            ShapeError: the dynamics do not accept it or do not return its shape.
        """
        require_tensor("state", state)
        if state.ndim == 0:
            raise ShapeError("state: expected […, S], got a scalar")
        require_finite("state", state)
        action = self.action_space.to(state).center.expand(*state.shape[:-1], -1)
        with torch.no_grad():
            try:
                following = self.dynamics(state, action)
            except DiffplanError:
                raise  # world models name the argument themselves
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise ShapeError(
                    f"state: dynamics {_describe(self.dynamics)} fail on a state of "
                    f"shape {list(state.shape)} ({state.dtype}, {state.device}) and "
                    f"an action of shape {list(action.shape)}: {error}"
                ) from error
        if not isinstance(following, Tensor) or following.shape != state.shape:
            shape = list(getattr(following, "shape", []))
            raise ShapeError(
                f"dynamics: expected a next state of the state's shape "
                f"{list(state.shape)}, got {shape} from {_describe(self.dynamics)}"
            )
        return state

    def check_actions(self, name: str, actions: Tensor, horizon: int) -> Tensor:
        """Check a sequence of actions `[…, T, A]` against horizon and action space.

        Raises:
            ShapeError: the last two dimensions are not `[horizon, A]`.
        """
        require_tensor(name, actions)
        trailing = (horizon, self.action_space.dim)
        return require_shape(
            name, actions, trailing, "must be [horizon, action_space.dim]"
        )


def _float_dtype(value: Tensor | list[float]) -> torch.dtype:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.dtype
    return torch.get_default_dtype()


def _describe(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__name__)
