"""Planners that shoot with second derivatives, and the parts that they share."""

from diffplan.planners.second_order.gauss_newton import ShootingGN
from diffplan.planners.second_order.ilqr import ILQR
from diffplan.planners.second_order.loop import SecondOrderShooting

__all__ = ["ILQR", "SecondOrderShooting", "ShootingGN"]
