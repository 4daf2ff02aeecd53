"""What compiling a planner costs, and what it gains.

    python benchmarks/compiling.py [--repeats 30] [--quick]

Compiled is what `planner.compile()` compiles: all of `solve`, of iLQR a step of its
sweep. The time of a plan includes what is never compiled (checks, noise, the record).
Three pendulum numbers, horizon 15.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from _measuring import settings, write_results
from torch import Tensor

import diffplan as dp

RESULTS = Path(__file__).parent / "results"
HORIZON = 15
TIME_STEP = 0.05


def pendulum(state: Tensor, action: Tensor) -> Tensor:
    """Return the next cosine, sine and angular velocity; angle zero is upright."""
    cosine, sine, velocity = state.unbind(-1)
    velocity = 0.99 * velocity + TIME_STEP * (9.81 * sine + 6.0 * action[..., 0])
    turn = TIME_STEP * velocity
    turned = cosine * turn.cos() - sine * turn.sin()
    raised = sine * turn.cos() + cosine * turn.sin()
    return torch.stack([turned, raised, velocity], dim=-1)


def cases() -> dict[str, tuple[dp.Planner, int]]:
    """Return planners and how many problems they solve at once, by name."""
    quiet = {"gradient": dp.Detach()}

    def mppi() -> dp.Planner:
        return dp.MPPI(HORIZON, num_samples=500, iterations=1, **quiet)

    def cem() -> dp.Planner:
        return dp.CEM(HORIZON, num_samples=500, num_elites=50, iterations=5)

    return {
        "MPPI, 1 iteration": (mppi(), 1),
        "CEM, 5 iterations": (cem(), 1),
        "Grad-MPC, 5 iterations": (
            dp.GradMPC(HORIZON, num_candidates=50, iterations=5, **quiet),
            1,
        ),
        "iLQR, 10 iterations": (dp.ILQR(HORIZON, iterations=10, **quiet), 1),
        "MPPI, 1 iteration, batch 64": (mppi(), 64),
        "CEM, 5 iterations, batch 64": (cem(), 64),
        "iLQR, 10 iterations, batch 64": (dp.ILQR(HORIZON, iterations=10, **quiet), 64),
    }


def measure(planner: dp.Planner, batch: int, repeats: int) -> dict[str, Any]:
    """Return the seconds to compile, and of plans before and after."""
    goal = torch.tensor([1.0, 0.0, 0.0])
    box = dp.Box([-1.0], [1.0])
    problem = dp.PlanningProblem(pendulum, dp.objectives.GoalDistance(goal), box)
    angle = torch.linspace(-0.8, 0.8, batch)
    state = torch.stack([angle.cos(), angle.sin(), torch.zeros(batch)], dim=-1)

    def seconds() -> float:
        started = time.perf_counter()
        planner(problem, state)
        return time.perf_counter() - started

    with torch.no_grad():
        first = [seconds() for _ in range(max(3, repeats // 3))]
        eager = [seconds() for _ in range(repeats)]
        planner.compile()
        compiling = seconds()
        first += [seconds() for _ in range(max(3, repeats // 3))]
        compiled = [seconds() for _ in range(repeats)]
    return {
        "compile_seconds": compiling,
        "eager_ms": 1e3 * statistics.median(eager),
        "compiled_ms": 1e3 * statistics.median(compiled),
    }


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="the first case only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = list(cases().items())
    if arguments.quick:
        chosen, arguments.repeats = chosen[:1], 3
    results = {}
    print("| planner | to compile, s | eager, ms | compiled, ms |\n|---|---|---|---|")
    for name, (planner, batch) in chosen:
        found = measure(planner, batch, arguments.repeats)
        results[name] = found
        print(
            f"| {name} | {found['compile_seconds']:.0f} | {found['eager_ms']:.2f} "
            f"| {found['compiled_ms']:.2f} |",
            flush=True,
        )
    write_results(
        arguments.output / "compiling.json",
        config=settings(arguments),
        results=results,
    )


if __name__ == "__main__":
    main()
