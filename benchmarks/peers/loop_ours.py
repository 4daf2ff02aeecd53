"""diffplan in a control loop: any planner, on the library's own models."""

from collections.abc import Callable
from typing import Any

import torch
from _code import without_python
from _loop import Controller, Numbers, Task, serve
from _tensors import FLOAT, of_numbers
from torch import Tensor

import diffplan as dp
from diffplan.models import analytic
from diffplan.objectives import QuadraticCost, ResidualObjective

MODELS = {
    "pendulum": analytic.Pendulum,
    "cartpole": analytic.Cartpole,
    "point_mass": analytic.PointMass,
}


class Residuals(ResidualObjective):
    """The cost of `Task` as residuals, for planners that need them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.goal = torch.tensor(task.goal, dtype=FLOAT)
        self.root = torch.tensor(task.weight, dtype=FLOAT).sqrt()
        self.effort, self.terminal = task.effort**0.5, task.terminal**0.5

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return √w (x - goal) and √effort u."""
        return torch.cat((self.root * (state - self.goal), self.effort * action), -1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return √(terminal w) (x - goal)."""
        return self.terminal * self.root * (state - self.goal)


def quadratic(task: Task) -> QuadraticCost:
    """Return the cost of `Task` as matrices, but for a constant."""
    weight = torch.tensor(task.weight, dtype=FLOAT)
    linear = -weight * torch.tensor(task.goal, dtype=FLOAT)
    return QuadraticCost(
        weight.diag(),
        task.effort * torch.eye(task.width, dtype=FLOAT),
        state_linear=linear,
        final_cost=task.terminal * weight.diag(),
        final_linear=task.terminal * linear,
    )


def plant(task: Task) -> analytic.AnalyticDynamics:
    """Return diffplan's model of what is controlled."""
    constants = dict(task.constants)
    time_step = constants.pop("time_step")
    # As tensors, so that none is rounded to single precision.
    exact = {k: torch.tensor(v, dtype=FLOAT) for k, v in constants.items()}
    return MODELS[task.plant](time_step=time_step, **exact)


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Set a planner up.

    Args:
        task: What it is for.
        settings: Arguments of its constructor, with the "planner" itself, and whether
            it is "compiled", or "exported" as code without Python.
    """
    options = dict(settings)
    kind, compiled = getattr(dp, options.pop("planner")), options.pop("compiled", False)
    exported = options.pop("exported", False)
    planner = kind(task.horizon, gradient=dp.Detach(), **options)
    model = plant(task)
    needs_residuals = kind in (dp.ShootingGN, dp.LatCo)
    objective = Residuals(task) if needs_residuals else quadratic(task)
    bounds = torch.full((task.width,), task.limit, dtype=FLOAT)
    problem = dp.PlanningProblem(model, objective, dp.Box(-bounds, bounds))
    if compiled:
        planner.compile()
    if exported:
        return Controller(*of_code(planner, problem, task), of_numbers(model))
    plan: dp.Plan | None = None
    generator = torch.Generator().manual_seed(0)

    def act(state: Numbers) -> Numbers:
        nonlocal plan
        plan = planner(
            problem,
            torch.tensor(state, dtype=FLOAT),
            warm_start=None if plan is None else plan.shifted(),
            generator=generator,
            evaluate=kind is dp.LatCo,  # which begins at the states of the last plan
        )
        return plan.action.tolist()

    def reset() -> None:
        nonlocal plan
        plan = None

    return Controller(act, reset, of_numbers(model))


def of_code(
    planner: dp.Planner, problem: dp.PlanningProblem, task: Task
) -> tuple[Callable[[Numbers], Numbers], Callable[[], None]]:
    """Return how a planner acts and begins anew, as code without Python."""
    example = torch.tensor(task.starts[0], dtype=FLOAT)
    code, first = without_python(planner, problem, example, evaluate=False)
    start = first

    def act(state: Numbers) -> Numbers:
        nonlocal start
        plan, start = code(torch.tensor(state, dtype=FLOAT), start)
        return plan["actions"][0].tolist()

    def reset() -> None:
        nonlocal start
        start = first

    return act, reset


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(["diffplan", "torch"], build)
