"""What compiling a planner, or a problem, costs, and what it gains.

    python benchmarks/compiling.py [--repeats 30] [--quick]

`planner.compile()` compiles all of `solve`, of iLQR and shooting GN the parts of an
iteration; `problem.compile()` a rollout and its objective. The time of a plan is the
processor's and includes what is never compiled (checks, noise, the record). The
problems: a pendulum of three numbers, horizon 15, and an RSSM of 200 units for sensor
values, horizon 12.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from torch import Tensor

import diffplan as dp
from diffplan.models.rssm import RSSM

HORIZON = 15
LATENT_HORIZON = 12
TIME_STEP = 0.05


def pendulum(state: Tensor, action: Tensor) -> Tensor:
    """Return the next cosine, sine and angular velocity; angle zero is upright."""
    cosine, sine, velocity = state.unbind(-1)
    velocity = 0.99 * velocity + TIME_STEP * (9.81 * sine + 6.0 * action[..., 0])
    turn = TIME_STEP * velocity
    turned = cosine * turn.cos() - sine * turn.sin()
    raised = sine * turn.cos() + cosine * turn.sin()
    return torch.stack([turned, raised, velocity], dim=-1)


@dataclass(frozen=True)
class Case:
    """What is planned, and what of it is compiled.

    Attributes:
        planner: Its gradient is `Detach()`.
        batch: How many problems it solves at once.
        problem: Makes the problem.
        state: Makes the states of a batch.
        compiles: "planner" or "problem".
    """

    planner: dp.Planner
    batch: int
    problem: Callable[[], dp.PlanningProblem]
    state: Callable[[int], Tensor]
    compiles: str = "planner"


def pendulum_problem() -> dp.PlanningProblem:
    """Return the task to raise the pendulum."""
    goal = torch.tensor([1.0, 0.0, 0.0])
    box = dp.Box([-1.0], [1.0])
    return dp.PlanningProblem(pendulum, dp.objectives.GoalDistance(goal), box)


def pendulum_states(batch: int) -> Tensor:
    """Return states `[batch, 3]` at rest, at angles around the upright."""
    angle = torch.linspace(-0.8, 0.8, batch)
    return torch.stack([angle.cos(), angle.sin(), torch.zeros(batch)], dim=-1)


def latent_problem() -> dp.PlanningProblem:
    """Return the maximisation of the reward of an untrained RSSM."""
    torch.manual_seed(0)
    model = RSSM((24,), 6, belief_size=200, hidden_size=200)
    box = dp.Box([-1.0] * 6, [1.0] * 6)
    return dp.PlanningProblem(
        model.step, dp.objectives.NegativeReturn(model.reward), box
    )


def latent_states(batch: int) -> Tensor:
    """Return beliefs `[batch, 230]` before the first observation."""
    return torch.zeros(batch, 230)


def planners() -> dict[str, dp.Planner]:
    """Return what is compiled whole, or step by step, by name."""
    quiet = {"gradient": dp.Detach()}
    sampling = {"num_samples": 500, "iterations": 5}
    return {
        "MPPI, 1 iteration": dp.MPPI(HORIZON, num_samples=500, iterations=1, **quiet),
        "CEM, 5 iterations": dp.CEM(HORIZON, num_elites=50, **sampling),
        "DCEM, 5 iterations": dp.DCEM(HORIZON, num_elites=50, **sampling, **quiet),
        "shooting GD, 2 iterations": dp.ShootingGD(HORIZON, iterations=2, **quiet),
        "Grad-MPC, 5 iterations": dp.GradMPC(
            HORIZON, num_starts=50, iterations=5, **quiet
        ),
        "iLQR, 10 iterations": dp.ILQR(HORIZON, iterations=10, **quiet),
        "iLQR by its sweep, 10 iterations": dp.ILQR(
            HORIZON, iterations=10, form="sweep", **quiet
        ),
        "shooting GN, 10 iterations": dp.ShootingGN(HORIZON, iterations=10, **quiet),
        "LatCo, 1 iteration": dp.LatCo(HORIZON, iterations=1, **quiet),
    }


def cases() -> dict[str, Case]:
    """Return what is measured, by name."""
    swing = {"problem": pendulum_problem, "state": pendulum_states}
    dream = {"problem": latent_problem, "state": latent_states}
    found = {}
    for batch in (1, 64):
        size = f", batch {batch}" if batch > 1 else ""
        for name, planner in planners().items():
            found[name + size] = Case(planner, batch, **swing)
        found[f"problem: CEM, 5 iterations{size}"] = Case(
            planners()["CEM, 5 iterations"], batch, **swing, compiles="problem"
        )
    latent = dp.CEM(LATENT_HORIZON, num_samples=240, num_elites=24, iterations=5)
    found["CEM on an RSSM, 5 iterations"] = Case(latent, 1, **dream)
    found["problem: CEM on an RSSM, 5 iterations"] = Case(
        latent, 1, **dream, compiles="problem"
    )
    return found


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Return the seconds to compile, and of plans before and after."""
    planner, problem = case.planner, case.problem()
    state = case.state(case.batch)
    torch.compiler.reset()

    def seconds(clock: Callable[[], float] = time.process_time) -> float:
        started = clock()
        planner(problem, state)
        return clock() - started

    with torch.no_grad():
        first = [seconds() for _ in range(max(3, repeats // 3))]
        eager = [seconds() for _ in range(repeats)]
        (planner if case.compiles == "planner" else problem).compile()
        compiling = seconds(time.perf_counter)  # compilers are processes of their own
        first += [seconds() for _ in range(max(3, repeats // 3))]
        compiled = [seconds() for _ in range(repeats)]
    return {
        "compiles": case.compiles,
        "compile_seconds": compiling,
        "eager_ms": 1e3 * statistics.median(eager),
        "compiled_ms": 1e3 * statistics.median(compiled),
    }


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="the first case only")
    parser.add_argument("--repeats", type=positive, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = list(cases().items())
    if arguments.quick:
        chosen, arguments.repeats = chosen[:1], 3
    results = {}
    print("| planner | to compile, s | eager, ms | compiled, ms |\n|---|---|---|---|")
    for name, case in chosen:
        found = measure(case, arguments.repeats)
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
