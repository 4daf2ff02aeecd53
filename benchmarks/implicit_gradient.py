"""The implicit gradient of LatCo at the size of the paper's RSSM.

    python benchmarks/implicit_gradient.py [--horizon 30] [--repeats 3] [--quick]

One penalised problem with fixed multipliers in float64: its minimum is differentiated
by `Implicit()` (true Hessian) and by Theseus' own implicit mode (Gauss-Newton Hessian)
from the same point. Both are compared with central finite differences of the minimum
along random directions of the given state and of the reward's weights; times are those
of the backward passes, beside one planner iteration.

`whole_planner` takes LatCo as it is used, with multipliers that follow the violations
and noise of its own, and compares `Implicit()`, which holds the final multipliers, with
finite differences of the whole planner.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from _measuring import Parser, positive, settings, write_results
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.objectives import ActionPenalty, SoftplusReward, SumOfResiduals
from diffplan.planners.collocation import FixedMultiplier

ACTIONS = 4
MULTIPLIER = 100.0
EFFORT = 0.1
WHOLE_ITERATIONS = 200


class Problem:
    """LatCo's penalised problem, with the given state and the reward as leaves."""

    def __init__(self, horizon: int) -> None:
        torch.manual_seed(0)
        self.horizon = horizon
        self.model = RSSM(observation_shape=(18,), action_dim=ACTIONS).double()
        self.model.requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        size = (1, self.model.state_dim)
        self.state = 0.1 * torch.randn(size, generator=generator, dtype=torch.float64)
        self.weights = torch.randn(
            1, horizon, ACTIONS, generator=generator, dtype=torch.float64
        )
        self.directions = {
            "state": torch.randn(size, generator=generator, dtype=torch.float64),
            "reward": torch.randn(
                self.model.state_dim, generator=generator, dtype=torch.float64
            ),
        }
        for name, direction in self.directions.items():
            self.directions[name] = direction / direction.norm()

    def planning(self, tilt: Tensor) -> dp.PlanningProblem:
        """The problem whose reward has an additional linear term `tilt` `[S]`."""
        reward = SoftplusReward(lambda x: self.model.reward(x) + x @ tilt)
        box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
        objective = SumOfResiduals([reward, ActionPenalty(EFFORT)])
        return dp.PlanningProblem(self.model, objective, box)

    def planner(self, iterations: int, gradient: dp.GradientStrategy) -> dp.LatCo:
        """LatCo with multipliers that stay, so that the minimum is well defined."""
        return dp.LatCo(
            self.horizon,
            iterations=iterations,
            multiplier_rule=FixedMultiplier(),
            initial_multipliers=(MULTIPLIER, MULTIPLIER),
            init="rollout",
            gradient=gradient,
        )


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="leave Theseus out")
    parser.add_argument("--horizon", type=positive, default=30)
    parser.add_argument("--repeats", type=positive, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    problem = Problem(arguments.horizon)
    results = measure(problem, arguments.repeats, arguments.quick)
    for name, value in results.items():
        print(f"{name}: {value}")
    write_results(
        arguments.output / "implicit_gradient.json",
        config=settings(arguments),
        results=results,
    )


def measure(problem: Problem, repeats: int, quick: bool) -> dict[str, object]:
    """Return errors against finite differences and seconds."""
    zero = torch.zeros(problem.model.state_dim, dtype=torch.float64)
    planner = problem.planner(40, dp.Implicit())
    started = time.perf_counter()
    base = planner(problem.planning(zero), problem.state).detach()
    results: dict[str, object] = {
        "plan_and_polish_seconds": time.perf_counter() - started,
        "stationarity": float(base.diagnostics["stationarity"].max()),
        "iteration_seconds": iteration_seconds(problem, zero, repeats),
    }
    warm = problem.planner(0, dp.Implicit())

    def scalar(state: Tensor, tilt: Tensor) -> Tensor:
        plan = warm(problem.planning(tilt), state, warm_start=base)
        return (problem.weights * plan.actions).sum()

    leaves = {
        "state": problem.state.clone().requires_grad_(),
        "reward": zero.clone().requires_grad_(),
    }
    backward, gradients = [], ()
    for _ in range(repeats):
        value = scalar(leaves["state"], leaves["reward"])
        started = time.perf_counter()
        gradients = torch.autograd.grad(value, list(leaves.values()))
        backward.append(time.perf_counter() - started)
    results["backward_seconds"] = statistics.median(backward)
    results["backward_in_iterations"] = (
        results["backward_seconds"] / results["iteration_seconds"]
    )
    layer = {
        name: float((gradient * problem.directions[name]).sum())
        for name, gradient in zip(leaves, gradients, strict=True)
    }
    difference = differences(problem, scalar, zero)
    results["directional"] = {
        name: {
            "implicit": layer[name],
            "differences": difference[name],
            "relative_error": relative(layer[name], difference[name]),
        }
        for name in leaves
    }
    results["whole_planner"] = whole_planner(problem, zero)
    if not quick:
        from _theseus_implicit import theseus_implicit

        results["theseus_implicit"] = theseus_implicit(
            problem, base, MULTIPLIER, EFFORT, difference
        )
    return results


def whole_planner(problem: Problem, zero: Tensor) -> dict[str, object]:
    """Compare with differences of LatCo whose multipliers follow the violations."""

    def planner(gradient: dp.GradientStrategy) -> dp.LatCo:
        return dp.LatCo(problem.horizon, iterations=WHOLE_ITERATIONS, gradient=gradient)

    def scalar(state: Tensor, tilt: Tensor) -> Tensor:
        plan = planner(dp.Detach())(problem.planning(tilt), state)
        return (problem.weights * plan.actions).sum()

    leaves = {
        "state": problem.state.clone().requires_grad_(),
        "reward": zero.clone().requires_grad_(),
    }
    given = problem.planning(leaves["reward"])
    plan = planner(dp.Implicit())(given, leaves["state"])
    value = (problem.weights * plan.actions).sum()
    gradients = torch.autograd.grad(value, list(leaves.values()))
    difference = differences(problem, scalar, zero)
    return {
        "iterations": WHOLE_ITERATIONS,
        "dynamics_violation": float(plan.diagnostics["dynamics_violation"][0, -1]),
        "dynamics_multiplier": float(plan.diagnostics["dynamics_multiplier"][0, -1]),
        "directional": {
            name: {
                "implicit": float((gradient * problem.directions[name]).sum()),
                "differences": difference[name],
                "relative_error": relative(
                    float((gradient * problem.directions[name]).sum()),
                    difference[name],
                ),
            }
            for name, gradient in zip(leaves, gradients, strict=True)
        },
    }


def iteration_seconds(problem: Problem, tilt: Tensor, repeats: int) -> float:
    """Seconds of one planner iteration, the slope between two counts."""

    def run(iterations: int) -> float:
        planner = problem.planner(iterations, dp.Detach())
        started = time.perf_counter()
        planner(problem.planning(tilt), problem.state)
        return time.perf_counter() - started

    run(2)
    slopes = [(run(15) - run(5)) / 10 for _ in range(repeats)]
    return statistics.median(slopes)


def differences(
    problem: Problem, scalar: Callable[[Tensor, Tensor], Tensor], zero: Tensor
) -> dict[str, float]:
    """Central differences of the re-polished minimum along each direction."""
    step = 1e-4
    found = {}
    with torch.no_grad():
        for name, direction in problem.directions.items():
            moved = [
                scalar(
                    problem.state + sign * step * direction
                    if name == "state"
                    else problem.state,
                    sign * step * direction if name == "reward" else zero,
                )
                for sign in (1.0, -1.0)
            ]
            found[name] = float(moved[0] - moved[1]) / (2 * step)
    return found


def relative(value: float, reference: float) -> float:
    """Relative error."""
    return abs(value - reference) / abs(reference)


if __name__ == "__main__":
    main()
