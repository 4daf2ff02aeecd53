"""Planning by collocation: states and actions are optimised together."""

from diffplan.planners.collocation.gaussian import GaussianLatCo
from diffplan.planners.collocation.latco import LatCo
from diffplan.planners.collocation.multipliers import (
    DualAscent,
    FixedMultiplier,
    LogarithmicRule,
    MethodOfMultipliers,
    MultiplierRule,
)

__all__ = [
    "DualAscent",
    "FixedMultiplier",
    "GaussianLatCo",
    "LatCo",
    "LogarithmicRule",
    "MethodOfMultipliers",
    "MultiplierRule",
]
