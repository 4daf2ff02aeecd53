"""pytorch_mppi: one iteration per command from the zero sequence."""

from typing import Any

import torch
from _problems import Problem
from _worker import Contender, serve
from pytorch_mppi import MPPI
from torch import Tensor


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Set pytorch_mppi up for one problem, or a batch of them."""
    batch, dtype = problem.state.shape[0], problem.state.dtype
    options: dict[str, Any] = {
        "num_samples": case["samples"],
        "horizon": problem.horizon,
        "lambda_": case["temperature"],
        "u_max": torch.full((problem.width,), problem.limit, dtype=dtype),
        "u_min": torch.full((problem.width,), -problem.limit, dtype=dtype),
    }
    sigma = case["std"] ** 2 * torch.eye(problem.width, dtype=dtype)
    given = (problem.dynamics, problem.running_cost, problem.size, sigma)
    if batch > 1:
        from pytorch_mppi import MPPI_Batched

        controller = MPPI_Batched(*given, num_envs=batch, **options)
        state = problem.state
    else:
        controller, state = MPPI(*given, **options), problem.state[0]
    if case["compiled"]:
        controller.compile()
    start = torch.zeros_like(controller.U)

    def solve() -> Tensor:
        # Every command starts from the same sequence, as every call of a planner does.
        controller.U = start
        controller.command(state, shift_nominal_trajectory=False)
        return controller.U

    torch.manual_seed(0)
    return Contender(solve, lambda found: found.reshape(batch, problem.horizon, -1))


if __name__ == "__main__":
    serve(["pytorch-mppi"], prepare)
