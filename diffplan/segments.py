"""Segments of a horizon: which function is asked about which steps, and how it knows.

Planners count costs in segments: whole trajectories, a few steps, or one step. A user's
function of a state and an action therefore never sees where in the horizon it is. One
that depends on the step says so by an argument named `time`::

    def running_cost(self, state, action, time):  # state […, steps, S], time [steps]
        return self.weights[time] * state.square().sum(-1)

It then receives the steps' numbers as an int64 tensor that lines up with the states:
`[steps]` for states `[…, steps, S]`, a scalar for a state `[…, S]`. Numbers begin with
zero at the given state.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])
ChoiceT = TypeVar("ChoiceT")


def takes_time(function: object) -> bool:
    """Return whether a function, a module or another callable has an argument `time`.

    Args:
        function: What is asked; it is meant to be asked once, where it is handed over.

    Example:
        >>> takes_time(lambda state, action, time: state)
        True
    """
    if isinstance(function, nn.Module):
        function = function.forward
    try:
        return "time" in inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # some builtins do not show their arguments
        return False


def at(function: FunctionT, timed: bool, time: Tensor | None) -> FunctionT:
    """Return a function that is told the time, if it takes it and the time is known.

    Args:
        function: Of states, and perhaps actions.
        timed: Whether it takes the time.
        time: `[steps]` or `[]`, int64.
    """
    if timed and time is not None:
        return partial(function, time=time)  # type: ignore[return-value]
    return function


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
        initial: That of step zero, or its name; None if `running` serves for it.
        running: That of all other steps.
        first: The number of the segment's first step.
        count: How many steps the segment has.
    """
    if initial is None or first > 0:
        return [(running, slice(0, count))] if count else []
    parts = [(initial, slice(0, 1))]
    return parts if count == 1 else [*parts, (running, slice(1, count))]
