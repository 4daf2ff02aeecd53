"""World models: the learned RSSM, known systems, and trained models by name."""

from diffplan._kinds import check_public
from diffplan.models._linear import AnalyticDynamics, LinearDynamics
from diffplan.models.actor_critic import Actor, Critic
from diffplan.models.analytic import Cartpole, Pendulum, PointMass
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.models.rssm import RSSM
from diffplan.models.sharing import available, card, load, save

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
    "available",
    "card",
    "load",
    "save",
]

check_public(globals(), __all__)
