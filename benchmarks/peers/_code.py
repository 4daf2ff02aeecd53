"""Our planners as code that runs without Python."""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import diffplan as dp


def without_python(
    planner: dp.Planner,
    problem: dp.PlanningProblem,
    state: Tensor,
    *,
    evaluate: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """Return a planner as code, `(state, start) → (plan, start)`, and its first start.

    Args:
        planner: The planner.
        problem: What it is for.
        state: An example.
        evaluate: Whether plans tell their states and cost.
    """
    program, start = planner.export(problem, state, evaluate=evaluate)
    with TemporaryDirectory() as folder:
        path = f"{folder}/planner.pt2"
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        return torch._inductor.aoti_load_package(path), start
