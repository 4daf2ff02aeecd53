"""The parts of an iteration that shoots with second derivatives, plain or compiled."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffplan.functional._condensed import CondensedStep, condensed_step
from diffplan.functional._limited_stage import Stage, limited_stage
from diffplan.functional.box_lqr import IncrementalLQR
from diffplan.planners._quadratic_model import quadratic_model
from diffplan.planners.second_order._line_search import (
    Nominal,
    gradient_norm,
    try_fractions,
)
from diffplan.problem import PlanningProblem


class Expanded(NamedTuple):
    """The problem about a trajectory.

    Attributes:
        model: Its expansion.
        finite: Whether that is finite, `[…]` bool; see `quadratic_model`.
        slope: Derivative of the cost by the actions, `[…, T, A]`, without a graph.
        norm: Of the part of it that the bounds leave, `[…]`; infinite where the model
            is not finite.
    """

    model: IncrementalLQR
    finite: Tensor
    slope: Tensor
    norm: Tensor


def expand(
    problem: PlanningProblem, nominal: Nominal, *, gauss_newton: bool
) -> Expanded:
    """Expand a problem about a trajectory.

    Args:
        problem: The problem.
        nominal: The trajectory.
        gauss_newton: See `quadratic_model`.
    """
    states, actions, _ = nominal
    model, finite = quadratic_model(problem, states, actions, gauss_newton=gauss_newton)
    with torch.no_grad():
        slope = model.slope(model.costates())
    norm = gradient_norm(problem.action_space, nominal, slope)
    return Expanded(model, finite, slope, torch.where(finite, norm, torch.inf))


class Parts(NamedTuple):
    """The functions that take most of the time of an iteration.

    Attributes:
        expand: The model of the problem about a trajectory.
        stage: A step of the backward sweep.
        program: The quadratic program in its place.
        attempt: Rollouts of fractions of a step, and what they cost.
    """

    expand: Callable[..., Expanded]
    stage: Callable[..., Stage]
    program: Callable[..., CondensedStep]
    attempt: Callable[..., Nominal]


PLAIN = Parts(expand, limited_stage, condensed_step, try_fractions)


def compiled_parts(*args: Any, **kwargs: Any) -> Parts:
    """Compile each part by itself; arguments are those of `torch.compile`."""
    parts: Iterable[Any] = PLAIN
    return Parts(*(torch.compile(part, *args, **kwargs) for part in parts))
