"""Shooting gradient descent as the LatCo paper describes it: limits by dual descent.

The library's `ShootingGD` brings actions into their box after each step, as the
authors' code does. Their paper instead lets them leave it, at a price.
"""

from typing import Any

from torch import Tensor

from diffplan.planners.collocation import DualAscent
from diffplan.planners.collocation._first_order import (
    FirstOrderCollocation,
    RelaxedProblem,
)
from diffplan.planners.collocation._residuals import Residuals
from diffplan.problem import PlanningProblem


class DualDescent(FirstOrderCollocation):
    """Shooting by Adam, action limits by multipliers that follow every five steps.

    It is first-order collocation without states: they are rolled out. Neither paper nor
    code tells the multiplier's rate; this has that of "no second order".
    """

    @classmethod
    def paper(cls, horizon: int = 30, **options: Any) -> "DualDescent":
        """Return the paper's settings on Meta-World."""
        given = {
            "iterations": 500,
            "step_size": 0.05,
            "initial_multipliers": (0.0, 1.0),
            "multiplier_rules": (DualAscent(1.5), DualAscent(1.5)),
            "fall_back": False,
        }
        planner = cls(horizon, **{**given, **options})
        planner.action_violation = "paper"
        return planner

    def relaxed(self, problem: PlanningProblem, state: Tensor) -> RelaxedProblem:
        """Return the problem whose only variables are actions."""
        return _RolledOut(problem, state, self.action_violation)


class _RolledOut(RelaxedProblem):
    @property
    def size(self) -> int:
        return 0

    def represent(self, states: Tensor) -> Tensor:
        return states[..., :0]

    def states_of(self, state: Tensor, seen: Tensor, variables: Tensor) -> Tensor:
        del seen
        return self.problem.rollout(state, self.units.actions(variables))[:, 1:]

    def measure(
        self, held: Tensor, state: Tensor, seen: Tensor, variables: Tensor
    ) -> Residuals:
        del held
        actions = self.units.actions(variables)
        cost = self.problem.cost(state, actions)
        # No states, no defects: their violation is a sum of nothing.
        return self._residuals(seen, variables, cost, self._breach(actions))
