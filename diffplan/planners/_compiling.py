"""What of a planner `torch.compile` takes: all between its checks and its answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import require_count
from diffplan._kinds import check_construction
from diffplan.functional._isolation import may_look
from diffplan.functional._rollout import inside_transform
from diffplan.plan import Plan
from diffplan.planners._arguments import moved_to
from diffplan.planners._cuda_graph import CapturedCore
from diffplan.planners._exported import ExportedPlanner, export
from diffplan.planners._randomness import PLAN_INDEX, NoiseSource
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem


class CompilableCore(NoiseSource, ABC):
    """A module whose method `_plan` can be compiled, once for a whole loop of plans.

    A receding-horizon loop begins without a warm start and goes on with one: two kinds
    of input, each of which would be compiled. So a compiled planner always has a plan
    to start from, at first that of `cold_start`, whose count of plans is zero. What is
    done in the first plan only is decided by `starts_afresh`, a mask.
    """

    _compiled: Callable[..., Plan] | None = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Let every planner refuse options of another kind than it annotates."""
        super().__init_subclass__(**arguments)
        check_construction(cls)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile all between the checks at the border and the plan.

        The first call compiles; the next one of a receding-horizon loop, which has a
        warm start, runs the same code. Copies and pickles are not compiled.

        Args:
            args: As for `torch.compile`.
            kwargs: As for `torch.compile`.
        """
        self._compiled = torch.compile(self._plan, *args, **kwargs)

    def capture(self) -> None:
        """Make plans on a GPU one CUDA graph each, for acting under `torch.no_grad()`.

        The first plan is recorded, in seconds whatever the horizon and the iterations;
        later ones of the same shapes replay it. With gradients enabled, or on a CPU,
        the planner plans as before. Weights that are trained in place are seen;
        tensors, numbers and functions that are put in the place of others are not:
        call `capture` again after that, or after moving the model. Copies and pickles
        are not captured.
        """
        self._compiled = CapturedCore(self._plan)

    @torch.no_grad()
    def export(
        self,
        problem: PlanningProblem,
        state: Tensor,
        *,
        executed: int = 1,
        evaluate: bool = True,
    ) -> ExportedPlanner:
        """Return this planner as a program for one problem, free of Python.

        Called in a loop, each time with the start that the last call returned, it gives
        the plans of `plan = planner(problem, state, warm_start=plan.shifted())`,
        without derivatives. Weights, goals and bounds are those of now, all iterations
        are run, and what a planner would leave out after a look at a number is done.

        Args:
            problem: The problem.
            state: An example of the states `[…, S]`: shape, dtype and device stay.
            executed: How many actions will be executed between two plans, at least 0.
            evaluate: See `forward`.

        Raises:
            UnsupportedProblemError: dynamics or objective look at a number from the
                host, or the engine does (that of Theseus).
            ArgumentError: `executed` is no whole number of at least 0.
        """
        require_count("executed", executed, 0)
        # What is wrong is said here: what is traced has no numbers to look at.
        plan = partial(self, problem, evaluate=evaluate)
        plan(state)

        def first(state: Tensor) -> Plan:
            request = self._request(PlanRequest(problem, state), None)
            moved = moved_to(request.problem, request.state)
            start, lead = replace(request, problem=moved), state.shape[:-1]
            flat = self._starting_plan(start)
            return flat.map(lambda value: value.reshape(lead + value.shape[1:]))

        return export(plan, first, state, executed)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was compiled, as `nn.Module` does."""
        return {**super().__getstate__(), "_compiled": None}

    @abstractmethod
    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the plan that a warm start from is the same as starting afresh.

        Its memory has the entries of the planner's plans.

        Args:
            request: With noise, or with the keys that it is to be drawn from.
        """

    @abstractmethod
    def _request(
        self, given: PlanRequest, generator: torch.Generator | None
    ) -> PlanRequest: ...

    @abstractmethod
    def _plan(self, request: PlanRequest) -> Plan: ...

    def _run(self, request: PlanRequest) -> Plan:
        """Call `_plan`, or what it was compiled to."""
        if self._compiled is None or inside_transform():
            return self._plan(request)
        return self._compiled(replace(request, warm_start=self._starting_plan(request)))

    def _starting_plan(self, request: PlanRequest) -> Plan:
        """Return the plan to start from, of one kind at every call."""
        warm_start = request.warm_start
        if warm_start is None:
            warm_start = self.cold_start(request)
        # Another layout, order or set of entries would be compiled anew.
        counted = {PLAN_INDEX: torch.ones_like(warm_start.status)[:, None, None]}
        memory = dict(sorted((counted | warm_start.memory).items()))
        start = replace(warm_start, diagnostics={}, memory=memory)
        return start.map(Tensor.contiguous)


def start_plan(
    state: Tensor, actions: Tensor, memory: Mapping[str, Tensor] | None = None
) -> Plan:
    """Return a plan to start from, for `cold_start`; it stays at `state` `[B, S]`."""
    states = state.unsqueeze(1).expand(-1, actions.shape[1] + 1, -1)
    cost = torch.zeros_like(state[:, 0])
    none = torch.zeros_like(cost, dtype=torch.int64)[:, None, None]
    return Plan(actions, states, cost, memory={PLAN_INDEX: none, **(memory or {})})


def starts_afresh(warm_start: Plan | None, state: Tensor) -> Tensor:
    """Return where planning starts afresh, `[B]` bool.

    Without a warm start, or from one that no planner has made, see `start_plan`.

    Args:
        warm_start: With one batch dimension, or None.
        state: `[B, S]`.
    """
    afresh = torch.full_like(state[:, 0], warm_start is None, dtype=torch.bool)
    if warm_start is None or PLAN_INDEX not in warm_start.memory:
        return afresh
    return warm_start.memory[PLAN_INDEX][:, 0, 0] == 0


def any_afresh(afresh: Tensor) -> bool:
    """Return whether an element may start afresh; only looked at where that is free.

    Args:
        afresh: `[B]` bool, of `starts_afresh`.
    """
    return not may_look(afresh) or bool(afresh.any())


def known_before(warm_start: Plan, found: Tensor, start: Tensor) -> Tensor:
    """Return the actions that an answer is compared with, for `Solution.known`.

    Args:
        warm_start: With one batch dimension.
        found: The answer `[B, T, A]`, to compare itself with where it starts afresh.
        start: What it started from `[B, T, A]`.
    """
    afresh = starts_afresh(warm_start, start[:, 0])
    return torch.where(afresh[:, None, None], found, start)
