"""A planner as a module of TensorDicts: a policy for TorchRL's environments.

It reads the planning state and writes the action. What the next plan starts from is
written under `("next", "plan_memory")`, as a recurrent policy's state is: the
environment's `step` carries it to the root of the following entry, where the module
reads it. A replayed entry holds what its plan started from, and gives the same plan::

    root    observation, is_init, plan_memory   →   action, ("plan", "cost"), …
    next                                            ("next", "plan_memory")

TorchRL carries what the environment knows of: `PlannerModule.primer` is the transform
that tells it. It also resets the memory where an episode begins; so does the entry
`is_init` of the transform `InitTracker`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer

from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.functional._random import fold, stream_keys
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

__all__ = ["PlannerModule"]

_Part = Literal["actions", "states", "cost", "status", "iterations"]
"""What of a `Plan` can be written beside the action."""


class PlannerModule(TensorDictModuleBase):
    """A policy that plans, for `env.rollout`, collectors and losses of TorchRL.

    Any batch dimensions. Gradients go through the action as through any plan, into the
    parameters of planner and model, and not through the memory. Equal entries give
    equal actions, unless there is a generator.

    Args:
        planner: Any planner.
        problem: What it plans.
        encode: Turns the observation `[…]` into the planning state `[…, S]`, such as a
            model's `encode`; None takes it as it is.
        observation_key: What is read.
        action_key: Where the first action of the plan is written.
        memory_key: Where the memory is read, and written under "next"; None plans
            afresh in every step.
        parts: What else of the plan is written, under `("plan", part)`.
        generator: Gives fresh noise to every call; None draws from the place in the
            batch and the number of plans in the episode.

    Raises:
        TensorTypeError: planner or problem are something else.
        ArgumentError: there is no such part of a plan.

    Example:
        >>> import diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.zeros(2)),
        ...     action_space=dp.Box([-1.0] * 2, [1.0] * 2),
        ... )
        >>> policy = PlannerModule(dp.CEM(horizon=3), problem, parts=["cost"])
        >>> entry = policy(TensorDict(observation=torch.ones(5, 2), batch_size=[5]))
        >>> entry["action"].shape, entry["plan", "cost"].shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        planner: Planner,
        problem: PlanningProblem,
        *,
        encode: Callable[[Tensor], Tensor] | None = None,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        memory_key: str | None = "plan_memory",
        parts: Sequence[_Part] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value, kind in (
            ("planner", planner, Planner),
            ("problem", problem, PlanningProblem),
        ):
            if not isinstance(value, kind):
                raise TensorTypeError(
                    f"{name}: expected a {kind.__name__}, got {type(value).__name__}"
                )
        unknown = [part for part in parts if part not in get_args(_Part)]
        if unknown:
            raise ArgumentError(
                f"parts: expected some of {', '.join(get_args(_Part))}, got {unknown}"
            )
        self.planner, self.problem, self.encode = planner, problem, encode
        self.observation_key, self.action_key = observation_key, action_key
        self.memory_key, self.parts = memory_key, tuple(parts)
        self.generator = generator
        self.in_keys = [observation_key]
        self.out_keys = [action_key, *(("plan", part) for part in self.parts)]
        if memory_key is not None:
            self.out_keys.append(("next", memory_key))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Plan for each element of the batch.

        Args:
            tensordict: `[…]` with the observation and, if there are any, the memory
                and `is_init` (`[…]` or `[…, 1]` booleans).

        Returns:
            The same, with the action.

        Raises:
            ShapeError: the planning states do not lead with the batch's dimensions, or
                the memory is that of another planner.
        """
        batch = tensordict.batch_size
        state = tensordict.get(self.observation_key)
        if self.encode is not None:
            state = self.encode(state)
        if state.shape[:-1] != batch:
            raise ShapeError(
                f"{self.observation_key}: expected planning states "
                f"{[*batch, 'S']}, got {list(state.shape)}"
            )
        state = state.reshape(-1, state.shape[-1])
        problem = self.problem.for_batch(batch)
        keys = self._keys(state)
        start = self._start(problem, state, keys, tensordict)
        plan = self.planner(problem, state, warm_start=start, keys=keys)
        plan = plan.map(lambda value: value.reshape(batch + value.shape[1:]))
        tensordict.set(self.action_key, plan.action)
        for part in self.parts:
            tensordict.set(("plan", part), getattr(plan, part))
        if self.memory_key is not None:
            start = plan.shifted()
            # A plan that failed counts as none: the next one begins afresh.
            sound = plan.can_be_continued()[..., None, None]
            count = start.memory["plan_index"] * sound
            start = replace(start, memory={**start.memory, "plan_index": count})
            memory = _packed(start, batch)
            tensordict.set(("next", self.memory_key), memory)
        return tensordict

    def primer(self, observation: Tensor) -> TensorDictPrimer:
        """Return the transform by which an environment carries and resets the memory.

            env = TransformedEnv(env)
            env.append_transform(policy.primer(env.reset()["observation"]))

        Args:
            observation: One of the environment's, with its batch dimensions.

        Raises:
            ArgumentError: the module has no memory.
        """
        if self.memory_key is None:
            raise ArgumentError("primer: expected a memory_key, got None")
        with torch.no_grad():
            state = observation if self.encode is None else self.encode(observation)
            batch = state.shape[:-1]
            flat = state.reshape(-1, state.shape[-1])
            problem = self.problem.for_batch(batch)
            start = self._cold_start(problem, flat, self._keys(flat))
        start = start.map(lambda value: value.reshape(batch + value.shape[1:]))
        spec = _spec(_packed(start, batch))
        return TensorDictPrimer(Composite({self.memory_key: spec}, shape=batch))

    def _keys(self, state: Tensor) -> Tensor:
        """Return the key of each problem's noise, int64 `[B]`."""
        keys = torch.arange(len(state), device=state.device)
        if self.generator is None:
            return keys
        seed = torch.randint(
            2**62, (), generator=self.generator, device=self.generator.device
        )
        return fold(seed.to(state.device), keys)

    def _start(
        self,
        problem: PlanningProblem,
        state: Tensor,
        keys: Tensor,
        tensordict: TensorDictBase,
    ) -> Plan | None:
        """Return what the plans start from; where an episode begins, afresh."""
        if self.memory_key is None:
            return None
        memory = tensordict.get(self.memory_key, None)
        if memory is None:
            return None
        cold = self._cold_start(problem, state, keys)
        start = _unpacked(memory, cold)
        # What a primer writes has made no plans, as little as what `cold_start` gives.
        afresh = start.memory["plan_index"].flatten() == 0
        begins = tensordict.get("is_init", None)
        if begins is not None:
            afresh = afresh | begins.reshape(-1)
        return cold.where(afresh, start)

    def _cold_start(
        self, problem: PlanningProblem, state: Tensor, keys: Tensor
    ) -> Plan:
        noise = stream_keys(keys.shape, keys.device, keys=keys)
        request = PlanRequest(problem, state, None, keys=noise)
        return self.planner.cold_start(request).detach()


def _packed(plan: Plan, batch: torch.Size) -> TensorDict:
    """Return what a warm start needs of a plan."""
    memory = TensorDict(dict(plan.memory), batch_size=batch)
    parts = {"actions": plan.actions, "states": plan.states, "memory": memory}
    return TensorDict(parts, batch_size=batch)


def _unpacked(memory: TensorDictBase, like: Plan) -> Plan:
    """Return the plan `[B]` that was packed, of the same planner as `like`."""
    flat = memory.reshape(-1)
    kept = flat.get("memory").to_dict()
    if kept.keys() != like.memory.keys():
        raise ShapeError(
            f"plan_memory: expected the entries {sorted(like.memory)} of the planner, "
            f"got {sorted(kept)}"
        )
    return Plan(flat.get("actions"), flat.get("states"), like.cost, memory=kept)


def _spec(memory: TensorDictBase) -> Composite:
    """Return the specification of a packed plan."""
    specs = {
        name: _spec(value)
        if isinstance(value, TensorDictBase)
        else Unbounded(value.shape, dtype=value.dtype, device=value.device)
        for name, value in memory.items()
    }
    return Composite(specs, shape=memory.batch_size)
