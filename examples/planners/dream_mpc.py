"""Dream-MPC: a few proposals of a policy, each improved by a gradient step.

Spieler and Behnke 2026, "Dream-MPC: Gradient-based model predictive control with latent
imagination" (arXiv:2605.04568), section 4, with the numbers of the authors' code: some
sixty questions to the model for a plan, where TD-MPC2's planner asks 9,216.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

import diffplan as dp
from diffplan.objectives import Ensemble, NegativeReturn, WeightedSum, deviation, mean


def dream_mpc(
    horizon: int, policy: Callable[[Tensor], Tensor] | object, **options: Any
) -> dp.PolicyGradMPC:
    """Return the planner: proposals mixed with what those of the last plan became.

    The last plan as it was descends beside the proposals.

    Args:
        horizon: T, number of planned actions.
        policy: See `dp.PolicyGradMPC`.
        **options: Others of it; its `step_size` is the paper's 0.1.
    """
    numbers = {"num_starts": 5, "iterations": 1, "init": "sample", "reuse": 0.1}
    return dp.PolicyGradMPC(horizon, policy, **{**numbers, **options})


class ReturnAndValue(NegativeReturn):
    """A negative return whose last value begins with the last state's own reward.

    So does the value of Dreamer's critic, V(x_t) = r(x_t) + γ V(x_{t+1}). It stands in
    the place of that reward, which would count twice otherwise:

        cost = -Σ_{t=1}^{T-1} γ^{t-1} r(x_t) - γ^{T-1} V(x_T)

    A reward of state and action is not yet received in the last state; with one this
    is `NegativeReturn`.
    """

    def terminal_cost(self, state: Tensor, time: Tensor | None = None) -> Tensor:
        """Return minus the value of the last state, as it counts at the start."""
        assert self.value is not None
        assert time is not None  # terms that take the time are told it
        steps = time if self.sees_action else time - 1
        return -(self.discount ** steps.to(state.dtype)) * self.value(state)


def cautious_return(
    reward: Callable[..., Tensor],
    values: Iterable[Callable[[Tensor], Tensor]],
    *,
    discount: float = 0.99,
    penalty: float = 0.01,
) -> WeightedSum:
    """Return the objective: rewards and a value, less a price of doubt at each state.

    Each reward counts once, see `ReturnAndValue`. Doubt is how far the heads of the
    value disagree. It is discounted as rewards are and has a gradient; the authors'
    code multiplies it by the value and lets no gradient through, so that it only
    chooses among the candidates.

    Args:
        reward: `(state) → reward […]`, or of state and action.
        values: At least two heads, `(state […, S]) → value […]`, each of which begins
            with the state's own reward.
        discount: γ.
        penalty: λ, the price of a standard deviation.
    """
    values = list(values)
    gain = ReturnAndValue(reward, discount=discount, value=Ensemble(values, mean))
    doubt = NegativeReturn(Ensemble(values, deviation), discount=discount)
    return WeightedSum([gain, doubt], [1.0, -penalty])
