"""Acting with a policy on the belief of a world model, as Dreamer does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffplan.agents._base import EXPLORATION, PLANNING, POSTERIOR, AgentState
from diffplan.agents._filtering import Filtering
from diffplan.agents.exploration import Exploration
from diffplan.agents.filter import Filter
from diffplan.capabilities import policy_of
from diffplan.constraints._box import BoxLike, as_box, require_vector
from diffplan.functional._random import fold, standard_normal
from diffplan.problem import Box


class PolicyAgent(Filtering, nn.Module):
    """Filters with a world model and asks a policy; nothing is planned.

    To explore, a policy with `sample(state, noise)` draws its action, others take the
    one they return; then exploration noise is added (Dreamer: both, 0.3).

    Args:
        model: Its `observe` and `initial_state`, or its `encode`, filter.
        policy: `state […, S] → action […, A]`, such as `diffplan.models.Actor`; or a
            model that has a `policy`.
        action_space: Every action lies in it.
        exploration: Applied when `act(..., explore=True)`; None adds nothing.
        posterior: Filter with the posterior's "mean", or with a "sample" of it.

    Raises:
        ArgumentError: the policy is none, or the model has none; `posterior` unknown.
        TensorTypeError: the model can neither observe nor encode.

    Example:
        >>> agent = PolicyAgent(model, actor, box)  # doctest: +SKIP
        >>> agent_state = agent.initial_state(batch_size=8, seed=0)  # doctest: +SKIP
        >>> action, agent_state = agent.act(observation, agent_state)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: object,
        policy: Callable[[Tensor], Tensor] | object,
        action_space: BoxLike,
        *,
        exploration: Exploration | None = None,
        posterior: Literal["mean", "sample"] = "mean",
    ) -> None:
        policy = policy_of(policy)
        super().__init__()
        box = as_box("action_space", action_space)
        self._action_space = require_vector("action_space", box)
        self.filter = Filter(model, posterior)
        self.model: Any = model
        self.policy: Any = policy
        self.exploration = exploration

    @property
    def action_space(self) -> Box:
        """Return the box that every action lies in."""
        return self._action_space

    @torch.no_grad()
    def act(
        self, observation: Tensor, agent_state: AgentState, *, explore: bool = False
    ) -> tuple[Tensor, AgentState]:
        """Filter the newest observations and ask the policy, as `PlanningAgent.act`."""
        keys = agent_state.noise_keys()
        state = self.filter(observation, agent_state, fold(keys, POSTERIOR))
        if explore and hasattr(self.policy, "sample"):
            keys_of_sample = fold(keys, PLANNING)  # it stands where others plan
            noise = standard_normal(keys_of_sample, (self.action_space.dim,), state)
            action = self.policy.sample(state, noise)
        else:
            action = self.policy(state)
        action = self.action_space.project(action)
        if explore and self.exploration is not None:
            key = fold(keys, EXPLORATION)
            action = self.exploration(action, self.action_space, key)
        decision = agent_state.decision + 1
        return action, replace(
            agent_state, state=state, action=action, decision=decision
        )
