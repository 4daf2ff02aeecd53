"""The chain solvers side by side: Riccati, block Cholesky and dense Cholesky.

    python benchmarks/chain_solvers.py [--states 30 94 230] [--horizons 10 30 50 100]
                                       [--batches 1 8] [--repeats 5] [--quick]

One step (factorise and solve, Jacobians given) of a random well-scaled chain with 4
actions and one stage residual, on one thread. The contenders take turns, and medians
are reported: of the wall clock, and of the thread's processor time, which a busy
machine disturbs less.
"""

import statistics
import time
from collections.abc import Callable

import torch
from _measuring import Parser, positive, settings, write_results
from torch import Tensor

from diffplan.solvers import BlockCholeskySolver, ChainBlocks, RiccatiSolver

ACTIONS = 4
DENSE_UNKNOWNS = 3000
"""Above this many unknowns the dense contender takes seconds and is left out."""


def random_blocks(
    batch: int, horizon: int, size: int, dtype: torch.dtype
) -> ChainBlocks:
    """Draw a stable chain (spectral radius about 1) with weights around 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).to(dtype)

    root = size**0.5
    return ChainBlocks(
        state_jacobian=draw(horizon, size, size) / root,
        action_jacobian=draw(horizon, size, ACTIONS) / root,
        defect=0.1 * draw(horizon, size),
        transition_weight=0.5 + draw(horizon).square(),
        residual=draw(horizon, 1),
        stage_state_jacobian=0.3 * draw(horizon, 1, size) / root,
        stage_action_jacobian=draw(horizon, 1, ACTIONS),
        terminal_residual=draw(1),
        terminal_jacobian=0.3 * draw(1, size) / root,
        limit_residual=draw(horizon, ACTIONS).abs(),
        limit_slope=draw(horizon, ACTIONS).sign().clamp(min=0.0),
        limit_weight=torch.ones(batch, horizon, dtype=dtype),
        damping=torch.full((batch,), 5e-4, dtype=dtype),
    )


def dense_step(blocks: ChainBlocks) -> Tensor:
    """Assemble the whole matrix and factor it, as a general solver would."""
    system, rhs = blocks.system(), blocks.right_hand_side()
    batch, horizon, size, actions = system.action_jacobian.shape
    states = horizon * size
    rows = system.damping.new_zeros(batch, states, states + horizon * actions)
    rows[:, :, :states] = torch.eye(states, dtype=rows.dtype)
    for t in range(horizon):
        here = slice(t * size, (t + 1) * size)
        if t > 0:
            before = slice((t - 1) * size, t * size)
            rows[:, here, before] = -system.state_jacobian[:, t]
        moved = slice(states + t * actions, states + (t + 1) * actions)
        rows[:, here, moved] = -system.action_jacobian[:, t]
    weight = system.transition_weight.repeat_interleave(size, 1)[..., None]
    matrix = rows.mT @ (weight * rows)
    # stage costs left out: a small part of the assembly, nothing of the solve
    matrix.diagonal(dim1=-2, dim2=-1).add_(system.damping[:, None])
    linear = -rows.mT @ (weight * rhs.defect.flatten(1)[..., None])
    factor, _ = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_solve(linear, factor)


def contenders(batch: int, horizon: int, size: int) -> dict[str, Callable[[], object]]:
    """Return what to measure on one problem."""
    single = random_blocks(batch, horizon, size, torch.float32)
    double = random_blocks(batch, horizon, size, torch.float64)
    riccati, raw = RiccatiSolver(), RiccatiSolver(refinements=0)
    narrow, wide = BlockCholeskySolver(torch.float32), BlockCholeskySolver()
    found: dict[str, Callable[[], object]] = {
        "riccati float32": lambda: riccati(single),
        "riccati float32, no refinement": lambda: raw(single),
        "riccati float64": lambda: riccati(double),
        "block cholesky float32": lambda: narrow(single),
        "block cholesky float64": lambda: wide(single),
    }
    if horizon * (size + ACTIONS) * batch <= DENSE_UNKNOWNS:
        found["dense float32"] = lambda: dense_step(single)
        found["dense float64"] = lambda: dense_step(double)
    return found


def measure(
    runs: dict[str, Callable[[], object]], repeats: int
) -> dict[str, dict[str, float]]:
    """Run all contenders in turn; return median milliseconds per contender."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start, start_processor = time.perf_counter(), time.thread_time()
            run()
            processor[name].append(1e3 * (time.thread_time() - start_processor))
            wall[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {
            "wall_ms": statistics.median(wall[name]),
            "processor_ms": statistics.median(processor[name]),
        }
        for name in runs
    }


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="horizon 10 and 30 only")
    parser.add_argument("--states", type=positive, nargs="+", default=[30, 94, 230])
    parser.add_argument(
        "--horizons", type=positive, nargs="+", default=[10, 30, 50, 100]
    )
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=positive, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.horizons = [10, 30]
    torch.set_num_threads(1)
    results = []
    print("| S | T | B | contender | wall ms | processor ms |")
    print("|---|---|---|---|---|---|")
    with torch.no_grad():
        for size in arguments.states:
            for horizon in arguments.horizons:
                for batch in arguments.batches:
                    found = measure(contenders(batch, horizon, size), arguments.repeats)
                    for name, times in found.items():
                        wall, processor = times["wall_ms"], times["processor_ms"]
                        print(
                            f"| {size} | {horizon} | {batch} | {name} "
                            f"| {wall:.1f} | {processor:.1f} |",
                            flush=True,
                        )
                    results.append(
                        {"state": size, "horizon": horizon, "batch": batch, **found}
                    )
    write_results(
        arguments.output / "chain_solvers.json",
        config=settings(arguments),
        results={"steps": results},
    )


if __name__ == "__main__":
    main()
