"""Planners that run another planner: in a latent space, or with multipliers."""

from diffplan.planners.wrappers.augmented_lagrangian import AugmentedLagrangian
from diffplan.planners.wrappers.latent_actions import LatentActions

__all__ = ["AugmentedLagrangian", "LatentActions"]
