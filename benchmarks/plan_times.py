"""The time of one plan at the size of the paper's RSSM, with the paper's counts.

    python benchmarks/plan_times.py [--device cuda] [--modes eager graph compiled]
                                    [--horizon 30] [--share 1.0] [--quick]

LatCo with 200 iterations, shooting gradient descent with 500, CEM with 100 refits of
10,000 candidates; LatCo's paper reports 14, 14 and 12 s on an RTX 2080 Ti (appendix).
Grad-MPC as its paper says: 1,000 candidates, 40 steps, always a horizon of 12.
Beside each time stands a floor: the arithmetic of a plan over what a large product of
matrices reaches here, or the bytes of the model's weights, read once for each step of
each rollout that follows the one before, over what a large copy reaches, whichever is
longer. (Weights that stay in a cache need not be read.)

A `graph` is the whole of `solve` captured as one CUDA graph and replayed; `compiled` is
`planner.compile()`, which LatCo is too long for. `--share` scales the iteration counts,
for machines without a GPU; times are then per share.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import diffplan as dp
from diffplan.functional._random import fold, standard_normal
from diffplan.models import RSSM
from diffplan.objectives import NegativeReturn, SoftplusReward
from diffplan.planners._cuda_graph import recorded
from diffplan.planners.request import PlanRequest

ACTIONS = 4
PLANNERS = ("LatCo", "shooting GD", "CEM", "Grad-MPC")
MODES = ("eager", "graph", "compiled")


@dataclass(frozen=True)
class Contender:
    """A planner with the paper's counts.

    Attributes:
        planner: With `iterations` as given.
        problem: What it plans for.
        iterations: Of the plan that is timed.
        paper_seconds: On an RTX 2080 Ti; None where the paper says nothing.
        rollouts: Rollouts of the model, one after the other, in an iteration: forward,
            and backward where there is a gradient. LatCo has none: its model is
            evaluated at all steps at once.
    """

    planner: dp.Planner
    problem: dp.PlanningProblem
    iterations: int
    paper_seconds: float | None
    rollouts: int


def contenders(model: RSSM, horizon: int, share: float) -> dict[str, Contender]:
    """Return the planners."""
    device = next(model.parameters()).device
    like = torch.zeros(1, device=device)
    box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS).to(like)
    returns = dp.PlanningProblem(model.step, NegativeReturn(model.reward), box)
    residuals = dp.PlanningProblem(model.step, SoftplusReward(model.reward), box)

    def count(paper: int) -> int:
        return max(1, round(share * paper))

    latco, gd, cem, descent = count(200), count(500), count(100), count(40)
    quiet = {"gradient": dp.Detach()}
    return {
        "LatCo": Contender(
            dp.LatCo(horizon, iterations=latco, **quiet),
            residuals,
            latco,
            14.0,
            rollouts=0,
        ),
        "shooting GD": Contender(
            dp.ShootingGD(horizon, iterations=gd, **quiet), returns, gd, 14.0, 2
        ),
        "CEM": Contender(
            dp.CEM(horizon, num_samples=10_000, num_elites=100, iterations=cem),
            returns,
            cem,
            12.0,
            1,
        ),
        "Grad-MPC": Contender(
            dp.GradMPC.paper(iterations=descent, **quiet), returns, descent, None, 2
        ),
    }


class Flops(TorchDispatchMode):
    """Counts the arithmetic of products of matrices.

    PyTorch's own counter follows modules as well, which derivatives inside a plan do
    not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reached(device: torch.device, repeats: int = 20) -> dict[str, float]:
    """Return FLOP/s of a large product of matrices, and bytes/s of a large copy."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    source = torch.empty(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)

    def rate(run: Callable[[], object], amount: float) -> float:
        for _ in range(3):
            run()
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        return amount * repeats / (time.perf_counter() - started)

    moved = 2.0 * source.numel() * source.element_size()
    return {
        "flops": rate(lambda: torch.mm(left, right), 2.0 * size**3),
        "bytes": rate(lambda: target.copy_(source), moved),
    }


def floor(
    contender: Contender, model: RSSM, state: Tensor, speeds: dict[str, float]
) -> dict[str, float]:
    """Return the arithmetic and the bytes of a plan, and the seconds of the larger."""
    short = type(contender.planner).__new__(type(contender.planner))
    short.__dict__.update(contender.planner.__dict__)
    counts = []
    for iterations in (1, 2):  # the difference is that of one iteration
        short.iterations = iterations
        noise = short.draw_noise(contender.problem, state)
        with Flops() as counter:
            short.plan_for(PlanRequest(contender.problem, state, noise, evaluate=False))
        counts.append(counter.total)
    flops = (counts[1] - counts[0]) * contender.iterations
    used = (*model.transition.parameters(), *model.reward_head.parameters())
    weights = sum(p.numel() * p.element_size() for p in used)
    steps = contender.planner.horizon * contender.rollouts
    moved = float(weights * max(1, steps) * contender.iterations)
    seconds = max(flops / speeds["flops"], moved / speeds["bytes"])
    return {"flops": flops, "bytes": moved, "seconds": seconds}


def prepare(contender: Contender, state: Tensor, mode: str) -> Callable[[], object]:
    """Return what is timed: `solve` on noise that lies ready, if not compiled."""
    planner, problem = contender.planner, contender.problem
    noise = given_noise(planner, problem, state)

    def solve() -> object:
        with torch.no_grad():
            return planner.plan_for(PlanRequest(problem, state, noise, evaluate=False))

    if mode == "compiled":  # all of a call, and so its noise too
        planner.compile()
        return torch.no_grad()(partial(planner, problem, state, evaluate=False))
    if mode == "graph":
        return captured(solve)
    return solve


def given_noise(
    planner: dp.Planner, problem: dp.PlanningProblem, state: Tensor
) -> Tensor | None:
    """Draw all noise ahead, also where a planner would draw it in each iteration."""
    noise = planner.draw_noise(problem, state)
    if noise is None or noise.is_floating_point():
        return noise
    assert isinstance(planner, dp.CEM)
    iterations = torch.arange(planner.iterations, device=state.device)
    shape = (planner.num_samples, planner.horizon, problem.action_space.dim)
    return standard_normal(fold(noise[:, None], iterations), shape, state)


def captured(solve: Callable[[], object]) -> Callable[[], object]:
    """Return a replay of what `solve` does, captured as a CUDA graph."""
    return recorded(solve)[0].replay


def measure(
    contender: Contender, state: Tensor, mode: str, repeats: int
) -> dict[str, Any]:
    """Return the seconds of a plan, or why there is none in this mode."""
    device = state.device
    if mode == "graph" and device.type != "cuda":
        return {"error": "needs CUDA"}
    try:
        started = time.perf_counter()
        run = prepare(contender, state, mode)
        run()
        synchronize(device)
        first = time.perf_counter() - started
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            synchronize(device)
            seconds.append(time.perf_counter() - started)
    except RuntimeError as error:
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    return {
        "first_seconds": first,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
    }


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="a short, rough run")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    parser.add_argument("--modes", nargs="+", default=["eager", "graph"], choices=MODES)
    parser.add_argument("--planners", nargs="+", choices=PLANNERS)
    parser.add_argument("--horizon", type=positive, default=30)
    parser.add_argument("--share", type=float, default=None)
    parser.add_argument("--repeats", type=positive, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.share is None:
        arguments.share = 1.0 if device.type == "cuda" else 0.01
    if arguments.quick:
        arguments.repeats, arguments.horizon, arguments.share = 1, 5, 0.005
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, where there is any
    torch.manual_seed(0)
    model = RSSM(observation_shape=(3, 64, 64), action_dim=ACTIONS).to(device)
    model.requires_grad_(False)
    state = model.initial_state((1,))
    speeds = reached(device)
    results: dict[str, Any] = {"reached": speeds, "plans": {}}
    print("| planner | mode | iterations | s | floor, s | paper (2080 Ti), s |")
    print("|---|---|---|---|---|---|")
    for name, contender in contenders(
        model, arguments.horizon, arguments.share
    ).items():
        if arguments.planners and name not in arguments.planners:
            continue
        least = floor(contender, model, state, speeds)
        found: dict[str, Any] = {
            "iterations": contender.iterations,
            "paper_seconds": contender.paper_seconds,
            "floor": least,
        }
        for mode in arguments.modes:
            found[mode] = measure(contender, state, mode, arguments.repeats)
            shown = found[mode].get("error") or f"{found[mode]['median_seconds']:.3f}"
            paper = "–" if contender.paper_seconds is None else contender.paper_seconds
            print(
                f"| {name} | {mode} | {contender.iterations} | {shown} "
                f"| {least['seconds']:.4f} | {paper} |",
                flush=True,
            )
        results["plans"][name] = found
    write_results(
        arguments.output / f"plan_times_{device.type}.json",
        config=settings(arguments),
        results=results,
    )


if __name__ == "__main__":
    main()
