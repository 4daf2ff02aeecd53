"""World models: the learned RSSM, and known systems; an actor and a critic."""

from diffplan.models._linear import AnalyticDynamics, LinearDynamics
from diffplan.models.actor_critic import Actor, Critic
from diffplan.models.analytic import (
    Cartpole,
    Pendulum,
    PointMass,
)
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.models.rssm import RSSM

__all__ = [
    "RSSM",
    "Actor",
    "AnalyticDynamics",
    "Cartpole",
    "Critic",
    "LinearDynamics",
    "LossRecord",
    "Pendulum",
    "PointMass",
    "SequenceBatch",
    "WorldModel",
]
