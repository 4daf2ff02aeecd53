"""Planning by collocation: states and actions are optimised together."""

from diffplan.planners.collocation.first_order import FirstOrderLatCo
from diffplan.planners.collocation.gaussian import GaussianLatCo
from diffplan.planners.collocation.image import ImageCollocation
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
    "FirstOrderLatCo",
    "FixedMultiplier",
    "GaussianLatCo",
    "ImageCollocation",
    "LatCo",
    "LogarithmicRule",
    "MethodOfMultipliers",
    "MultiplierRule",
]
