"""Acting in a loop of Gymnasium, which hands over arrays and keeps no memory.

An `Agent` takes tensors of a batch and returns its memory beside the actions; a loop of
Gymnasium wants a policy that takes what `env.step` returned and remembers by itself.
"""

from typing import Any

import gymnasium
import numpy as np
import torch

from diffplan.agents._base import Agent
from diffplan.errors import ShapeError, TensorTypeError

__all__ = [
    "Policy",
]


class Policy:
    """A policy with `act` and `reset`, for one environment of Gymnasium or a vector.

    Episodes have the keys 0, 1, 2 … in the order in which they begin, so that equal
    loops act alike and no two episodes see the same noise.

    Args:
        agent: Any agent; its actions must fit the environment's.
        environment: A `gymnasium.Env`, or a `gymnasium.vector.VectorEnv`, whose batch
            the agent then acts in at once. It is only asked for its spaces.
        seed: Of all the agent's randomness.

    Raises:
        TensorTypeError: the environment's actions are no `gymnasium.spaces.Box`.
        ShapeError: the agent's actions have another size.

    Example:
        >>> import gymnasium
        >>> from diffplan.agents import UniformAgent
        >>> from diffplan.problem import Box
        >>> env = gymnasium.make("Pendulum-v1")
        >>> policy = Policy(UniformAgent(Box([-2.0], [2.0])), env)
        >>> observation, info = env.reset(seed=0)
        >>> policy.reset()
        >>> observation, *_ = env.step(policy.act(observation))
    """

    def __init__(
        self,
        agent: Agent,
        environment: gymnasium.Env[Any, Any]
        | gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        seed: int = 0,
    ) -> None:
        self.agent, self.seed = agent, seed
        self.batched = isinstance(environment, gymnasium.vector.VectorEnv)
        self.num_envs = getattr(environment, "num_envs", 1) if self.batched else 1
        space = environment.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise TensorTypeError(
                "environment: expected actions of a gymnasium.spaces.Box, got "
                f"{type(space).__name__}"
            )
        self.space = space
        width = int(np.prod(space.shape)) // self.num_envs
        if width != agent.action_space.dim:
            raise ShapeError(
                f"agent: expected actions of {width} numbers, as the environment's "
                f"{list(space.shape)}, got {agent.action_space.dim}"
            )
        self._episodes = 0
        self._memory = agent.initial_state(self.num_envs, seed=seed)

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Begin new episodes: call it wherever the environment was reset.

        Args:
            mask: Which environments of a vector, `[B]` booleans; None stands for all.

        Raises:
            ShapeError: the mask has another size.
        """
        if mask is None:
            mask = np.ones(self.num_envs, dtype=bool)
        begins = torch.as_tensor(np.asarray(mask, dtype=bool))
        if begins.shape != (self.num_envs,):
            raise ShapeError(
                f"mask: expected [{self.num_envs}], one for each environment, got "
                f"{list(begins.shape)}"
            )
        keys = self._episodes + begins.cumsum(0) - 1
        self._episodes += int(begins.sum())
        device = self._memory.age.device
        self._memory = self.agent.reset(
            self._memory, begins.to(device), keys=keys.to(device)
        )

    def act(self, observation: Any, *, explore: bool = False) -> np.ndarray:
        """Return what to do, in the shape and dtype of the environment's actions.

        Args:
            observation: What `env.reset` or `env.step` returned, an array.
            explore: Whether to add the agent's exploration noise.

        Raises:
            ShapeError: a vector's observation has not one row for each environment.
        """
        # Whoever never resets is in the first episodes, which have their keys already.
        self._episodes = self._episodes or self.num_envs
        given = torch.as_tensor(np.asarray(observation))
        if not self.batched:
            given = given.unsqueeze(0)
        # Gymnasium's observations are often double, of which a model knows nothing.
        given = given.to(self._memory.state.device)
        if given.is_floating_point():
            given = given.to(self._memory.action.dtype)
        action, self._memory = self.agent.act(given, self._memory, explore=explore)
        numbers = action.detach().cpu().numpy().reshape(self.space.shape)
        return numbers.astype(self.space.dtype)
