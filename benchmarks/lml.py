"""The LML projection, forward and backward, against a convex layer and bisection.

    python benchmarks/lml.py [--repeats 7] [--quick]

Everything is measured in one process on one thread, the contenders in turn, and the
medians are compared: `diffplan.functional.lml`; the same derivative after 60 halvings
of a bracket, the plain way to find the one unknown; and the program as a layer of
cvxpylayers, solved by SCS. How far each answer is from Brent's method stands beside it.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from diffplan.functional import lml

HALVINGS = 60
TURN_SECONDS = 0.2
"""A turn repeats a short run until it has taken about this long."""
SLOW_SECONDS = 10.0
"""A contender whose single run takes longer has one turn only."""

Projection = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Rows of how many scores, how many chosen, in which precision."""

    batch: int
    n: int
    k: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Shown in the table, and the key of the results."""
        precision = str(self.dtype).removeprefix("torch.")
        return f"n={self.n}, k={self.k}, batch={self.batch}, {precision}"


CASES = [
    Case(batch, n, k, dtype)
    for batch, n, k in ((100, 100, 10), (64, 1000, 100))
    for dtype in (torch.float32, torch.float64)
]


class Bisection(torch.autograd.Function):
    """The projection by halving a bracket; backward in closed form, as ours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        """Halve [-max x - 20, -min x + 20]."""
        low = -x.amax(-1, keepdim=True) - 20
        high = -x.amin(-1, keepdim=True) + 20
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = torch.sigmoid(x + middle).sum(-1, keepdim=True) > k
            low = torch.where(above, low, middle)
            high = torch.where(above, middle, high)
        y = torch.sigmoid(x + (low + high) / 2)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        """Return h (g - <h, g> / Σh) with h = y (1 - y)."""
        (y,) = ctx.saved_tensors
        h = y * (1 - y)
        weighted = h * cotangent
        mean = weighted.sum(-1, keepdim=True) / h.sum(-1, keepdim=True)
        return weighted - h * mean, None


def convex_layer(n: int, k: int) -> Projection:
    """Return the program as a layer of cvxpylayers."""
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    scores, weights = cp.Parameter(n), cp.Variable(n)
    entropy = cp.sum(cp.entr(weights) + cp.entr(1 - weights))
    program = cp.Problem(
        cp.Minimize(-scores @ weights - entropy), [cp.sum(weights) == k]
    )
    layer = CvxpyLayer(program, parameters=[scores], variables=[weights])

    def project(x: Tensor) -> Tensor:
        return layer(x)[0]

    return project


def by_root_finding(x: Tensor, k: int) -> Tensor:
    """Return the projection of rows by Brent's method in float64."""
    rows = []
    for row in x.double().numpy():

        def excess(shift: float, row: Any = row) -> float:
            return expit(row + shift).sum() - k

        shift = brentq(excess, -row.max() - 40, -row.min() + 40, xtol=1e-14)
        rows.append(torch.as_tensor(expit(row + shift)))
    return torch.stack(rows)


def measure(
    contenders: dict[str, Projection], x: Tensor, cotangent: Tensor, repeats: int
) -> dict[str, list[float]]:
    """Return seconds per forward and backward, the contenders measured in turn."""
    loops, turns = {}, {}
    for name, project in contenders.items():
        once = timed(project, x, cotangent, 1)  # warms up
        turns[name] = 1 if once > SLOW_SECONDS else repeats
        if once < TURN_SECONDS:
            timed(project, x, cotangent, 30)  # the allocator takes a while to settle
            once = timed(project, x, cotangent, 10)
        loops[name] = max(1, int(TURN_SECONDS / once))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, project in contenders.items():
            if turn < turns[name]:
                seconds[name].append(timed(project, x, cotangent, loops[name]))
    return seconds


def timed(project: Projection, x: Tensor, cotangent: Tensor, loops: int) -> float:
    """Return seconds of one forward and backward, the mean of so many."""
    started = time.perf_counter()
    for _ in range(loops):
        leaf = x.detach().requires_grad_()
        project(leaf).backward(cotangent)
    return (time.perf_counter() - started) / loops


def compare(case: Case, repeats: int, with_layer: bool) -> dict[str, dict[str, Any]]:
    """Return seconds and error of each contender on one case."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, case.n)
    x, cotangent = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(case.dtype)
        for _ in range(2)
    )
    contenders: dict[str, Projection] = {
        "diffplan": lambda value: lml(value, case.k),
        f"bisection, {HALVINGS} halvings": lambda value: Bisection.apply(value, case.k),
    }
    if with_layer:
        contenders["cvxpylayers, SCS"] = convex_layer(case.n, case.k)
    seconds = measure(contenders, x, cotangent, repeats)
    exact = by_root_finding(x, case.k)
    results = {}
    for name, project in contenders.items():
        weights = project(x).double()
        results[name] = {
            "seconds": seconds[name],
            "median_ms": 1e3 * statistics.median(seconds[name]),
            "largest_error": float((weights - exact).abs().max()),
            "largest_error_of_sum": float((weights.sum(-1) / case.k - 1).abs().max()),
        }
    ours = results["diffplan"]["median_ms"]
    for result in results.values():
        result["times_slower"] = result["median_ms"] / ours
    return results


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="leave cvxpylayers out")
    parser.add_argument("--repeats", type=positive, default=7)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for case in CASES:  # the first seconds of a process are slow, and not counted
        compare(case, arguments.repeats, with_layer=False)
    print(
        "| forward and backward | contender | ms | / ours | error | error of Σy / k |"
    )
    print("|---|---|---|---|---|---|")
    everything = {}
    for case in CASES:
        results = compare(case, arguments.repeats, not arguments.quick)
        everything[case.name] = results
        for name, result in results.items():
            print(
                f"| {case.name} | {name} | {result['median_ms']:.3f} "
                f"| {result['times_slower']:.1f} | {result['largest_error']:.0e} "
                f"| {result['largest_error_of_sum']:.0e} |"
            )
    path = arguments.output / "lml.json"
    write_results(path, config=settings(arguments), results=everything)


if __name__ == "__main__":
    main()
