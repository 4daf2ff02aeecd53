"""Constraints on states and actions along a plan: g(state, action) ≤ 0."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import describe
from diffplan._segments import at, split, step_numbers, takes_time
from diffplan._user_functions import ask

_StageFunction = Callable[[Tensor, Tensor], Tensor]
"""`(state […, S], action […, A]) → g […, C]`, for any leading dimensions."""

_TerminalFunction = Callable[[Tensor], Tensor]
"""`state […, S] → g […, C']`, for any leading dimensions."""


class StateConstraint:
    """g(x_t, u_t) ≤ 0 for t = 0 … T-1, and terminal(x_T) ≤ 0, element by element.

    Planners do not keep it by themselves: `AugmentedLagrangian(planner)` does, with
    any planner.

    Args:
        function: g, `(state […, S], action […, A]) → […, C]`, for any leading
            dimensions; differentiable where the planner needs gradients.
            It may take the `time` too, see `diffplan._segments`.
        terminal: `state […, S] → […, C']` for the last state, or None. The last state
            is not constrained by `function`, which needs an action.
        initial: Whether g holds at t = 0 too. Without it the given state, which is no
            choice of the plan, may break a constraint on states alone.

    Raises:
        TensorTypeError: an argument is not callable.

    Example:
        >>> wall = StateConstraint(
        ...     lambda state, action: state[..., :1] - 0.5,
        ...     terminal=lambda state: state[..., :1] - 0.5,
        ... )
        >>> wall.stages(torch.zeros(4, 2), torch.zeros(3, 1)).shape
        torch.Size([3, 1])
    """

    def __init__(
        self,
        function: _StageFunction,
        terminal: _TerminalFunction | None = None,
        *,
        initial: bool = True,
    ) -> None:
        self.function = function
        self.terminal = terminal
        self.initial = initial
        self._timed = takes_time(function), takes_time(terminal)

    def stage(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return g `[…, C]` of states `[…, S]` and actions `[…, A]`.

        Args:
            state: `[…, S]`.
            action: `[…, A]`.
            time: Numbers of the steps, for a `function` that takes them.

        Raises:
            ShapeError, TensorTypeError: `function` returns other leading dimensions or
                another dtype.
        """
        function = at(self.function, self._timed[0], time)
        return _checked("function", function, state, action)

    def start(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return g `[…, C]` at t = 0; -inf, kept by any margin, without `initial`."""
        value = self.stage(state, action, time)
        return value if self.initial else torch.full_like(value, -torch.inf).detach()

    def end(self, state: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the terminal g `[…, C']` of states `[…, S]`; `[…, 0]` without one."""
        if self.terminal is None:
            return state[..., :0]
        terminal = at(self.terminal, self._timed[1], time)
        return _checked("terminal", terminal, state)

    def stages(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return g of all steps `[…, T, C]`.

        Args:
            states: `[…, T+1, S]`.
            actions: `[…, T, A]`.
        """
        values = [
            function(
                states[..., where, :],
                actions[..., where, :],
                step_numbers(0, where, states) if self._timed[0] else None,
            )
            for function, where in split(
                None if self.initial else self.start, self.stage, 0, actions.shape[-2]
            )
        ]
        return torch.cat(values, dim=-2)

    def last(self, states: Tensor) -> Tensor:
        """Return the terminal g `[…, 1, C']` of trajectories `[…, T+1, S]`."""
        horizon = states.shape[-2] - 1
        time = step_numbers(horizon, slice(0, 1), states) if self._timed[1] else None
        return self.end(states[..., -1:, :], time)

    def changed(self, change: Callable[..., Any]) -> "StateConstraint":
        """Return the constraint with other functions, or itself if they are the same.

        Args:
            change: Of one function; see `diffplan._problem_data`.
        """
        function = change(self.function)
        terminal = None if self.terminal is None else change(self.terminal)
        if function is self.function and terminal is self.terminal:
            return self
        other = copy.copy(self)
        other.function, other.terminal = function, terminal
        return other

    def __repr__(self) -> str:
        return f"StateConstraint({describe(self.function)}, initial={self.initial})"


def _checked(name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    begins = f"{name}: StateConstraint"
    advice = "it takes any leading dimensions"
    lead = (*inputs[0].shape[:-1], -1)
    return ask(begins, function, *inputs, expected=lead, advice=advice)
