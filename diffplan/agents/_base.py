"""What an agent is: it turns observations into actions and remembers in a record.

An agent itself never changes while it acts. All that it must know at the next
observation is in an `AgentState`, which can be saved, restored and reset for single
environments of a batch.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffplan._checks import require_seed
from diffplan.errors import ShapeError, TensorTypeError
from diffplan.functional._random import stream_keys, wrapped
from diffplan.plan import Plan
from diffplan.problem import Box

NO_PLAN = -1
"""The age of a plan that does not exist (yet, or after a reset)."""

POSTERIOR, PLANNING, EXPLORATION = range(3)
"""Folded into the keys of a decision, one for each thing that is random about it."""


@dataclass(frozen=True)
class AgentState:
    """What an agent remembers while it acts in B environments at once.

    A registered pytree. `torch.save` writes it and `torch.load` reads it back.

    Attributes:
        state: `[B, S]`, the planning state after the last observation.
        action: `[B, A]`, executed last, with its noise; zeros at an episode's start.
        plan: The present plans, without their diagnostics; None before the first.
        age: `[B]` integers: how many actions of its plan each environment has
            executed, `NO_PLAN` where there is none.
        seed: int64 `[]`, of all the agent's randomness.
        keys: int64 `[B]`, of the environments or their episodes: together with the
            seed and the count of decisions they give all random numbers, so that an
            environment gets the same ones whatever others act beside it.
        decision: int64 `[B]`, how many decisions were made with these keys.

    Example:
        >>> import diffplan.agents
        >>> box = diffplan.problem.Box([-1.0], [1.0])
        >>> agent_state = diffplan.agents.UniformAgent(box).initial_state(2, seed=0)
        >>> agent_state.age.tolist()
        [-1, -1]
    """

    state: Tensor
    action: Tensor
    plan: Plan | None
    age: Tensor
    seed: Tensor
    keys: Tensor
    decision: Tensor

    @classmethod
    def start(
        cls, state: Tensor, action_dim: int, seed: int, keys: Tensor | None = None
    ) -> "AgentState":
        """Return the agent's state before the first observation.

        Args:
            state: `[B, S]`, the planning states before it.
            action_dim: A.
            seed: Determines all randomness of the agent from here on.
            keys: Of the environments, int64 `[B]`; None stands for 0 … B - 1.

        Raises:
            ArgumentError: the seed is no whole number.
            ShapeError, TensorTypeError: the keys are not int64 `[B]`.
        """
        batch, device = state.shape[0], state.device
        if keys is None:
            keys = torch.arange(batch, device=device)
        return cls(
            state=state,
            action=state.new_zeros(batch, action_dim),
            plan=None,
            age=torch.full((batch,), NO_PLAN, device=device),
            seed=torch.tensor(wrapped(require_seed(seed)), device=device),
            keys=_checked(keys, batch).to(device),
            decision=torch.zeros(batch, dtype=torch.int64, device=device),
        )

    @property
    def batch_size(self) -> int:
        """Number of environments B."""
        return self.state.shape[0]

    def noise_keys(self) -> Tensor:
        """Return the keys of this decision's random numbers, int64 `[B]`.

        For `diffplan.functional._random`; whoever draws folds in a number of its own.
        """
        return stream_keys(
            self.keys.shape,
            self.keys.device,
            seed=self.seed,
            keys=self.keys,
            count=self.decision,
        )

    def restarted(
        self, mask: Tensor, state: Tensor, keys: Tensor | None = None
    ) -> "AgentState":
        """Return this state, at the start of an episode where `mask` holds.

        Args:
            mask: `[B]` booleans.
            state: `[B, S]`, the planning states at an episode's start.
            keys: Of the episodes that start, int64 `[B]`; what it holds elsewhere does
                not count. None keeps the keys, and their random numbers go on.

        Raises:
            ShapeError: the mask or the keys are not `[B]`.
            TensorTypeError: the keys are not int64.
        """
        if mask.shape != self.age.shape:
            raise ShapeError(
                f"mask: expected [{self.batch_size}], one for each environment, got "
                f"{list(mask.shape)}"
            )
        column, agent_state = mask[:, None], self
        if keys is not None:
            keys = _checked(keys, self.batch_size).to(self.keys.device)
            agent_state = replace(
                self,
                keys=torch.where(mask, keys, self.keys),
                decision=self.decision.masked_fill(mask, 0),
            )
        return replace(
            agent_state,
            state=torch.where(column, state, self.state),
            action=self.action.masked_fill(column, 0.0),
            age=self.age.masked_fill(mask, NO_PLAN),
        )


@runtime_checkable
class Agent(Protocol):
    """What trainers and evaluations need of an agent."""

    @property
    def action_space(self) -> Box:
        """Return the box that every action lies in."""
        ...

    def initial_state(
        self, batch_size: int, *, seed: int = 0, keys: Tensor | None = None
    ) -> AgentState:
        """Return the state for `batch_size` environments that were just reset."""
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
            Actions `[B, A]` inside the action space, and the agent's state for the
            next call.
        """
        ...

    def reset(
        self, agent_state: AgentState, mask: Tensor, *, keys: Tensor | None = None
    ) -> AgentState:
        """Forget the episode of each environment where `mask [B]` holds."""
        ...


def _checked(keys: object, batch: int) -> Tensor:
    if not isinstance(keys, Tensor) or keys.dtype != torch.int64:
        kind = keys.dtype if isinstance(keys, Tensor) else type(keys).__name__
        raise TensorTypeError(f"keys: expected an int64 tensor, got {kind}")
    if keys.shape != (batch,):
        raise ShapeError(
            f"keys: expected [{batch}], one for each environment, got "
            f"{list(keys.shape)}"
        )
    return keys


torch.export.register_dataclass(AgentState, serialized_type_name="diffplan.AgentState")
torch.serialization.add_safe_globals([AgentState])
