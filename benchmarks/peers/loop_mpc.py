"""mpc.pytorch in a control loop: its box-constrained iLQR, with `u_init` shifted.

It has T controls for T states, the last of which has no effect: a horizon of T actions
is its T + 1. Jacobians come from `torch.func` for all steps at once, several times
faster than its own automatic ones.
"""

from typing import Any

import torch
from _loop import Controller, Numbers, Task, serve
from _tensors import FLOAT, of_numbers
from mpc import mpc
from torch import Tensor, nn


class Model(nn.Module):
    """The equations of motion, with the method that mpc.pytorch asks for Jacobians."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.jacobians = torch.func.vmap(torch.func.jacfwd(self, argnums=(0, 1)))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state."""
        given = state.unbind(-1), action.unbind(-1)
        return torch.stack(self.task.following(torch, *given), dim=-1)

    def grad_input(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Jacobians by state and action."""
        return self.jacobians(state, action)


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Set mpc.pytorch up; settings are "iterations", at most."""
    steps, model = task.horizon + 1, Model(task)
    weight = torch.tensor(task.weight, dtype=FLOAT)
    effort = task.effort * torch.ones(task.width, dtype=FLOAT)
    quadratic = torch.cat([weight, effort]).diag().repeat(steps, 1, 1, 1)
    slope = -weight * torch.tensor(task.goal, dtype=FLOAT)
    linear = torch.cat([slope, 0 * effort]).repeat(steps, 1, 1)
    last = slice(0, task.size)
    quadratic[-1, 0, last, last] *= task.terminal
    linear[-1, 0, last] *= task.terminal
    cost = mpc.QuadCost(quadratic, linear)
    plan: Tensor | None = None

    def act(state: Numbers) -> Numbers:
        nonlocal plan
        controller = mpc.MPC(
            task.size,
            task.width,
            steps,
            u_lower=-task.limit,
            u_upper=task.limit,
            u_init=plan,
            lqr_iter=settings["iterations"],
            grad_method=mpc.GradMethods.ANALYTIC,
            verbose=-1,
            exit_unconverged=False,
            detach_unconverged=False,
            backprop=False,
            n_batch=1,
        )
        given = torch.tensor([state], dtype=FLOAT)
        with torch.no_grad():
            _, actions, _ = controller(given, cost, model)
        # Of T + 1 controls the last has no effect; the one before is repeated.
        plan = torch.cat([actions[1:-1], actions[-2:-1], actions[-2:-1]])
        return actions[0, 0].tolist()

    def reset() -> None:
        nonlocal plan
        plan = None

    return Controller(act, reset, of_numbers(model))


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(["mpc", "numpy", "torch"], build)
