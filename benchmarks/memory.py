"""Memory and time of a gradient through a plan over the horizon, with checkpoints.

    python benchmarks/memory.py [--horizons 50 100 200 400] [--candidates 8] [--quick]

The gradient of an unrolled plan to the parameters of an RSSM of the paper's size. The
memory is that of all tensors alive together, counted operation by operation, so it is
the same on every machine; the time is taken without counting.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from _peak_memory import PeakMemory
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.objectives import NegativeReturn

ACTIONS = 4

Build = Callable[[int, int, bool], dp.Planner]

PLANNERS: dict[str, Build] = {
    "MPPI": lambda horizon, candidates, checkpoint: dp.MPPI(
        horizon, num_samples=candidates, iterations=3, checkpoint=checkpoint
    ),
    "DCEM": lambda horizon, candidates, checkpoint: dp.DCEM(
        horizon,
        num_samples=candidates,
        num_elites=max(1, candidates // 4),
        iterations=3,
        checkpoint=checkpoint,
    ),
    "GradMPC": lambda horizon, candidates, checkpoint: dp.GradMPC(
        horizon, num_starts=candidates, iterations=3, checkpoint=checkpoint
    ),
}


def gradient(
    planner: dp.Planner, problem: dp.PlanningProblem, model: RSSM, state: Tensor
) -> Tensor:
    """Return the norm of d ‖actions‖² / d parameters of the transition."""
    plan = planner(problem, state)
    wanted = [p for p in model.parameters() if p.requires_grad]
    loss = plan.actions.square().sum()
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return sum(g.square().sum() for g in found if g is not None).sqrt()


def measure(
    build: Build, horizon: int, candidates: int, checkpoint: bool, model: RSSM
) -> dict[str, Any]:
    """Return peak bytes, seconds and the gradient's norm."""
    box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
    problem = dp.PlanningProblem(model.step, NegativeReturn(model.reward), box)
    state = model.initial_state((1,))
    planner = build(horizon, candidates, checkpoint)
    started = time.perf_counter()
    norm = gradient(planner, problem, model, state)
    seconds = time.perf_counter() - started
    with PeakMemory() as memory:
        gradient(planner, problem, model, state)
    return {
        "horizon": horizon,
        "checkpoint": checkpoint,
        "peak_bytes": memory.peak,
        "seconds": seconds,
        "gradient_norm": norm.item(),
    }


def exponent(records: list[dict[str, Any]]) -> float:
    """Return the slope of log peak over log horizon, from the first to the last."""
    first, last = records[0], records[-1]
    return math.log(last["peak_bytes"] / first["peak_bytes"]) / math.log(
        last["horizon"] / first["horizon"]
    )


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw peak memory over the horizon."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    for index, (name, found) in enumerate(results.items()):
        for style, key in (("-", "kept"), ("--", "checkpointed")):
            records = found[key]
            axes.plot(
                [record["horizon"] for record in records],
                [record["peak_bytes"] / 2**20 for record in records],
                style,
                marker=".",
                color=f"C{index}",
                label=f"{name}, {key}: T^{found['exponents'][key]:.2f}",
            )
    axes.set(xscale="log", yscale="log", xlabel="horizon T", ylabel="peak MiB")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Measure, print a table, and write the results file and the figure."""
    parser = Parser(__doc__, quick="two horizons, a few MB")
    parser.add_argument(
        "--horizons", type=positive, nargs="+", default=[50, 100, 200, 400]
    )
    parser.add_argument("--candidates", type=positive, default=8)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.horizons, arguments.candidates = [25, 100], 4
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = RSSM(observation_shape=(18,), action_dim=ACTIONS)
    results: dict[str, Any] = {}
    print("| planner | T | kept MiB | checkpointed MiB | kept s | checkpointed s |")
    print("|---|---|---|---|---|---|")
    for name, build in PLANNERS.items():
        found: dict[str, Any] = {"kept": [], "checkpointed": []}
        for horizon in arguments.horizons:
            for key, checkpoint in (("kept", False), ("checkpointed", True)):
                found[key].append(
                    measure(build, horizon, arguments.candidates, checkpoint, model)
                )
            kept, again = found["kept"][-1], found["checkpointed"][-1]
            print(
                f"| {name} | {horizon} | {kept['peak_bytes'] / 2**20:.1f} "
                f"| {again['peak_bytes'] / 2**20:.1f} | {kept['seconds']:.2f} "
                f"| {again['seconds']:.2f} |",
                flush=True,
            )
        found["exponents"] = {
            key: exponent(found[key]) for key in ("kept", "checkpointed")
        }
        results[name] = found
        print(f"{name}: peak grows like T^{found['exponents']}")
    write_results(
        arguments.output / "memory.json",
        config=settings(arguments),
        results=results,
    )
    plot(results, arguments.output / "memory.svg")


if __name__ == "__main__":
    main()
