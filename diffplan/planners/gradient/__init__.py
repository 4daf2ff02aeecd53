"""Planners that descend the objective by its gradient, from several starts at once."""

from diffplan.planners.gradient.grad_mpc import GradMPC
from diffplan.planners.gradient.loop import GradientPlanner
from diffplan.planners.gradient.policy_grad_mpc import PolicyGradMPC, actions_of, follow
from diffplan.planners.gradient.shooting_gd import ShootingGD

__all__ = [
    "GradMPC",
    "GradientPlanner",
    "PolicyGradMPC",
    "ShootingGD",
    "actions_of",
    "follow",
]
