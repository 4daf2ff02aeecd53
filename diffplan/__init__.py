"""Planners as differentiable layers: `plan = planner(problem, state)`.

Planners take a problem, not a model; a planning state is one tensor; the plan is a
record.
"""

from diffplan import errors, functional, models, objectives, planners, solvers, testing
from diffplan.gradients import Detach, GradientStrategy, Unroll
from diffplan.plan import Plan, Status
from diffplan.planners import CEM, MPPI, GradMPC, LatCo, Planner, ShootingGD
from diffplan.problem import (
    Box,
    Dynamics,
    Linearizable,
    Objective,
    PlanningProblem,
    Predictable,
)

__version__ = "0.1.0"

__all__ = [
    "CEM",
    "MPPI",
    "Box",
    "Detach",
    "Dynamics",
    "GradMPC",
    "GradientStrategy",
    "LatCo",
    "Linearizable",
    "Objective",
    "Plan",
    "Planner",
    "PlanningProblem",
    "Predictable",
    "ShootingGD",
    "Status",
    "Unroll",
    "errors",
    "functional",
    "models",
    "objectives",
    "planners",
    "solvers",
    "testing",
]
