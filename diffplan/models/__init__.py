"""World models: the learned RSSM, and systems whose equations are known."""

from diffplan.models._linear import AnalyticDynamics, LinearDynamics
from diffplan.models.analytic import (
    Cartpole,
    Pendulum,
    PointMass,
)
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.models.rssm import RSSM

__all__ = [
    "RSSM",
    "AnalyticDynamics",
    "Cartpole",
    "LinearDynamics",
    "LossRecord",
    "Pendulum",
    "PointMass",
    "SequenceBatch",
    "WorldModel",
]
