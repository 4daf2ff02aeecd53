"""What an agent believes: the planning state, renewed by every observation.

All agents that act with a model share this file, so that a belief means the same in
each of them.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffplan._checks import require_count
from diffplan.agents._base import AgentState
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.functional._random import fold, standard_normal, uniform

_Posterior = Literal["mean", "sample"]
"""What of a posterior a belief is."""


class Filter:
    """Beliefs `[B, S]` from the newest observation, the last belief and action.

    It asks a model for `observe` and `initial_state`, as a `WorldModel` has them, or
    for `encode` alone: then an observation tells everything, and what came before is
    not looked at. A model with `image_bits` below 8 sees uint8 images through its
    `dequantize`, with noise of their own.

    Args:
        model: Any object with these methods.
        posterior: A belief is the posterior's "mean", or a "sample" of it (the model
            needs a `state_size`: how many normal numbers its posterior draws).

    Raises:
        TensorTypeError: the model can neither observe nor encode.
        ArgumentError: `posterior` is neither, or the model has no `state_size`.

    Example:
        >>> from diffplan.models import RSSM
        >>> model = RSSM((5,), action_dim=2, belief_size=8, state_size=4)
        >>> belief = Filter(model, posterior="sample")
        >>> agent_state = AgentState.start(belief.start(3), action_dim=2, seed=0)
        >>> belief(torch.randn(3, 5), agent_state, agent_state.noise_keys()).shape
        torch.Size([3, 12])
    """

    def __init__(self, model: object, posterior: _Posterior = "mean") -> None:
        if posterior == "sample" and not hasattr(model, "state_size"):
            raise ArgumentError(
                "posterior: 'sample' needs a model with state_size, the number of "
                f"normal draws of its posterior; {type(model).__name__} has none"
            )
        self.remembers = hasattr(model, "observe") and hasattr(model, "initial_state")
        if not (self.remembers or hasattr(model, "encode")):
            raise TensorTypeError(
                "model: expected observe and initial_state, or encode where an "
                f"observation tells the state; {type(model).__name__} has neither"
            )
        self.model: Any = model
        self.posterior = posterior

    def start(self, batch_size: int) -> Tensor:
        """Return the beliefs `[B, S]` before the first observation.

        For a model that only encodes they are of no size, `[B, 0]`.
        """
        batch_size = require_count("batch_size", batch_size)
        if self.remembers:
            state = self.model.initial_state((batch_size,)).detach()
            return _require_flat("initial_state", state, batch_size)
        is_module = isinstance(self.model, nn.Module)
        # An agent's state lives where its model does.
        weight = next(self.model.parameters(), None) if is_module else None
        return (torch.empty(0) if weight is None else weight).new_zeros(batch_size, 0)

    def restarted(
        self, agent_state: AgentState, mask: Tensor, keys: Tensor | None = None
    ) -> AgentState:
        """Return the agent's state at the start of an episode where `mask [B]` holds.

        Args:
            agent_state: It is not changed.
            mask: `[B]` booleans.
            keys: See `AgentState.restarted`.
        """
        start = (
            self.start(agent_state.batch_size) if self.remembers else agent_state.state
        )
        return agent_state.restarted(mask, start, keys)

    def __call__(
        self, observation: Tensor, agent_state: AgentState, keys: Tensor
    ) -> Tensor:
        """Return the beliefs `[B, S]` after an observation.

        Args:
            observation: `[B, …]`, of each environment.
            agent_state: With belief and action before it.
            keys: Of a posterior's samples and of the noise of images, int64 `[B]`.

        Raises:
            ShapeError: the batch sizes differ, or the model's state is not flat.
        """
        if observation.shape[:1] != agent_state.age.shape:
            raise ShapeError(
                f"observation: expected [{agent_state.batch_size}, …] as in "
                f"agent_state, got {list(observation.shape)}"
            )
        coarse = getattr(self.model, "image_bits", 8) < 8
        if coarse and observation.dtype == torch.uint8:
            # The posterior's numbers come from the keys themselves.
            gaps = uniform(fold(keys, 0), observation.shape[1:], torch.empty(0))
            observation = self.model.dequantize(observation, gaps)
        if not self.remembers:
            state = self.model.encode(observation)
            return _require_flat("encode", state, agent_state.batch_size)
        noise = None
        if self.posterior == "sample":
            size = int(self.model.state_size)
            noise = standard_normal(keys, (size,), agent_state.state)
        state = self.model.observe(
            agent_state.state, agent_state.action, observation, noise
        )
        return _require_flat("observe", state, agent_state.batch_size)


def _require_flat(method: str, state: Tensor, batch_size: int) -> Tensor:
    if state.ndim == 2 and len(state) == batch_size:
        return state
    raise ShapeError(
        f"model.{method}: expected a planning state [{batch_size}, S], one vector for "
        f"each environment, got {list(state.shape)}: flatten the latent there, as in "
        "latent.flatten(1), and unflatten it inside step"
    )
