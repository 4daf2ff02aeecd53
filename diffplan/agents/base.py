"""What an agent is: it turns observations into actions and remembers in a record.

An agent itself never changes while it acts. All that it must know at the next
observation is in an `AgentState`, which can be saved, restored and reset for single
environments of a batch.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan.errors import ShapeError
from diffplan.plan import Plan
from diffplan.problem import Box

NO_PLAN = -1
"""The age of a plan that does not exist (yet, or after a reset)."""


@dataclass(frozen=True)
class AgentState:
    """The memory of an agent that acts in B environments at once.

    A registered pytree. `torch.save` writes it and `torch.load` reads it back.

    Attributes:
        state: `[B, S]`, the planning state after the last observation.
        action: `[B, A]`, executed last, with its noise; zeros at an episode's start.
        plan: The present plans, without their diagnostics; None before the first.
        age: `[B]` integers: how many actions of its plan each environment has
            executed, `NO_PLAN` where there is none.
        generator_state: Of the `torch.Generator` behind all the agent's randomness.

    Example:
        >>> import diffplan.agents
        >>> box = diffplan.problem.Box([-1.0], [1.0])
        >>> memory = diffplan.agents.UniformAgent(box).initial_state(2, seed=0)
        >>> memory.age.tolist()
        [-1, -1]
    """

    state: Tensor
    action: Tensor
    plan: Plan | None
    age: Tensor
    generator_state: Tensor

    @classmethod
    def start(cls, state: Tensor, action_dim: int, seed: int) -> "AgentState":
        """Return the memory before the first observation.

        Args:
            state: `[B, S]`, the planning states before it.
            action_dim: A.
            seed: Determines all randomness of the agent from here on.
        """
        generator = torch.Generator(state.device).manual_seed(seed)
        batch = state.shape[0]
        return cls(
            state=state,
            action=state.new_zeros(batch, action_dim),
            plan=None,
            age=torch.full((batch,), NO_PLAN, device=state.device),
            generator_state=generator.get_state(),
        )

    @property
    def batch_size(self) -> int:
        """Number of environments B."""
        return self.state.shape[0]

    def generator(self) -> torch.Generator:
        """Return a generator that goes on where the agent's randomness stopped."""
        generator = torch.Generator(self.state.device)
        generator.set_state(self.generator_state.cpu())
        return generator

    def restarted(self, mask: Tensor, state: Tensor) -> "AgentState":
        """Return this memory, at the start of an episode where `mask` holds.

        Args:
            mask: `[B]` booleans.
            state: `[B, S]`, the planning states at an episode's start.

        Raises:
            ShapeError: the mask is not `[B]`.
        """
        if mask.shape != self.age.shape:
            raise ShapeError(
                f"mask: expected [{self.batch_size}], one for each environment, got "
                f"{list(mask.shape)}"
            )
        column = mask[:, None]
        return replace(
            self,
            state=torch.where(column, state, self.state),
            action=self.action.masked_fill(column, 0.0),
            age=self.age.masked_fill(mask, NO_PLAN),
        )


@runtime_checkable
class Agent(Protocol):
    """What trainers and evaluations need of an agent."""

    @property
    def action_space(self) -> Box:
        """The box that every action lies in."""
        ...

    def initial_state(self, batch_size: int, *, seed: int = 0) -> AgentState:
        """Return the memory for `batch_size` environments that were just reset."""
        ...

    def act(
        self, observation: Tensor, agent_state: AgentState, *, explore: bool = False
    ) -> tuple[Tensor, AgentState]:
        """Choose actions.

        Args:
            observation: `[B, …]`, the newest of each environment.
            agent_state: What this method returned last, or `initial_state`.
            explore: Whether to add exploration noise.

        Returns:
            Actions `[B, A]` inside the action space, and the memory for the next call.
        """
        ...

    def reset(self, agent_state: AgentState, mask: Tensor) -> AgentState:
        """Forget the episode of each environment where `mask [B]` holds."""
        ...


torch.export.register_dataclass(AgentState, serialized_type_name="diffplan.AgentState")
torch.serialization.add_safe_globals([AgentState])
