"""Planners: `plan = planner(problem, state)`."""

from diffplan.planners.augmented_lagrangian import AugmentedLagrangian
from diffplan.planners.base import Planner, PlanRequest, Solution
from diffplan.planners.cem import CEM
from diffplan.planners.collocation import (
    DualAscent,
    FixedMultiplier,
    LatCo,
    LogarithmicRule,
    MultiplierRule,
)
from diffplan.planners.dcem import DCEM
from diffplan.planners.gauss_newton import ShootingGN
from diffplan.planners.gradient import GradMPC, ShootingGD
from diffplan.planners.ilqr import ILQR
from diffplan.planners.latent_actions import LatentActions
from diffplan.planners.mppi import MPPI
from diffplan.planners.sampling import SamplingPlanner, Search

__all__ = [
    "CEM",
    "DCEM",
    "ILQR",
    "MPPI",
    "AugmentedLagrangian",
    "DualAscent",
    "FixedMultiplier",
    "GradMPC",
    "LatCo",
    "LatentActions",
    "LogarithmicRule",
    "MultiplierRule",
    "PlanRequest",
    "Planner",
    "SamplingPlanner",
    "Search",
    "ShootingGD",
    "ShootingGN",
    "Solution",
]
