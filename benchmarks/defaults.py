"""Measure a plan, and a plan with its gradient, of every planner as it is built.

    python benchmarks/defaults.py [--repeats 3] [--sizes small batch large] [--quick]

A planner that is a layer is first tried with its defaults. Each plans through a
network, and the plan's actions (or its cost, where actions carry no gradient) are
differentiated to the network. Processor time, so that what else runs here counts
little; the memory is that of all tensors alive together, counted operation by
operation, and so the same on every machine.
"""

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from _peak_memory import PeakMemory
from torch import Tensor, nn

import diffplan as dp

PLANNERS = (
    *(dp.CEM, dp.MPPI, dp.DCEM, dp.ShootingGD, dp.GradMPC),
    *(dp.ILQR, dp.ShootingGN, dp.LatCo, dp.FirstOrderLatCo),
)


@dataclass(frozen=True)
class Size:
    """What is planned: B problems over T steps, and the network's S, A and units."""

    batch: int
    horizon: int
    state: int
    action: int
    units: int


SIZES = {
    "small": Size(batch=1, horizon=12, state=4, action=2, units=32),
    "batch": Size(batch=64, horizon=12, state=4, action=2, units=32),
    "large": Size(batch=8, horizon=30, state=32, action=4, units=128),
}


class Network(nn.Module):
    """Dynamics that are to be learned."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size.state + size.action, size.units),
            nn.Tanh(),
            nn.Linear(size.units, size.state),
        )

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state `[…, S]`."""
        return state + 0.1 * self.layers(torch.cat([state, action], dim=-1))


class Task:
    """A planner, a problem, and what is asked of them."""

    def __init__(self, planner: dp.Planner, model: Network, size: Size) -> None:
        self.planner, self.model = planner, model
        goal = dp.objectives.GoalDistance(torch.zeros(size.state))
        objective = dp.objectives.SumOfResiduals(
            [goal, dp.objectives.ActionPenalty(0.1)]
        )
        box = dp.Box([-1.0] * size.action, [1.0] * size.action)
        self.problem = dp.PlanningProblem(model, objective, box)
        self.state = torch.randn(size.batch, size.state)

    def plan(self) -> None:
        """Plan and be done."""
        with torch.no_grad():
            self.planner(self.problem, self.state)

    def gradient(self) -> None:
        """Plan, and differentiate the plan to the network."""
        plan = self.planner(self.problem, self.state)
        value = plan.actions if plan.actions.requires_grad else plan.cost
        torch.autograd.grad(value.square().mean(), list(self.model.parameters()))


def measure(task: Task, repeats: int) -> dict[str, Any]:
    """Return seconds and bytes of a plan, and of a plan with its gradient."""
    found: dict[str, Any] = {"strategy": str(task.planner.gradient)}
    for name, run in (("plan", task.plan), ("gradient", task.gradient)):
        with PeakMemory() as memory:
            run()
        seconds = []
        for _ in range(repeats):
            started = time.process_time()
            run()
            seconds.append(time.process_time() - started)
        found[name] = {
            "peak_bytes": memory.peak,
            "seconds": seconds,
            "median_seconds": statistics.median(seconds),
        }
    return found


def main() -> None:
    """Measure, print and write the results file."""
    parser = Parser(__doc__, quick="the smallest size, once")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.sizes = 1, ["small"]
    torch.set_num_threads(1)
    results: dict[str, Any] = {"load_before": os.getloadavg()[0], "sizes": {}}
    for name in arguments.sizes:
        size, planners = SIZES[name], {}
        for kind in PLANNERS:
            torch.manual_seed(0)
            task = Task(kind(size.horizon), Network(size), size)
            found = planners[kind.__name__] = measure(task, arguments.repeats)
            told = [
                f"{what} {1e3 * each['median_seconds']:.0f} ms "
                f"{each['peak_bytes'] / 2**20:.1f} MiB"
                for what in ("plan", "gradient")
                for each in [found[what]]
            ]
            print(f"{name}, {kind.__name__}: {', '.join(told)}", flush=True)
        results["sizes"][name] = {"size": vars(size), "planners": planners}
    results["load_after"] = os.getloadavg()[0]
    path = arguments.output / "defaults.json"
    write_results(path, config=settings(arguments), results=results)


if __name__ == "__main__":
    main()
