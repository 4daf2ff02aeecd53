"""What agents with a filter share: how an episode begins."""

from torch import Tensor

from diffplan.agents._base import AgentState
from diffplan.agents.filter import Filter
from diffplan.problem import Box


class Filtering:
    """Begins episodes for an agent that filters.

    Attributes:
        filter: Gives the beliefs.
        action_space: Every action lies in it.
    """

    filter: Filter

    @property
    def action_space(self) -> Box:
        """Return the box that every action lies in."""
        raise NotImplementedError

    def initial_state(
        self, batch_size: int, *, seed: int = 0, keys: Tensor | None = None
    ) -> AgentState:
        """Return the agent's state for `batch_size` environments that were just reset.

        Args:
            batch_size: At least 1.
            seed: Of all that the agent draws.
            keys: Of the environments or their episodes, int64 `[B]`; None stands for
                0 … B - 1. An environment with the same key draws the same random
                numbers in any batch.
        """
        state = self.filter.start(batch_size)
        return AgentState.start(state, self.action_space.dim, seed, keys)

    def reset(
        self, agent_state: AgentState, mask: Tensor, *, keys: Tensor | None = None
    ) -> AgentState:
        """Forget belief, last action and plan where `mask [B]` holds.

        Args:
            agent_state: The agent's state; it is not changed.
            mask: `[B]` booleans.
            keys: See `AgentState.restarted`.
        """
        return self.filter.restarted(agent_state, mask, keys)
