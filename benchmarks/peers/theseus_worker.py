"""Theseus: Levenberg-Marquardt on the actions, rolled out (single shooting).

This is how planners on Theseus are usually written: one variable with all actions, one
autodiff cost, dense Cholesky.
"""

import warnings
from typing import Any

import theseus as th
import torch
from _problems import Problem
from _worker import Contender, serve
from torch import Tensor

warnings.filterwarnings("ignore")


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Set Theseus up."""
    batch, dtype = problem.state.shape[0], problem.state.dtype
    steps, width = problem.horizon, problem.width
    root = problem.weight.sqrt()
    dynamics = problem.dynamics

    def residual(optim_vars: tuple[Any, ...], aux_vars: tuple[Any, ...]) -> Tensor:
        actions = optim_vars[0].tensor.unflatten(-1, (steps, width))
        state, parts = aux_vars[0].tensor, [problem.effort**0.5 * optim_vars[0].tensor]
        for step in range(steps):
            parts.append(root * (state - problem.goal))
            state = dynamics(state, actions[..., step, :])
        return torch.cat([*parts, root * (state - problem.goal)], dim=-1)

    objective = th.Objective(dtype=dtype)
    variable = th.Vector(steps * width, name="actions", dtype=dtype)
    given = th.Vector(problem.size, name="start", dtype=dtype)
    rows = steps * width + (steps + 1) * problem.size
    objective.add(
        th.AutoDiffCostFunction(
            [variable],
            residual,
            rows,
            cost_weight=th.ScaleCostWeight(torch.ones(1, 1, dtype=dtype)),
            aux_vars=[given],
            autograd_mode="vmap",
        )
    )
    optimizer = th.LevenbergMarquardt(
        objective,
        max_iterations=case["iterations"],
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
    )
    layer = th.TheseusLayer(optimizer)
    zeros = torch.zeros(batch, steps * width, dtype=dtype)

    def solve() -> Tensor:
        inputs = {"actions": zeros, "start": problem.state}
        options = {"damping": 1e-6, "backward_mode": "unroll"}
        with torch.set_grad_enabled(problem.state.requires_grad):
            found, _ = layer.forward(inputs, optimizer_kwargs=options)
        return found["actions"].unflatten(-1, (steps, width))

    return Contender(solve)


if __name__ == "__main__":
    serve(["theseus-ai"], prepare)
