"""Objectives: what a plan costs, with the structure that second-order planners use.

Any callable `(states […, T+1, S], actions […, T, A]) → cost […]` is an objective. Two
refinements say more about it:

* `StageObjective`: cost = initial(x_0, u_0) + Σ_{t=1}^{T-1} running(x_t, u_t)
  + terminal(x_T);
* `ResidualObjective`: each of those terms is ½‖residual‖², so that Gauss-Newton
  methods (LatCo, shooting Gauss-Newton) apply.

Every planner takes any objective; one that needs a refinement says so. An objective
that is `Quadratizable` besides knows its own second derivatives.

What a term returns is checked wherever it is called, by a planner, a sum or a user: a
cost has the leading dimensions of its state and no others. Nothing is broadcast.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from diffplan.capabilities import Quadratizable as Quadratizable
from diffplan.checked_model import ALIGNED
from diffplan.errors import (
    ShapeError,
)
from diffplan.user_functions import call, require_result

Term = Callable[..., Tensor]


def _checked(term: Term) -> Term:
    """The method with a check of what it returns."""
    features = (-1,) if term.__name__.endswith("residual") else ()

    @functools.wraps(term)
    def checked(
        self: "StageObjective", state: Tensor, action: Tensor | None = None
    ) -> Tensor:
        inputs = (state,) if action is None else (state, action)
        result = call("objective:", term, self, *inputs, advice=ALIGNED)
        lead = (*state.shape[:-1], *features)
        return require_result("objective:", checked, result, lead, like=state)

    checked.is_checked = True  # type: ignore[attr-defined]
    return checked


def unchecked(term: Term) -> Term:
    """Leave out the check of a term whose shape follows from terms that are checked."""
    term.is_checked = True  # type: ignore[attr-defined]
    return term


TERMS = tuple(
    f"{when}_{what}"
    for what in ("cost", "residual")
    for when in ("initial", "running", "terminal")
)
"""The methods of stage and residual objectives whose results are checked."""


class StageObjective(nn.Module, ABC):
    """A cost that is a sum over time steps.

    A subclass defines `running_cost` and `terminal_cost`, both for any leading
    dimensions; `initial_cost` defaults to `running_cost` and is there for costs paid
    on arrival, which count no given state. Each returns one cost `[…]` per state, in
    the state's dtype; anything else raises a `ShapeError` or a `TensorTypeError`.

    Attributes:
        time_invariant: Whether the cost of a step follows from its state and action
            alone; costs may then be counted a few steps at a time.
        per_problem: Names of tensors that may have a value for each problem of a batch,
            with the number of dimensions of one value; see `diffplan.problem_data`.
    """

    time_invariant: bool = True
    per_problem: ClassVar[Mapping[str, int]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Put a check around the terms that the class or a mixin of it defines."""
        super().__init_subclass__(**arguments)
        for name in TERMS:
            term = inspect.getattr_static(cls, name, None)
            done = getattr(term, "is_checked", False)
            abstract = getattr(term, "__isabstractmethod__", False)
            if isinstance(term, FunctionType) and not (done or abstract):
                setattr(cls, name, _checked(term))

    @abstractmethod
    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost `[…]` of taking `action` `[…, A]` in `state` `[…, S]`."""

    @abstractmethod
    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost `[…]` of ending in `state` `[…, S]`."""

    @unchecked
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


class ResidualObjective(StageObjective):
    """A cost ½ Σ ‖residual‖² over time steps, for Gauss-Newton planners.

    A subclass defines `running_residual` and `terminal_residual`, each returning
    `[…, R]` with the leading dimensions of its state and an R of its own, zero
    included.
    """

    @abstractmethod
    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the residual `[…, R]` of taking `action` in `state`."""

    @abstractmethod
    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return the residual `[…, R]` of ending in `state`."""

    @unchecked
    def initial_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the residual `[…, R]` of the first action (default: running)."""
        return self.running_residual(state, action)

    @unchecked
    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return ½‖running residual‖² `[…]`."""
        return half_square(self.running_residual(state, action))

    @unchecked
    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return ½‖terminal residual‖² `[…]`."""
        return half_square(self.terminal_residual(state))

    @unchecked
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
        raise ShapeError(
            "states, actions: expected the same leading dimensions, got "
            f"{list(states.shape)} and {list(actions.shape)}"
        )
