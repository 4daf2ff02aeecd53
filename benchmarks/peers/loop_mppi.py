"""pytorch_mppi in a control loop: one iteration a command; it shifts its own plan."""

from typing import Any

import torch
from _loop import Controller, Numbers, Task, serve
from _tensors import FLOAT, of_numbers
from pytorch_mppi import MPPI
from torch import Tensor


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Set pytorch_mppi up; settings are "samples", "std" and "temperature"."""
    weight, goal = (torch.tensor(v, dtype=FLOAT) for v in (task.weight, task.goal))

    def model(state: Tensor, action: Tensor) -> Tensor:
        given = state.unbind(-1), action.unbind(-1)
        return torch.stack(task.following(torch, *given), dim=-1)

    def running_cost(state: Tensor, action: Tensor) -> Tensor:
        effort = task.effort * action.square().sum(dim=-1)
        return 0.5 * ((weight * (state - goal).square()).sum(dim=-1) + effort)

    def terminal_cost(states: Tensor, actions: Tensor) -> Tensor:
        del actions
        distance = (weight * (states[..., -1, :] - goal).square()).sum(dim=-1)
        # The running cost has counted the last state once: it comes on arrival.
        return 0.5 * (task.terminal - 1) * distance

    limit = torch.full((task.width,), task.limit, dtype=FLOAT)
    controller = MPPI(
        model,
        running_cost,
        task.size,
        settings["std"] ** 2 * torch.eye(task.width, dtype=FLOAT),
        num_samples=settings["samples"],
        horizon=task.horizon,
        terminal_state_cost=terminal_cost,
        lambda_=settings["temperature"],
        u_min=-limit,
        u_max=limit,
        U_init=torch.zeros(task.horizon, task.width, dtype=FLOAT),
    )
    torch.manual_seed(0)

    def act(state: Numbers) -> Numbers:
        return controller.command(torch.tensor(state, dtype=FLOAT)).tolist()

    def reset() -> None:
        controller.U = torch.zeros_like(controller.U)

    return Controller(act, reset, of_numbers(model))


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(["pytorch-mppi", "torch"], build)
