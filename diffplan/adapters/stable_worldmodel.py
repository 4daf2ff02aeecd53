"""Planners as solvers of stable-worldmodel, and its cost models as objectives.

A solver there is told action space, number of environments and horizon (`configure`),
and then asked for actions again and again (`solve`). What it plans with is a cost
model: `get_cost(info_dict, candidates)` returns what S action sequences `[B, S, H, A]`
cost in B situations, `[B, S]`. Every planner can be such a solver that asks for no
structure of objective or dynamics: those that sample, and those that descend the cost
where the model has a derivative.

Nothing of the package is imported: both sides only call each other's methods.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan._checks import require_count
from diffplan.adapters._cost_model import (
    CostModel,
    Infos,
    TrajectoryCost,
    leads,
    planning_problem,
    situations,
)
from diffplan.constraints._box import BoxLike
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.problem import Box

__all__ = ["CostModel", "PlannerSolver", "TrajectoryCost", "planning_problem"]


class PlannerSolver:
    """Any planner in the place of stable-worldmodel's `CEMSolver` and its siblings.

    It keeps the seed of its noise and nothing else: what a plan starts from is handed
    over by the policy (`init_action`). Equal solvers give equal plans, whatever
    `batch_size` is.

    Args:
        planner: A planner of the horizon that `configure` will ask for, or a function
            that makes one of a given horizon, such as `dp.CEM`.
        model: With `get_cost`. Where it has `get_action` too, that fills the part of
            the start that `init_action` does not have.
        action_space: Bounds of one action `[A]`, or of a whole block; None takes those
            of the environments. Where the policy rescales actions (`process["action"]`)
            those of the environments are in other units: say here what the model may
            be given. Infinite bounds are allowed.
        batch_size: Situations that are planned for at once, which bounds memory; None
            takes all.
        seed: Of the noise.

    Attributes:
        n_envs: Number of environments; None before `configure`, like those below.
        action_dim: A, times the number of actions in a block.
        horizon: T.

    Raises:
        ArgumentError: an argument is out of range.

    Example:
        >>> solver = PlannerSolver(dp.CEM, model)  # doctest: +SKIP
        >>> config = PlanConfig(horizon=5, receding_horizon=1)  # doctest: +SKIP
        >>> policy = WorldModelPolicy(solver, config)  # doctest: +SKIP
    """

    def __init__(
        self,
        planner: Planner | Callable[[int], Planner],
        model: CostModel,
        *,
        action_space: BoxLike | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.planner, self.model, self._given_space = planner, model, action_space
        if batch_size is not None:
            batch_size = require_count("batch_size", batch_size)
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self.n_envs: int | None = None
        self.action_dim: int | None = None
        self.horizon: int | None = None

    def configure(self, *, action_space: Any, n_envs: int, config: Any) -> None:
        """Take over what the policy knows of its environments.

        Args:
            action_space: A `gymnasium.spaces.Box`, of all environments `[B, A]` or of
                one.
            n_envs: How many there are.
            config: With `horizon`, `action_block`.

        Raises:
            TensorTypeError: the space is no box.
            ArgumentError: the planner has another horizon, or the environments have
                different bounds.
            ShapeError: the bounds that were given have another size.
        """
        space = action_space if self._given_space is None else self._given_space
        box = _box(space, action_space, getattr(config, "action_block", 1))
        planner = self.planner
        if not isinstance(planner, Planner):
            planner = planner(config.horizon)
        if planner.horizon != config.horizon:
            raise ArgumentError(
                f"planner: expected the configuration's horizon {config.horizon}, got "
                f"{planner.horizon}; a function such as dp.CEM makes one that fits"
            )
        self._box, self._planner = box, planner
        self.n_envs, self.action_dim = n_envs, box.dim
        self.horizon = config.horizon

    def solve(
        self, info_dict: Infos, init_action: Tensor | None = None
    ) -> dict[str, Any]:
        """Plan for each situation: the same as calling the solver."""
        return self(info_dict, init_action)

    @torch.no_grad()
    def __call__(
        self, info_dict: Infos, init_action: Tensor | None = None
    ) -> dict[str, Any]:
        """Plan for each situation.

        Args:
            info_dict: Of B situations; of all environments where nothing in it says B.
            init_action: Where planning starts `[B, t, A]`, t ≤ T. The rest comes from
                the model's `get_action`, or is zero; None is no start at all, unless
                there is a `get_action`.

        Returns:
            `actions` `[B, T, A]` and `status` `[B]` (see `Plan.status`) on the CPU, and
            `costs`, B numbers.

        Raises:
            ArgumentError: `configure` was not called.
            ShapeError: the start or the infos do not fit.
        """
        if self.n_envs is None:
            raise ArgumentError("solve: call configure first")
        batch = situations(info_dict, None, self.n_envs)
        start = self._start(info_dict, init_action, batch)
        seed = int(torch.randint(2**62, (), generator=self._generator))
        size = batch if self.batch_size is None else self.batch_size
        plans = [
            self._plan(info_dict, start, seed, range(batch)[first : first + size])
            for first in range(0, max(batch, 1), max(size, 1))
        ]
        return {
            "actions": torch.cat([plan.actions for plan in plans]).cpu(),
            "status": torch.cat([plan.status for plan in plans]).cpu(),
            "costs": torch.cat([plan.cost for plan in plans]).tolist(),
        }

    def _plan(self, infos: Infos, start: Tensor | None, seed: int, rows: range) -> Plan:
        batch = situations(infos, None, self.n_envs)
        part = {
            name: value[rows.start : rows.stop] if leads(value, batch) else value
            for name, value in infos.items()
        }
        problem, state = planning_problem(self.model, part, self._box, len(rows))
        warm = None
        if start is not None:
            actions = start[rows.start : rows.stop].to(state)
            states = state.unsqueeze(1).expand(-1, actions.shape[1] + 1, -1)
            warm = Plan(actions, states, torch.zeros_like(state[:, 0]))
        return self._planner(
            problem,
            state,
            warm_start=warm,
            generator=torch.Generator().manual_seed(seed),
            keys=torch.arange(rows.start, rows.stop, device=state.device),
        )

    def _start(
        self, infos: Infos, init_action: Tensor | None, batch: int
    ) -> Tensor | None:
        """Return the start of all plans `[B, T, A]`, or None."""
        horizon, width = self._planner.horizon, self._box.dim
        actor = getattr(self.model, "get_action", None)
        if init_action is None:
            if actor is None:
                return None
            given = 0
        else:
            given = init_action.shape[1] if init_action.ndim == 3 else horizon + 1
            if init_action.shape != (batch, given, width) or given > horizon:
                raise ShapeError(
                    f"init_action: expected [{batch}, t, {width}] with t up to "
                    f"{horizon}, got {list(init_action.shape)}"
                )
        rest = horizon - given
        if rest == 0:
            return init_action
        if actor is None:
            tail = torch.zeros(batch, rest, width)
        else:
            tail = actor(dict(infos), horizon=rest, prefix_actions=init_action)
            # A single action comes without a dimension of time.
            tail = tail.reshape(batch, rest, width)
        if init_action is None:
            return tail
        return torch.cat([init_action.to(tail), tail], dim=1)


def _box(space: Any, environments: Any, block: int) -> Box:
    """Return the bounds of a block of actions.

    Args:
        space: Where the bounds are taken from.
        environments: Their action space, `[B, A]` of all or `[A]` of one.
        block: How many actions are one.
    """
    if not (hasattr(environments, "low") and hasattr(environments, "shape")):
        raise TensorTypeError(
            "action_space: expected a gymnasium.spaces.Box, got "
            f"{type(environments).__name__}"
        )
    shape = tuple(environments.shape)
    of_all = len(shape) > 1
    width = int(np.prod(shape[1:] if of_all else shape))
    bounds = []
    for name in ("low", "high"):
        value = np.asarray(getattr(space, name), np.float64)
        if space is environments and of_all:
            if (value != value[:1]).any():
                raise ArgumentError(
                    f"action_space: expected one {name} for all environments, got "
                    "several; give PlannerSolver an action_space"
                )
            value = value[0]
        value = value.reshape(-1)
        bounds.append(
            torch.as_tensor(np.tile(value, block if len(value) == width else 1))
        )
    box = Box(*bounds)
    if box.dim != width * block:
        raise ShapeError(
            f"action_space: expected bounds [{width}] of an action, or "
            f"[{width * block}] of a block of {block}, got [{box.dim}]"
        )
    return box
