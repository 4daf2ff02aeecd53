"""A planner without Python: one plan as a program of tensor operations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffplan.errors import ShapeError, UnsupportedProblemError
from diffplan.plan import Plan
from diffplan.planners._randomness import PLAN_INDEX

Start = dict[str, Any]
"""What a plan begins with: "actions" and "states", and the tensors of its "memory"."""

TOLD = ("actions", "states", "cost", "status", "iterations")
"""What is told of a plan."""


class ExportedPlanner(NamedTuple):
    """A planner for one problem and states of one shape, as a program.

    Attributes:
        program: `(state, start) → (plan, next start)`; the plan is a dictionary of
            "actions", "states", "cost", "status" and "iterations". For
            `torch.export.save`, or for `torch._inductor.aoti_compile_and_package`,
            which makes code of it that runs without Python.
        start: What the first plan begins with.
    """

    program: torch.export.ExportedProgram
    start: Start


def export(
    planner: Callable[..., Plan],
    first: Callable[[Tensor], Plan],
    state: Tensor,
    executed: int,
) -> ExportedPlanner:
    """Trace one plan.

    Args:
        planner: From a state and the argument `warm_start` to a plan.
        first: From a state to its cold start, with the memory of the planner's plans.
        state: An example, `[…, S]`.
        executed: By how many steps a plan is shifted for the next one.

    Raises:
        UnsupportedProblemError: a function looks at a number.
    """
    # Loaded by whoever exports: it takes as long to import as half of the library.
    from torch.fx.experimental.proxy_tensor import make_fx

    def step(state: Tensor, start: Start) -> tuple[dict[str, Tensor], Start]:
        cold, earlier = first(state), start["memory"][PLAN_INDEX][..., 0, 0] > 0
        warm_start = replace(cold, **start).where(earlier, cold)
        plan = planner(state, warm_start=warm_start)
        told = {name: getattr(plan, name) for name in TOLD}
        return told, _start(plan.shifted(executed))

    start = _start(first(state))
    try:
        graph = make_fx(step)(state, start)
    except (RuntimeError, ShapeError) as error:  # a user's function raises the second
        if "value out of a tracing tensor" not in str(error):
            raise
        raise UnsupportedProblemError(
            "export: expected dynamics and an objective that never look at a number of "
            "a tensor (by float(x), x.item() or if), and no engine that does, as that "
            "of Theseus: a program does the same with all numbers"
        ) from error
    program = torch.export.export(graph, (state, start), strict=False)
    return ExportedPlanner(program, start)


def _start(plan: Plan) -> Start:
    return {name: getattr(plan, name) for name in ("actions", "states", "memory")}
