"""MRS.Q's score of a plan: its rewards, and the least of ten values of where it ends.

Chang, Henaff, Amos, Dudek and Fujimoto 2026, "The surprising difficulty of search in
model-based reinforcement learning" (arXiv:2601.21306). A search finds what a value
overestimates; the least of an ensemble, taken when plans are scored too and not only
when the values are learnt, mends that. Only the score is new: it is an objective, and
the planner is TD-MPC2's, `PolicyMPPI(3, policy)`; any other takes it too.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from diffplan.objectives import Ensemble, NegativeReturn, minimum
from diffplan.planners import actions_of


class LeastValue(nn.Module):
    """What a policy earns from a state on, as the most cautious head sees it.

    Args:
        heads: Q_i, `(state […, S], action […, A]) → value […]`.
        policy: π, `(state […, S]) → action […, A]`.
    """

    def __init__(
        self,
        heads: Iterable[Callable[[Tensor, Tensor], Tensor]],
        policy: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.heads, self.policy = Ensemble(heads, minimum), policy

    def forward(self, state: Tensor) -> Tensor:
        """Return min_i Q_i(x, π(x)) `[…]` for states `[…, S]`."""
        return self.heads(state, actions_of(self.policy, state))


def search_return(
    reward: Callable[..., Tensor],
    heads: Iterable[Callable[[Tensor, Tensor], Tensor]],
    policy: Callable[[Tensor], Tensor],
    *,
    discount: float = 0.99,
) -> NegativeReturn:
    """Return the objective -(Σ_{t<T} γ^t r_t + γ^T min_i Q_i(x_T, π(x_T))).

    Args:
        reward: `(state) → reward […]`, or of state and action.
        heads: See `LeastValue`; ten in the paper.
        policy: Likewise.
        discount: γ.
    """
    return NegativeReturn(reward, discount=discount, value=LeastValue(heads, policy))
