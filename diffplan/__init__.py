"""Planners as differentiable layers: `plan = planner(problem, state)`.

Planners take a problem, not a model; a planning state is one tensor; the plan is a
record.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
from diffplan.stochastic import CVaR, Mean, RiskMeasure, StochasticProblem

if TYPE_CHECKING:
    from diffplan import agents as agents
    from diffplan import envs as envs
    from diffplan import runs as runs
    from diffplan import training as training

__version__ = "0.1.0"

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

if not TYPE_CHECKING:  # with it, each misspelt name would be right to them
    # Imported when they are asked for: environments and training need more than torch.
    _LAZY = ("agents", "envs", "runs", "training")

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'diffplan' has no attribute {name!r}")
        try:
            return importlib.import_module(f"diffplan.{name}")
        except errors.MissingDependencyError as error:
            # `help`, `hasattr` and editors ask for whatever `dir` lists.
            raise AttributeError(str(error)) from error

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})
