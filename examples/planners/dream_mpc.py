"""Dream-MPC: a few proposals of a policy, each improved by a gradient step.

Spieler and Behnke 2026, "Dream-MPC: Gradient-based model predictive control with latent
imagination" (arXiv:2605.04568), section 4, with the numbers of the authors' code: some
sixty questions to the model for a plan, where TD-MPC2's planner asks 9,216.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffplan as dp
from diffplan.gradients import CONSTANT
from diffplan.objectives import Ensemble, NegativeReturn, WeightedSum, deviation, mean
from diffplan.planners import PlanRequest, follow


class DreamMPC(dp.GradMPC):
    """Gradient descent from what a policy proposes, mixed with what was planned before.

    The last plan as it was, or the middle of the box, descends beside the proposals.

    Args:
        horizon: T, number of planned actions.
        policy: `(state […, S]) → action […, A]`; a module becomes a submodule.
        num_starts: N, how often the policy proposes.
        iterations: Gradient steps.
        std: Spread of the proposals; the paper's policies know their own.
        reuse: ρ, share of the last plan's candidates in the new ones.
        **options: Others of `dp.GradMPC`; its `step_size` is the paper's 0.1.
    """

    supported_gradients: ClassVar = {dp.Detach: CONSTANT}  # proposals have no graph
    learnable_numbers: ClassVar = ()

    def __init__(
        self,
        horizon: int,
        policy: Callable[[Tensor], Tensor],
        *,
        num_starts: int = 5,
        iterations: int = 1,
        std: float = 0.1,
        reuse: float = 0.1,
        **options: Any,
    ) -> None:
        options |= {"num_starts": num_starts, "iterations": iterations}
        super().__init__(horizon, **options)
        self.policy, self.std, self.reuse = policy, std, reuse

    def starting_points(self, request: PlanRequest) -> Tensor:
        """Return the last plan, and proposals mixed with its candidates."""
        problem, start = request.problem, request.warm_start
        noise = self.std * request.drawn()
        with torch.no_grad():
            points = follow(self._propose, problem, request.state, noise)
        known = self.initial_actions(request).unsqueeze(1)
        if start is not None:
            before = start.memory.get("candidates", known)
            points = problem.project(points.lerp(before, self.reuse))
        return torch.cat([known, points], dim=1)

    def _propose(self, state: Tensor, noise: Tensor) -> Tensor:
        return self.policy(state) + noise

    def remember(self, candidates: Tensor) -> dict[str, Tensor]:
        """Keep what the proposals became, and not only the best of them."""
        return {"candidates": candidates[:, 1:]}


def cautious_return(
    reward: Callable[..., Tensor],
    values: Iterable[Callable[[Tensor], Tensor]],
    *,
    discount: float = 0.99,
    penalty: float = 0.01,
) -> WeightedSum:
    """Return the objective: rewards and a value, less a price of doubt at each state.

    Doubt is how far the heads of the value disagree. It is discounted as rewards are
    and has a gradient; the authors' code multiplies it by the value and lets no
    gradient through, so that it only chooses among the candidates.

    Args:
        reward: `(state) → reward […]`, or of state and action.
        values: At least two heads, `(state […, S]) → value […]`.
        discount: γ.
        penalty: λ, the price of a standard deviation.
    """
    values = list(values)
    gain = NegativeReturn(reward, discount=discount, value=Ensemble(values, mean))
    doubt = NegativeReturn(Ensemble(values, deviation), discount=discount)
    return WeightedSum([gain, doubt], [1.0, -penalty])
