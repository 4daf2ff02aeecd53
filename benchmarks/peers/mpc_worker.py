"""mpc.pytorch's box-constrained iLQR (Amos et al. 2018), version 0.0.6 of `mpc`.

It has T controls for T states, the last of which has no effect: a horizon of T actions
is its T + 1. "analytic" hands it the Jacobians, its fast path; "autodiff" is its
default for a module without them. Its own convergence test may end it early.
"""

from typing import Any

import torch
from _problems import Problem
from _worker import Contender, serve
from mpc import mpc
from torch import Tensor, nn


class WithJacobians(nn.Module):
    """The dynamics with the method that mpc.pytorch asks for Jacobians."""

    def __init__(self, dynamics: nn.Module) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state."""
        return self.dynamics(state, action)

    def grad_input(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Jacobians by state and action."""
        return self.dynamics.jacobians(state, action)


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Set mpc.pytorch up."""
    batch, steps = problem.state.shape[0], problem.horizon + 1
    effort = problem.effort * torch.ones_like(problem.goal[: problem.width])
    quadratic = torch.diag(torch.cat([problem.weight, effort]))
    linear = torch.cat([-problem.weight * problem.goal, torch.zeros_like(effort)])
    cost = mpc.QuadCost(
        quadratic.expand(steps, batch, -1, -1), linear.expand(steps, batch, -1)
    )
    limit = problem.limit
    controller = mpc.MPC(
        problem.size,
        problem.width,
        steps,
        u_lower=None if limit is None else -limit,
        u_upper=limit,
        lqr_iter=case["iterations"],
        grad_method=(
            mpc.GradMethods.ANALYTIC
            if case["jacobians"] == "analytic"
            else mpc.GradMethods.AUTO_DIFF
        ),
        verbose=-1,
        exit_unconverged=False,
        detach_unconverged=False,
        n_batch=batch,
    )

    def dynamics() -> Any:
        if case["problem"] != "linear":
            return WithJacobians(problem.dynamics)
        matrices = [problem.dynamics.state_matrix, problem.dynamics.action_matrix]
        transition = torch.cat(matrices, dim=-1)
        return mpc.LinDx(transition.expand(steps - 1, batch, -1, -1))

    def solve() -> Tensor:
        _, actions, _ = controller(problem.state, cost, dynamics())
        return actions[:-1].transpose(0, 1)

    return Contender(solve)


if __name__ == "__main__":
    serve(["mpc", "numpy"], prepare)
