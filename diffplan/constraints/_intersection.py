"""The nearest action that keeps a box and several constraints."""

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from diffplan._checks import is_traced, sequence
from diffplan._user_functions import require_result
from diffplan.constraints._base import ActionConstraint
from diffplan.constraints._box import Box
from diffplan.constraints.sets import Ball
from diffplan.constraints.state import StateConstraint
from diffplan.errors import ArgumentError, TensorTypeError
from diffplan.functional._projections import Projection, project_intersection


def project_onto_all(
    actions: Tensor, constraints: Sequence[ActionConstraint], low: Tensor, high: Tensor
) -> Tensor:
    """Return the nearest actions that keep a box and all constraints.

    The box is kept exactly in any case. Balls of norm infinity are boxes, and balls of
    norm 2 join any other set exactly (`project_ball_within`, whose cost multiplies with
    each ball); of the other kinds, one is what its `project_within` gives and several
    meet by Dykstra's method, which may need more cycles than it is given: then the
    last one holds and `contains` tells about the others.

    Args:
        actions: `[…, A]`.
        constraints: At least one.
        low: `[A]`, or what lines up with the actions.
        high: Likewise.
    """
    boxes = [c for c in constraints if isinstance(c, Ball) and c.norm == math.inf]
    rounds = [c for c in constraints if isinstance(c, Ball) and c.norm == 2]
    others = [c for c in constraints if c not in boxes and c not in rounds]
    for box in boxes:
        low, high = (box.project_within(side, low, high) for side in (low, high))
    if not others and rounds:
        others = [rounds.pop()]
    project: Projection = partial(torch.clamp, min=low, max=high)
    if others:
        parts = [partial(c.project_within, low=low, high=high) for c in others]
        whole = partial(project_intersection, projections=parts)
        project = parts[0] if len(parts) == 1 else whole
    for ball in rounds:
        project = partial(ball.project_with, project=project)
    return project(actions)


def checked_constraints(
    constraints: Iterable[ActionConstraint | StateConstraint], box: Box
) -> tuple[tuple[ActionConstraint, ...], tuple[StateConstraint, ...]]:
    """Return constraints on actions and those on states, each checked.

    Args:
        constraints: Of a problem.
        box: Its action space.

    Raises:
        TensorTypeError: one is of another kind.
        ShapeError, ArgumentError: see `require_meeting`.
    """
    given = sequence("constraints", constraints)
    for index, constraint in enumerate(given):
        name = f"constraints[{index}]"
        if isinstance(constraint, ActionConstraint):
            require_meeting(name, constraint, box)
        elif not isinstance(constraint, StateConstraint):
            raise TensorTypeError(
                f"{name}: expected an ActionConstraint or a StateConstraint of "
                f"diffplan.constraints, got {type(constraint).__name__}"
            )
    return (
        tuple(item for item in given if isinstance(item, ActionConstraint)),
        tuple(item for item in given if isinstance(item, StateConstraint)),
    )


@torch.no_grad()
def require_meeting(name: str, constraint: ActionConstraint, box: Box) -> None:
    """Check that some action keeps a constraint and the box, at every step.

    Args:
        name: What messages call the constraint.
        constraint: A set of actions; what it returns is checked too.
        box: The action space.

    Raises:
        ShapeError: the constraint is on actions of another size.
        ArgumentError: no action keeps both.
    """
    constraint.check_dim(name, box.dim)
    nearest = constraint.project_within(box.center, box.low, box.high)
    begins, lead = f"{name}:", box.low.shape[:-1]
    require_result(begins, constraint.project, nearest, box.low.shape, box.low)
    beyond = constraint.excess(nearest)
    require_result(begins, constraint.excess, beyond, (*lead, -1), box.low)
    met = constraint.contains(nearest).all()
    if not is_traced(met) and not met:
        raise ArgumentError(
            f"{name}: expected a set that meets the action space, got "
            f"{constraint} and {box}"
        )
