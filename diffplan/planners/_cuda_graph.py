"""The core of a planner as CUDA graphs: recorded once, replayed in each plan."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffplan.constraints._box import Box
from diffplan.plan import Plan
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

ResultT = TypeVar("ResultT")

_KEPT = 8
"""Graphs of one planner: batches of another size are recorded beside each other."""

_PASSING = ("action_space", "differentiated", "_behind", "_passed")
"""Of a problem: its box is copied to the graph's, and what it has been checked for."""


class CapturedCore:
    """Plans by replaying a CUDA graph of the planner's core, where nothing is learned.

    A planner at small batches waits for kernels to be launched, some hundred thousand
    of them; a replay launches them all at once. With gradients enabled, and on a CPU,
    the core runs as it is.

    Args:
        core: `Planner._plan`.
    """

    def __init__(self, core: Callable[[PlanRequest], Plan]) -> None:
        self.core = core
        self._recordings: dict[tuple[Any, Any], _Recording] = {}

    def __call__(self, request: PlanRequest) -> Plan:
        """Return the plan; a request always has a warm start, see `CompilableCore`."""
        if torch.is_grad_enabled() or not request.state.is_cuda:
            return self.core(request)
        shape = _shape(request)
        # What the identities belong to is alive, since its recording holds it.
        held = (i for i in vars(request.problem).items() if i[0] not in _PASSING)
        kind = (tuple((name, id(value)) for name, value in held), shape)
        if kind not in self._recordings:
            if any(shape == seen for _, seen in self._recordings):
                _warn_of_another(request.problem)
            if len(self._recordings) == _KEPT:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[kind] = _Recording(self.core, request)
        return self._recordings[kind](request)


def recorded(run: Callable[[], ResultT]) -> tuple[torch.cuda.CUDAGraph, ResultT]:
    """Return a graph of what a function does, and its result, which replays write to.

    Args:
        run: Without a look at a number from the host.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Libraries make their workspaces at the first call, which no graph may do.
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


class _Recording:
    """One graph, with the memory that it reads from and writes to."""

    def __init__(
        self, core: Callable[[PlanRequest], Plan], request: PlanRequest
    ) -> None:
        problem, box = copy.copy(request.problem), request.problem.action_space
        problem.action_space = Box(box.low.clone(), box.high.clone())
        self.request = replace(request.map(torch.clone), problem=problem)
        self.graph, self.plan = recorded(partial(core, self.request))

    def __call__(self, request: PlanRequest) -> Plan:
        for kept, given in zip(_tensors(self.request), _tensors(request), strict=True):
            kept.copy_(given)
        self.graph.replay()
        return self.plan.map(torch.clone)  # the next replay overwrites its own


def _tensors(request: PlanRequest) -> list[Tensor]:
    box = request.problem.action_space
    found = [box.low, box.high]

    def keep(value: Tensor) -> Tensor:
        found.append(value)
        return value

    request.map(keep)
    return found


def _shape(request: PlanRequest) -> tuple[Any, ...]:
    """Return what a graph was recorded for, but for the problem."""
    start = request.warm_start
    return (
        request.evaluate,
        request.noise is None,
        None if start is None else tuple(start.memory),
        *((each.shape, each.dtype, each.device) for each in _tensors(request)),
    )


def _warn_of_another(problem: PlanningProblem) -> None:
    warnings.warn(
        "capture: this plan is recorded as another CUDA graph, because its problem is "
        f"another {type(problem).__name__} than before. Keep one, and change its "
        "tensors in place",
        stacklevel=2,
    )
