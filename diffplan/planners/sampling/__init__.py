"""Planners that sample actions, weigh them and refit a Gaussian."""

from diffplan.planners.sampling._distributions import Search
from diffplan.planners.sampling.cem import CEM
from diffplan.planners.sampling.dcem import DCEM
from diffplan.planners.sampling.loop import SamplingPlanner
from diffplan.planners.sampling.mppi import MPPI

__all__ = ["CEM", "DCEM", "MPPI", "SamplingPlanner", "Search"]
