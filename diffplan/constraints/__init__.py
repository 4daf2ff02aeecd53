"""Constraints of a planning problem: on actions, and on states along the plan."""

from diffplan._kinds import check_public
from diffplan.constraints._base import ActionConstraint
from diffplan.constraints._box import Box
from diffplan.constraints.categorical import Categorical
from diffplan.constraints.polytope import Polytope
from diffplan.constraints.sets import Ball, Simplex
from diffplan.constraints.state import StateConstraint

__all__ = [
    "ActionConstraint",
    "Ball",
    "Box",
    "Categorical",
    "Polytope",
    "Simplex",
    "StateConstraint",
]

check_public(globals(), __all__)
