"""Theseus' own implicit mode on the problem of `implicit_gradient.py`.

With our block-tridiagonal solver plugged in, which changes its speed and nothing else.
"""

import time
from typing import Any

import theseus as th
import torch
from torch import Tensor

import diffplan as dp
from diffplan.solvers.theseus_chain import (
    BlockTridiagonalLinearization,
    BlockTridiagonalSolver,
)


def _objective(problem: Any, multiplier: float, effort: float) -> Any:
    """Return Theseus' objective, with a cost for each step and kind of residual."""
    model, horizon = problem.model, problem.horizon
    size, width, dtype = model.state_dim, problem.weights.shape[-1], torch.float64
    given = th.Vector(tensor=problem.state.clone(), name="x0")
    tilt = th.Vector(tensor=torch.zeros(1, size, dtype=dtype), name="tilt")
    states = [th.Vector(size, name=f"x{t + 1}", dtype=dtype) for t in range(horizon)]
    actions = [th.Vector(width, name=f"u{t}", dtype=dtype) for t in range(horizon)]
    objective = th.Objective(dtype=dtype)

    def add(name: str, function: Any, weight: float, dim: int, *variables: Any) -> None:
        optim, aux = variables
        scale = th.ScaleCostWeight(torch.tensor([[weight]], dtype=dtype))
        cost = th.AutoDiffCostFunction(
            *(optim, function, dim),
            cost_weight=scale,
            aux_vars=aux,
            name=name,
            autograd_mode="vmap",
        )
        objective.add(cost)

    def first(optim_vars: tuple, aux_vars: tuple) -> Tensor:
        action, following = (variable.tensor for variable in optim_vars)
        return following - model.step(aux_vars[0].tensor, action)

    def dynamics(optim_vars: tuple, aux_vars: tuple) -> Tensor:  # noqa: ARG001
        before, action, following = (variable.tensor for variable in optim_vars)
        return following - model.step(before, action)

    def limit(optim_vars: tuple, aux_vars: tuple) -> Tensor:  # noqa: ARG001
        action = optim_vars[0].tensor
        return action - action.clamp(-1, 1)

    def reward(optim_vars: tuple, aux_vars: tuple) -> Tensor:
        state = optim_vars[0].tensor
        value = model.reward(state) + (state * aux_vars[0].tensor).sum(-1)
        return torch.nn.functional.softplus(-value).unsqueeze(-1)

    def penalty(optim_vars: tuple, aux_vars: tuple) -> Tensor:  # noqa: ARG001
        return optim_vars[0].tensor

    root = multiplier**0.5
    add("dynamics0", first, root, size, [actions[0], states[0]], [given])
    for t in range(1, horizon):
        chained = [states[t - 1], actions[t], states[t]]
        add(f"dynamics{t}", dynamics, root, size, chained, [])
    for t in range(horizon):
        add(f"limit{t}", limit, root, width, [actions[t]], [])
        add(f"penalty{t}", penalty, effort**0.5, width, [actions[t]], [])
        add(f"reward{t}", reward, 1.0, 1, [states[t]], [tilt])
    return objective


def theseus_implicit(
    problem: Any,
    base: dp.Plan,
    multiplier: float,
    effort: float,
    difference: dict[str, float],
) -> dict[str, object]:
    """Differentiate the same minimum by `backward_mode="implicit"`.

    Args:
        problem: Of the benchmark.
        base: The minimum, where Theseus starts.
        multiplier: Weight of the constraints.
        effort: Weight of the action penalty.
        difference: Directional derivatives by finite differences.
    """
    model, horizon = problem.model, problem.horizon
    optimizer = th.LevenbergMarquardt(
        _objective(problem, multiplier, effort),
        max_iterations=2,
        linear_solver_cls=BlockTridiagonalSolver,
        linearization_cls=BlockTridiagonalLinearization,
    )
    layer = th.TheseusLayer(optimizer)
    values: dict[str, Tensor] = {}
    for t in range(horizon):
        values[f"x{t + 1}"] = base.diagnostics["planned_states"][:, t].clone()
        values[f"u{t}"] = base.diagnostics["raw_actions"][:, t].clone()
    leaves = {
        "state": problem.state.clone().requires_grad_(),
        "reward": torch.zeros(
            1, model.state_dim, dtype=torch.float64, requires_grad=True
        ),
    }
    found, _ = layer.forward(
        {**values, "x0": leaves["state"], "tilt": leaves["reward"]},
        optimizer_kwargs={"backward_mode": "implicit", "damping": 0.0},
    )
    planned = torch.stack([found[f"u{t}"] for t in range(horizon)], dim=1)
    started = time.perf_counter()
    gradients = torch.autograd.grad(
        (problem.weights * planned).sum(), list(leaves.values())
    )
    seconds = time.perf_counter() - started
    moved = (planned.detach() - base.diagnostics["raw_actions"]).abs().max()
    layer_slope = {
        name: float((gradient * problem.directions[name]).sum())
        for name, gradient in zip(leaves, gradients, strict=True)
    }
    return {
        "backward_seconds": seconds,
        "moved_from_the_minimum": float(moved),
        "directional": {
            name: {
                "theseus": slope,
                "relative_error": abs(slope - difference[name]) / abs(difference[name]),
            }
            for name, slope in layer_slope.items()
        },
    }
