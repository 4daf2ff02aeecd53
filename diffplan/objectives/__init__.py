"""Objectives: what a plan costs."""

from diffplan._kinds import check_public
from diffplan._problem_data import aligned
from diffplan.objectives._base import Quadratizable, ResidualObjective, StageObjective
from diffplan.objectives._penalty import ConstraintMultipliers, ConstraintPenalty
from diffplan.objectives.change import ActionChange, with_action_change
from diffplan.objectives.combine import SumOfResiduals, WeightedSum
from diffplan.objectives.ensemble import (
    Disagreement,
    Ensemble,
    LowerConfidenceBound,
    deviation,
    mean,
    minimum,
)
from diffplan.objectives.goal import ActionPenalty, GoalDistance, Tracking
from diffplan.objectives.quadratic import QuadraticCost
from diffplan.objectives.reward import NegativeReturn, SoftplusReward, TerminatingReturn

__all__ = [
    "ActionChange",
    "ActionPenalty",
    "ConstraintMultipliers",
    "ConstraintPenalty",
    "Disagreement",
    "Ensemble",
    "GoalDistance",
    "LowerConfidenceBound",
    "NegativeReturn",
    "QuadraticCost",
    "Quadratizable",
    "ResidualObjective",
    "SoftplusReward",
    "StageObjective",
    "SumOfResiduals",
    "TerminatingReturn",
    "Tracking",
    "WeightedSum",
    "aligned",
    "deviation",
    "mean",
    "minimum",
    "with_action_change",
]

check_public(globals(), __all__)
