"""Planning by collocation: states and actions are optimised together."""

from diffplan.planners.collocation.multipliers import (
    DualAscent,
    FixedMultiplier,
    LogarithmicRule,
    MultiplierRule,
)
from diffplan.planners.collocation.planner import LatCo

__all__ = [
    "DualAscent",
    "FixedMultiplier",
    "LatCo",
    "LogarithmicRule",
    "MultiplierRule",
]
