"""Conformance checks for planners, gradients and world models, your own included.

`check_planner(planner)`, `check_gradients(planner, problem, state)` and
`check_world_model(model, observation)` raise an `AssertionError` that says in words
which promise is broken. The planners of diffplan pass the same checks in its own tests.
"""

from diffplan._kinds import check_public
from diffplan.testing._planners import (
    PLANNER_CHECKS,
    check_planner,
    check_states_follow_actions,
    point_mass_problem,
)
from diffplan.testing.gradients import GradientReport, GradientRow, check_gradients
from diffplan.testing.world_models import check_world_model

__all__ = [
    "PLANNER_CHECKS",
    "GradientReport",
    "GradientRow",
    "check_gradients",
    "check_planner",
    "check_states_follow_actions",
    "check_world_model",
    "point_mass_problem",
]

check_public(globals(), __all__)
