"""Planners as differentiable layers: `plan = planner(problem, state)`.

Planners take a problem, not a model; a planning state is one tensor; the plan is a
record.
"""

from diffplan import (
    constraints,
    errors,
    functional,
    models,
    objectives,
    planners,
    solvers,
    testing,
)
from diffplan.constraints import Categorical
from diffplan.gradients import (
    Derivatives,
    Detach,
    GradientStrategy,
    Implicit,
    Truncated,
    Unroll,
)
from diffplan.plan import Plan, Status
from diffplan.planners import (
    CEM,
    DCEM,
    ILQR,
    MPPI,
    AugmentedLagrangian,
    FirstOrderLatCo,
    GaussianLatCo,
    GradMPC,
    ImageCollocation,
    LatCo,
    LatentActions,
    Planner,
    PolicyGradMPC,
    ShootingGD,
    ShootingGN,
)
from diffplan.problem import (
    Box,
    Dynamics,
    Linearizable,
    Objective,
    PlanningProblem,
    Predictable,
)
from diffplan.stochastic import CVaR, Mean, StochasticProblem

__version__ = "0.1.0"

from diffplan.stochastic import RiskMeasure

__all__ = [
    "CEM",
    "DCEM",
    "ILQR",
    "MPPI",
    "AugmentedLagrangian",
    "Box",
    "CVaR",
    "Categorical",
    "Derivatives",
    "Detach",
    "Dynamics",
    "FirstOrderLatCo",
    "GaussianLatCo",
    "GradMPC",
    "GradientStrategy",
    "ImageCollocation",
    "Implicit",
    "LatCo",
    "LatentActions",
    "Linearizable",
    "Mean",
    "Objective",
    "Plan",
    "Planner",
    "PlanningProblem",
    "PolicyGradMPC",
    "Predictable",
    "RiskMeasure",
    "ShootingGD",
    "ShootingGN",
    "Status",
    "StochasticProblem",
    "Truncated",
    "Unroll",
    "constraints",
    "errors",
    "functional",
    "models",
    "objectives",
    "planners",
    "solvers",
    "testing",
]
