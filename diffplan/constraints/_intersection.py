"""The nearest action that keeps a box and several constraints."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from diffplan.constraints._base import ActionConstraint
from diffplan.constraints.sets import Ball
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
        low: `[A]`.
        high: `[A]`.
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
