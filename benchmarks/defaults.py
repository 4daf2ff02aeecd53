"""Measure one training step of every planner as it is built without settings.

    python benchmarks/defaults.py

A planner that is a layer is first tried with its defaults. Each plans for 64 problems
over 12 steps, through a network of 32 units, and the plan's actions (or its cost, where
actions carry no gradient) are differentiated to the network. Processor time, so that
what else runs here counts little. `GradMPC.paper()` and `CEM.planet()` stand beside
them for one problem, since a step of 64 would take a minute or gigabytes.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from _measuring import settings, write_results
from torch import Tensor, nn

import diffplan as dp

HORIZON = 12
PLANNERS = {
    **{
        kind.__name__: (kind, 64)
        for kind in (
            *(dp.CEM, dp.DCEM, dp.MPPI, dp.GradMPC),
            *(dp.ShootingGD, dp.LatCo, dp.ILQR, dp.ShootingGN),
        )
    },
    "CEM.planet": (dp.CEM.planet, 1),
    "GradMPC.paper": (dp.GradMPC.paper, 1),
}


class Network(nn.Module):
    """Dynamics that are to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state `[…, 4]`."""
        return state + 0.1 * self.layers(torch.cat([state, action], dim=-1))


def training_step(planner: dp.Planner, model: nn.Module, state: Tensor) -> float:
    """Return the seconds that a plan and its gradient take."""
    goal = dp.objectives.GoalDistance(torch.zeros(4))
    objective = dp.objectives.SumOfResiduals([goal, dp.objectives.ActionPenalty(0.1)])
    problem = dp.PlanningProblem(model, objective, dp.Box([-1.0] * 2, [1.0] * 2))
    started = time.process_time()
    plan = planner(problem, state)
    value = plan.actions if plan.actions.requires_grad else plan.cost
    torch.autograd.grad(value.square().mean(), list(model.parameters()))
    return time.process_time() - started


def main() -> None:
    """Measure, print and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, results = Network(), {}
    for name, (build, batch) in PLANNERS.items():
        state = torch.randn(batch, 4)
        planner = build(HORIZON)
        seconds = [
            training_step(planner, model, state) for _ in range(1 + arguments.repeats)
        ][1:]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        results[name] = {
            "batch": batch,
            "median_seconds": statistics.median(seconds),
            "seconds": seconds,
            "peak_mib_so_far": peak,
        }
        print(f"{name}, batch {batch}: {statistics.median(seconds):.2f} s", flush=True)
    write_results(
        Path(__file__).parent / "results" / "defaults.json",
        config=settings(arguments),
        results=results,
    )


if __name__ == "__main__":
    main()
