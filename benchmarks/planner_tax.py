"""What planning costs beside the model: a plan of CEM, and its calls of the model.

    python benchmarks/planner_tax.py [--minutes 2] [--quick]

CEM with 300 candidates and 30 refits, horizon 12, on an untrained RSSM. The calls that
a plan makes of the model (transition and reward; order and shapes) are written down
once and then made again, without a planner, on tensors of the same shapes. Plans and
bare calls take turns, so that other work on the machine meets both; on one thread, in
seconds of the processor and of the clock. The ratio is the median over pairs, with an
interval of 95 % from drawing pairs again; of fewer than six pairs, that is their range.

The C library keeps the memory that tensors give back: whether it returns it to the
system, and pays for that by page faults, depends on what came before in the process.

At batch 1 the RSSM has the paper's size, 230 numbers. At batch 50 a plan with it takes
minutes: there it has 62 numbers and layers of 32 units, so that the planner is compared
with less.
"""

import ctypes
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _measuring import Parser, settings, write_results
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.objectives import NegativeReturn

ACTIONS, HORIZON, SAMPLES, REFITS = 6, 12, 300, 30
PAPER: dict[str, int] = {}
SMALL = {"belief_size": 32, "hidden_size": 32, "reward_hidden": 32}


def keep_memory() -> None:
    """Let glibc keep all memory (mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD)."""
    libc = ctypes.CDLL(None)
    for option, value in ((-1, 2**31 - 1), (-3, 2**30)):
        if libc.mallopt(option, value) != 1:
            raise OSError(f"mallopt({option}, {value}) failed: this needs glibc")


@dataclass(frozen=True)
class Call:
    """One call of the model, to be made again.

    Attributes:
        function: A method of the model.
        shapes: Of its arguments.
    """

    function: Callable[..., Tensor]
    shapes: tuple[torch.Size, ...]


def written_down(
    function: Callable[..., Tensor], calls: list[Call]
) -> Callable[..., Tensor]:
    """Return the function, which then writes down how it is called."""

    def called(state: Tensor, *action: Tensor) -> Tensor:
        calls.append(Call(function, tuple(x.shape for x in (state, *action))))
        return function(state, *action)

    # A reward of the state alone must not look like one that takes an action.
    called.takes_action = function.__name__ == "step"  # type: ignore[attr-defined]
    return called


def bare_calls(
    planner: dp.Planner, model: RSSM, box: dp.Box, state: Tensor
) -> Callable[[], None]:
    """Return a function that calls the model as a plan does, and nothing else."""
    calls: list[Call] = []
    step, reward = (written_down(f, calls) for f in (model.step, model.reward))
    problem = dp.PlanningProblem(step, NegativeReturn(reward), box)
    planner(problem, state)  # tries the functions first
    calls.clear()
    planner(problem, state)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        shape: torch.rand(shape, generator=generator)
        for call in calls
        for shape in call.shapes
    }

    def run() -> None:
        for call in calls:
            call.function(*[tensors[shape] for shape in call.shapes])

    return run


def pairs(
    ways: dict[str, Callable[[], object]], seconds: float, least: int
) -> list[dict[str, tuple[float, float]]]:
    """Time all ways in turn, in seconds of the processor and of the clock."""
    found: list[dict[str, tuple[float, float]]] = []
    for way in ways.values():
        way()
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        # Whoever goes first in a pair goes second in the next one.
        names = list(ways) if len(found) % 2 else list(ways)[::-1]
        times = {}
        for name in names:
            begin = time.process_time(), time.perf_counter()
            ways[name]()
            now = time.process_time(), time.perf_counter()
            times[name] = (now[0] - begin[0], now[1] - begin[1])
        found.append(times)
    return found


def summary(found: list[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """Return medians, and the ratio of plan to bare calls with its interval."""
    draw, told = random.Random(0), {"pairs": len(found)}
    for index, clock in enumerate(("processor", "clock")):
        ratios = [times["plan"][index] / times["model"][index] for times in found]
        again = sorted(
            statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000)
        )
        told[clock] = {
            **{
                f"{name}_seconds": statistics.median(
                    times[name][index] for times in found
                )
                for name in ("plan", "model")
            },
            "ratio": statistics.median(ratios),
            "interval": (again[49], again[1949]),
        }
    return told


def main() -> None:
    """Measure and write the results."""
    parser = Parser(__doc__, quick="two refits, a few seconds")
    parser.add_argument("--minutes", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    cases = {
        "batch 1, the paper's RSSM": (1, PAPER),
        "batch 1, a small RSSM": (1, SMALL),
        "batch 50, a small RSSM": (50, SMALL),
    }
    refits, least = (2, 2) if arguments.quick else (REFITS, 3)
    seconds = 0.0 if arguments.quick else 60 * arguments.minutes / len(cases)
    planner = dp.CEM(HORIZON, num_samples=SAMPLES, num_elites=30, iterations=refits)
    box, results = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS), {}
    for name, (batch, sizes) in cases.items():
        torch.manual_seed(0)
        model = RSSM((24,), ACTIONS, **sizes).eval().requires_grad_(False)
        state = model.initial_state((batch,))
        problem = dp.PlanningProblem(model.step, NegativeReturn(model.reward), box)
        with torch.no_grad():
            ways = {
                "plan": lambda p=problem, s=state: planner(p, s),
                "model": bare_calls(planner, model, box, state),
            }
            results[name] = summary(pairs(ways, seconds, least))
        print(name, results[name], flush=True)
    write_results(arguments.output / "planner_tax.json", settings(arguments), results)


if __name__ == "__main__":
    main()
