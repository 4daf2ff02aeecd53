"""Agents: they filter observations, plan, remember, and choose actions."""

from diffplan._kinds import check_public
from diffplan.agents._base import Agent, AgentState
from diffplan.agents.exploration import (
    Exploration,
    GaussianNoise,
    RandomChoice,
    UniformAgent,
)
from diffplan.agents.filter import Filter
from diffplan.agents.planning import PlanningAgent
from diffplan.agents.policy import PolicyAgent

__all__ = [
    "Agent",
    "AgentState",
    "Exploration",
    "Filter",
    "GaussianNoise",
    "PlanningAgent",
    "PolicyAgent",
    "RandomChoice",
    "UniformAgent",
]

check_public(globals(), __all__)
