"""Model-predictive control with a world model, for many environments at once.

At every observation the agent updates its belief; when the cached actions of an
environment are used up, it plans anew for that environment only.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from diffplan._checks import describe
from diffplan.agents._base import EXPLORATION, NO_PLAN, PLANNING, POSTERIOR, AgentState
from diffplan.agents._filtering import Filtering
from diffplan.agents.exploration import Exploration
from diffplan.agents.filter import Filter
from diffplan.capabilities import Stepping
from diffplan.constraints._box import as_box, require_vector
from diffplan.errors import ArgumentError, TensorTypeError
from diffplan.functional._random import fold
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.problem import Box, Dynamics, Objective, PlanningProblem


class PlanningAgent(Filtering, nn.Module):
    """Filters with a world model, plans with any planner, executes piece by piece.

    Between two plans the cached actions are executed open loop, yet every observation
    still updates the planning state (LatCo, released code: 30 actions per plan on
    Meta-World, 6 in the DeepMind control suite; PlaNet: 1). Exploration noise is
    added to each executed action, and the filter sees the noisy action.

    The agent holds no state of its own; see `AgentState`. It keeps references to its
    parts: training the model in place trains the agent. As a module it moves, saves and
    copies model, planner and objective together. No graph is built.

    Args:
        model: Its `step` is what is planned with; its `observe` and `initial_state`,
            or its `encode`, filter (see `Filter`). Nothing else is asked of it.
        planner: Any planner that takes such a problem.
        objective: Of plans, usually built on `model.reward`.
        action_space: Every action lies in it. Its bounds are those of the environment,
            `[A]`: those of single steps are for a loop of your own, which moves them.
        replan_every: Actions executed per plan, 1 … `planner.horizon`.
        warm_start: Whether a plan starts from the shifted previous one. An
            environment that was reset starts afresh.
        exploration: Applied when `act(..., explore=True)`; None adds nothing.
        posterior: Filter with the posterior's "mean", or with a "sample" of it (the
            released LatCo while training); see `Filter`.
        problem: Poses what is planned: `(model.step, objective, action_space)` → a
            `PlanningProblem`, by default that class. For particles of the model's
            `predict`, `functools.partial(dp.StochasticProblem, num_particles=20)`, with
            a `risk` if you like; `partial(dp.PlanningProblem, constraints=[…])` …

    Raises:
        ArgumentError: `replan_every` is outside its range, or `posterior` unknown.
        TensorTypeError: the model lacks one of these methods, or `problem` makes none.
        UnsupportedProblemError: the model cannot pose the problem, as particles without
            `predict`; or the planner does not take it.
        ShapeError: bounds of the action space depend on the step or the problem.

    Example:
        >>> agent = PlanningAgent(model, planner, NegativeReturn(model.reward), box)
        ... # doctest: +SKIP
        >>> agent_state = agent.initial_state(batch_size=8, seed=0)  # doctest: +SKIP
        >>> action, agent_state = agent.act(observation, agent_state)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Stepping,
        planner: Planner,
        objective: Objective,
        action_space: Box,
        *,
        replan_every: int = 1,
        warm_start: bool = True,
        exploration: Exploration | None = None,
        posterior: Literal["mean", "sample"] = "mean",
        problem: Callable[[Dynamics, Objective, Box], PlanningProblem] = (
            PlanningProblem
        ),
    ) -> None:
        if not 1 <= replan_every <= planner.horizon:
            raise ArgumentError(
                f"replan_every: expected 1 … {planner.horizon} (planner.horizon), got "
                f"{replan_every}"
            )
        super().__init__()
        action_space = require_vector(
            "action_space", as_box("action_space", action_space)
        )
        self.filter = Filter(model, posterior)
        self.model = model
        self.planner = planner
        self.objective = objective  # So that it is moved and saved with the others.
        self.problem = problem(model.step, objective, action_space)
        if not isinstance(self.problem, PlanningProblem):
            raise TensorTypeError(
                "problem: expected a function that returns a PlanningProblem, got "
                f"{describe(self.problem)} from {describe(problem)}"
            )
        planner.refuse(self.problem)
        self.replan_every = replan_every
        self.warm_start = warm_start
        self.exploration = exploration

    @property
    def action_space(self) -> Box:
        """Return the box that every action lies in."""
        return self.problem.action_space

    @torch.no_grad()
    def act(
        self, observation: Tensor, agent_state: AgentState, *, explore: bool = False
    ) -> tuple[Tensor, AgentState]:
        """Filter the newest observations and choose actions.

        Args:
            observation: `[B, …]`, on the model's device.
            agent_state: The agent's state; it is not changed.
            explore: Whether to add exploration noise.

        Returns:
            Actions `[B, A]`, and the agent's state for the next call.

        Raises:
            ShapeError: the batch sizes differ, or the model's state is not flat.
        """
        keys = agent_state.noise_keys()
        state = self.filter(observation, agent_state, fold(keys, POSTERIOR))
        plan, age = self._renew(state, agent_state, fold(keys, PLANNING))
        action = plan.actions[torch.arange(len(age), device=age.device), age]
        if explore and self.exploration is not None:
            key = fold(keys, EXPLORATION)
            action = self.exploration(action, self.action_space, key)
        agent_state = replace(
            agent_state,
            state=state,
            action=action,
            plan=plan,
            age=age + 1,
            decision=agent_state.decision + 1,
        )
        return action, agent_state

    def _renew(
        self, state: Tensor, agent_state: AgentState, keys: Tensor
    ) -> tuple[Plan, Tensor]:
        """Plan for the environments whose cache is empty; return all plans and ages.

        Fresh and continued environments are planned for separately, since a planner
        warm-starts a batch as a whole or not at all.
        """
        plan, age = agent_state.plan, agent_state.age
        due = (age == NO_PLAN) | (age >= self.replan_every)
        warm = torch.zeros_like(due)
        if plan is not None and self.warm_start:
            warm = due & (age != NO_PLAN) & plan.can_be_continued()
        for group, start in ((due & ~warm, None), (warm, plan)):
            if group.any():
                fresh = self._plan(state, group, start, keys)
                plan = _merge(plan, fresh, group)
        assert plan is not None  # Without one, every environment was due.
        return plan, age.masked_fill(due, 0)

    def _plan(
        self,
        state: Tensor,
        group: Tensor,
        start: Plan | None,
        keys: Tensor,
    ) -> Plan:
        if start is not None:
            start = start[group].shifted(self.replan_every)
        plan = self.planner(
            self.problem, state[group], warm_start=start, keys=keys[group]
        )
        # Diagnostics are never needed to go on, and their length may change.
        return replace(plan.detach(), diagnostics={})


def _merge(plan: Plan | None, fresh: Plan, group: Tensor) -> Plan:
    """Return `fresh`, which holds only the environments of `group`, merged in `plan`.

    Args:
        plan: With B environments, or None if the group is all of them.
        fresh: With as many environments as `group` has.
        group: `[B]` booleans.
    """
    if plan is None or bool(group.all()):
        return fresh
    # Spread the fresh plans over B places; places outside the group hold any of them.
    place = (group.cumsum(0) - 1).clamp(min=0)
    return fresh[place].where(group, plan)
