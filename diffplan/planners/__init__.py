"""Planners: `plan = planner(problem, state)`."""

from diffplan.planners.base import Planner, Solution
from diffplan.planners.cem import CEM
from diffplan.planners.collocation import (
    DualAscent,
    FixedMultiplier,
    LatCo,
    LogarithmicRule,
    MultiplierRule,
)
from diffplan.planners.gradient import GradMPC, ShootingGD
from diffplan.planners.mppi import MPPI
from diffplan.planners.sampling import SamplingPlanner

__all__ = [
    "CEM",
    "MPPI",
    "DualAscent",
    "FixedMultiplier",
    "GradMPC",
    "LatCo",
    "LogarithmicRule",
    "MultiplierRule",
    "Planner",
    "SamplingPlanner",
    "ShootingGD",
    "Solution",
]
