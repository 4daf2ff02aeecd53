"""Objectives: what a plan costs."""

from diffplan.objectives.base import Quadratizable, ResidualObjective, StageObjective
from diffplan.objectives.combine import SumOfResiduals, WeightedSum
from diffplan.objectives.goal import ActionPenalty, GoalDistance
from diffplan.objectives.penalty import ConstraintMultipliers, ConstraintPenalty
from diffplan.objectives.quadratic import QuadraticCost
from diffplan.objectives.reward import NegativeReturn, SoftplusReward

__all__ = [
    "ActionPenalty",
    "ConstraintMultipliers",
    "ConstraintPenalty",
    "GoalDistance",
    "NegativeReturn",
    "QuadraticCost",
    "Quadratizable",
    "ResidualObjective",
    "SoftplusReward",
    "StageObjective",
    "SumOfResiduals",
    "WeightedSum",
]
