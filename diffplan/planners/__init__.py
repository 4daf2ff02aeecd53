"""Planners: `plan = planner(problem, state)`."""

from diffplan._kinds import check_public
from diffplan.planners._evaluation import candidate_costs
from diffplan.planners._exported import ExportedPlanner
from diffplan.planners.base import Planner, Solution
from diffplan.planners.collocation import (
    DualAscent,
    FirstOrderLatCo,
    FixedMultiplier,
    GaussianLatCo,
    ImageCollocation,
    LatCo,
    LogarithmicRule,
    MethodOfMultipliers,
    MultiplierRule,
)
from diffplan.planners.gradient import (
    GradMPC,
    PolicyGradMPC,
    ShootingGD,
    actions_of,
    follow,
)
from diffplan.planners.request import Callback, Iterate, PlanRequest, Watch
from diffplan.planners.sampling import CEM, DCEM, MPPI, SamplingPlanner, Search
from diffplan.planners.second_order import ILQR, ShootingGN
from diffplan.planners.wrappers import AugmentedLagrangian, LatentActions

__all__ = [
    "CEM",
    "DCEM",
    "ILQR",
    "MPPI",
    "AugmentedLagrangian",
    "Callback",
    "DualAscent",
    "ExportedPlanner",
    "FirstOrderLatCo",
    "FixedMultiplier",
    "GaussianLatCo",
    "GradMPC",
    "ImageCollocation",
    "Iterate",
    "LatCo",
    "LatentActions",
    "LogarithmicRule",
    "MethodOfMultipliers",
    "MultiplierRule",
    "PlanRequest",
    "Planner",
    "PolicyGradMPC",
    "SamplingPlanner",
    "Search",
    "ShootingGD",
    "ShootingGN",
    "Solution",
    "Watch",
    "actions_of",
    "candidate_costs",
    "follow",
]

# Planners see to it themselves; records are built too often.
_RULES = ("DualAscent", "FixedMultiplier", "LogarithmicRule", "MethodOfMultipliers")
check_public(globals(), (*_RULES, "actions_of", "candidate_costs", "follow"))
