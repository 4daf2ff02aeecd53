"""Agents: they filter observations, plan, remember, and choose actions."""

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
