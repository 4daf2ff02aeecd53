"""One iteration of Gaussian LatCo beside one of LatCo, at the same size.

    python benchmarks/gaussian_latco.py [--horizon 30] [--samples 50] [--repeats 5]
                                        [--quick]

Both plan with one model, in one process on one thread, in turn; medians are compared.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from _measuring import Parser, per_iteration, positive, settings, write_results

import diffplan as dp
from diffplan.models import RSSM
from diffplan.objectives import SoftplusReward

ACTIONS = 4
# The paper's model, and that of the reproduction from state vectors.
SIZES = {
    "RSSM of 230 numbers": {},
    "RSSM of 94 numbers": {
        "belief_size": 64,
        "hidden_size": 128,
        "reward_layers": 3,
        "reward_hidden": 128,
    },
}
LINEARIZATIONS = ("mean", "samples", "full")


def iterations(
    planner: Callable[..., dp.Planner], model: RSSM, horizon: int
) -> Callable[[int], None]:
    """Return a function that runs so many iterations."""
    box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
    problem = dp.PlanningProblem(model.step, SoftplusReward(model.reward), box)
    generator = torch.Generator().manual_seed(0)
    state = 0.1 * torch.randn(1, model.state_dim, generator=generator)

    def run(count: int) -> None:
        plan = planner(horizon, iterations=count, gradient=dp.Detach(), fall_back=False)
        plan(problem, state, evaluate=False)

    return run


def contenders(
    name: str, horizon: int, samples: int
) -> dict[str, tuple[Callable[[int], None], int, int]]:
    """Return what is measured: what runs, and its two counts of iterations."""
    torch.manual_seed(0)
    model = RSSM(observation_shape=(18,), action_dim=ACTIONS, **SIZES[name])
    model.requires_grad_(False)
    found = {"LatCo": (iterations(dp.LatCo, model, horizon), 5, 15)}
    for linearization in LINEARIZATIONS:
        if linearization == "full" and model.state_dim > 100:
            continue  # half a minute for an iteration
        build = partial(
            dp.GaussianLatCo, num_samples=samples, linearization=linearization
        )
        counts = (5, 15) if linearization == "mean" else (1, 2)
        run = iterations(build, model, horizon)
        found[f"Gaussian LatCo, {linearization}"] = (run, *counts)
    return found


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="one short repeat of few samples")
    parser.add_argument("--horizon", type=positive, default=30)
    parser.add_argument("--samples", type=positive, default=50)
    parser.add_argument("--repeats", type=positive, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.horizon, arguments.samples, arguments.repeats = 5, 6, 1
    torch.set_num_threads(1)
    results = {}
    print("| one iteration, batch 1 | ms | over LatCo |\n|---|---|---|")
    for size in SIZES:
        named = contenders(size, arguments.horizon, arguments.samples)
        seconds: dict[str, list[float]] = {name: [] for name in named}
        for repeat in range(arguments.repeats + 1):
            for name, (run, short, long) in named.items():
                if repeat == 0:
                    run(1)  # warm up
                else:
                    seconds[name].append(per_iteration(run, short, long))
        median = {name: statistics.median(values) for name, values in seconds.items()}
        ratio = {name: value / median["LatCo"] for name, value in median.items()}
        for name, value in median.items():
            print(f"| {size}: {name} | {1e3 * value:.1f} | {ratio[name]:.2f} |")
        results[size] = {
            "seconds_per_iteration": seconds,
            "median_ms": {name: 1e3 * value for name, value in median.items()},
            "over_latco": ratio,
        }
    write_results(
        arguments.output / "gaussian_latco.json",
        config=settings(arguments),
        results=results,
    )


if __name__ == "__main__":
    main()
