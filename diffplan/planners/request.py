"""What the core of a planner is asked for, in one record."""

from dataclasses import dataclass, replace

from torch import Tensor

from diffplan.errors import ArgumentError
from diffplan.plan import Plan
from diffplan.problem import PlanningProblem


@dataclass(frozen=True)
class PlanRequest:
    """One call of a planner, already checked and with one batch dimension B.

    Attributes:
        problem: Dynamics, objective and action space.
        state: `[B, S]`.
        noise: The random numbers of the plan, from `Planner.noise_from_keys` or handed
            over by the user; None where the planner has none, or has yet to draw them.
        warm_start: An earlier plan with one batch dimension, or None.
        evaluate: Whether the answer is rolled out, see `Planner.forward`.
        keys: int64 `[B]`, one stream of random numbers for each problem's plan; None
            where the noise was handed over.
    """

    problem: PlanningProblem
    state: Tensor
    noise: Tensor | None = None
    warm_start: Plan | None = None
    evaluate: bool = True
    keys: Tensor | None = None

    def drawn(self) -> Tensor:
        """Return the noise, for a planner that always has some.

        Raises:
            ArgumentError: there is none: the request did not come from a planner.
        """
        if self.noise is None:
            raise ArgumentError(
                "request.noise: expected a tensor, got None: this planner needs random "
                "numbers, see Planner.draw_noise"
            )
        return self.noise

    def afresh(self) -> "PlanRequest":
        """Return this request without its warm start."""
        return replace(self, warm_start=None)
