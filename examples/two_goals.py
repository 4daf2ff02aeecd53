"""Two goals, a near small one and a far large one: where shooting gets stuck.

A point moves in the plane by at most 0.12 a step. A small reward lies near the start,
a large one far away, and between them the reward is flat. Gradient shooting follows
the gradient it sees, that of the small goal; LatCo places states on the large goal
first and then makes them feasible. Run `python examples/two_goals.py`.
"""

import torch
from torch import Tensor

import diffplan as dp

NEAR, FAR = torch.tensor([0.5, 0.0]), torch.tensor([-1.3, 0.6])


def reward(state: Tensor) -> Tensor:
    """Return a bump of height 1 at the near goal and of height 6 at the far one."""
    near = torch.exp(-(state - NEAR).square().sum(-1) / (2 * 0.25**2))
    far = torch.exp(-(state - FAR).square().sum(-1) / (2 * 0.25**2))
    return near + 6 * far


def step(state: Tensor, action: Tensor) -> Tensor:
    """Move by the action."""
    return state + 0.12 * action


def run(seeds: int = 10) -> dict[str, float]:
    """Return each planner's mean return over `seeds` initialisations."""
    box = dp.Box([-1.0, -1.0], [1.0, 1.0])
    shooting = dp.PlanningProblem(step, dp.objectives.NegativeReturn(reward), box)
    collocation = dp.PlanningProblem(step, dp.objectives.SoftplusReward(reward), box)
    start = torch.zeros(seeds, 2)
    plans = {
        "LatCo": dp.LatCo(horizon=25, iterations=100)(collocation, start),
        "shooting GD": dp.ShootingGD(horizon=25, iterations=500)(shooting, start),
        "CEM": dp.CEM(horizon=25, num_samples=500, num_elites=50)(shooting, start),
    }
    return {
        name: reward(plan.states[:, 1:]).sum(-1).mean().item()
        for name, plan in plans.items()
    }


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:12s} return {value:6.2f}")
