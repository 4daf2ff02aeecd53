"""Segments of a horizon: which function is asked about which steps, and how it knows.

Planners count costs in segments: whole trajectories, a few steps, or one step. A user's
function of a state and an action therefore never sees where in the horizon it is. One
that depends on the step says so by an argument named `time`::

    def running_cost(self, state, action, time):  # state […, steps, S], time [steps]
        return self.weights[time] * state.square().sum(-1)

It then receives the steps' numbers as an int64 tensor `[steps]`, which begin with zero
at the given state, and its states always have an axis of steps, `[…, steps, S]`, be it
of one: the same code is right for a single step and for a whole horizon.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.utils._pytree import tree_map

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
ChoiceT = TypeVar("ChoiceT")


def takes_time(function: object) -> bool:
    """Return whether a function, a module or another callable has an argument `time`.

    Args:
        function: What is asked; it is meant to be asked once, where it is handed over.
            It may say so itself, by an attribute `takes_time`; so may an object for
            its methods.

    Example:
        >>> takes_time(lambda state, action, time: state)
        True
    """
    for owner in (function, getattr(function, "__self__", None)):
        said = getattr(owner, "takes_time", None)
        if isinstance(said, bool):
            return said
    if isinstance(function, nn.Module):
        function = function.forward
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # some builtins do not show their arguments
        return False
    return "time" in parameters


def at(function: FunctionT, timed: bool, time: Tensor | None) -> FunctionT:
    """Return a function that is told the time, if it takes it and the time is known.

    Args:
        function: Of states, and perhaps actions.
        timed: Whether it takes the time.
        time: `[steps]` int64 for states with an axis of steps; a scalar for a state
            without one, which then gets one on the way.
    """
    if not timed or time is None:
        return function
    # A scalar would not do for the function itself: to index by it reads its number.
    told: Any = partial(function, time=time.reshape(-1))
    return told if time.ndim else partial(_one_step, told)  # type: ignore[return-value]


def _one_step(told: Callable[..., Any], state: Tensor, *others: Tensor) -> Any:
    axis = state.ndim - 1

    def without_steps(part: Any) -> Any:
        if isinstance(part, Normal):  # was checked when made; that waits for a GPU
            parts = part.mean.squeeze(axis), part.stddev.squeeze(axis)
            return Normal(*parts, validate_args=False)
        # What is no tensor is refused by name where it arrives.
        return part.squeeze(axis) if isinstance(part, Tensor) else part

    result = told(state.unsqueeze(-2), *(other.unsqueeze(-2) for other in others))
    return tree_map(without_steps, result)


_one_step.stands_for_its_argument = True  # type: ignore[attr-defined]  # in messages


def step_numbers(first: int, where: slice, like: Tensor) -> Tensor:
    """Return the numbers of some steps of a segment, int64 `[steps]`.

    Args:
        first: The number of the segment's first step.
        where: Which steps of the segment.
        like: A tensor on the device.
    """
    return torch.arange(first + where.start, first + where.stop, device=like.device)


def split(
    initial: ChoiceT | None, running: ChoiceT, first: int, count: int
) -> list[tuple[ChoiceT, slice]]:
    """Return which function is asked about which steps of a segment.

    Args:
        initial: The term of step zero, or its name; None if `running` serves for it.
        running: The term of all other steps.
        first: The number of the segment's first step.
        count: How many steps the segment has.
    """
    if initial is None or first > 0:
        return [(running, slice(0, count))] if count else []
    parts = [(initial, slice(0, 1))]
    return parts if count == 1 else [*parts, (running, slice(1, count))]
