"""What drawing noise by counters costs, against torch.randn and against planning.

    python benchmarks/random_numbers.py [--problems 1000] [--quick]

The noise of one iteration of CEM, and that iteration with the cheapest of models, a
point mass, and with a small network. On one thread, in seconds of the processor, so
that other work on the machine counts little.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from _measuring import Parser, positive, settings, write_results
from torch import Tensor

import diffplan as dp
from diffplan.functional._random import standard_normal
from diffplan.functional.coloured_noise import colour_noise
from diffplan.planners._randomness import noise_keys

CANDIDATES, HORIZON, ACTIONS = 300, 12, 6


def step(state: Tensor, action: Tensor) -> Tensor:
    """Move a point mass, position and velocity."""
    position, velocity = state.chunk(2, dim=-1)
    velocity = velocity + 0.1 * action
    return torch.cat([position + 0.1 * velocity, velocity], dim=-1)


def network(width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return dynamics with one hidden layer."""
    layers = torch.nn.Sequential(
        torch.nn.Linear(3 * ACTIONS, width),
        torch.nn.ELU(),
        torch.nn.Linear(width, 2 * ACTIONS),
    )
    return lambda state, action: state + layers(torch.cat([state, action], dim=-1))


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a call, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return statistics.median(times)


def main() -> None:
    """Measure and write the results."""
    parser = Parser(__doc__, quick="ten problems")
    parser.add_argument("--problems", type=positive, default=1000)
    parser.add_argument("--repeats", type=positive, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = 10 if arguments.quick else arguments.problems
    state = torch.zeros(count, 2 * ACTIONS)
    keys, shape = noise_keys(state), (CANDIDATES, HORIZON, ACTIONS)
    goal = dp.objectives.GoalDistance(torch.ones(2 * ACTIONS))
    box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
    planner = dp.CEM(HORIZON, num_samples=CANDIDATES, num_elites=30, iterations=1)
    white = standard_normal(keys, shape, state)
    ways: dict[str, Callable[[], object]] = {
        "torch.randn": lambda: torch.randn(count, *shape),
        "standard_normal": lambda: standard_normal(keys, shape, state),
        "colour_noise of it": lambda: colour_noise(white, 2.0),
    }
    for name, dynamics in (("a point mass", step), ("64 hidden units", network(64))):
        problem = dp.PlanningProblem(dynamics, goal, box)
        ways[f"one iteration of CEM, {name}"] = partial(planner, problem, state)
    seconds = {
        name: median_seconds(way, arguments.repeats) for name, way in ways.items()
    }
    results = {name: {"median_seconds": found} for name, found in seconds.items()}
    write_results(
        arguments.output / "random_numbers.json", settings(arguments), results
    )


if __name__ == "__main__":
    main()
