"""Batched trajectory optimisation with gradient: how time and memory grow.

    python benchmarks/scaling.py [--batches 1 … 1024] [--horizons 10 … 320]
                                 [--states 4 … 32] [--budget 15] [--quick]

The protocol of papers on batched differentiable trajectory optimisation: 64 problems of
40 steps, 8 state numbers and 4 actions, in double precision, one of the three sizes
changed at a time (there are half as many actions as state numbers). The problems are
smooth and nonlinear with limits on the actions for `ILQR`, by a backward sweep and with
the states eliminated (`form="condensed"`); linear without limits for the LQR layer. The
gradient is that of the squared plans to the dynamics' parameters and the start states,
by the implicit-function theorem.

Beside each time stands the error of the gradient against central differences of plans
solved anew, along one random direction of the parameters. Peak memory is that of all
tensors alive together (`_peak_memory.py`). Sizes above one whose forward and backward
took longer than the budget are left out, and said so, as are condensed plans of more
actions than `ILQR` would ever condense by itself.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from _peak_memory import PeakMemory
from torch import Tensor, nn

import diffplan as dp
from diffplan.functional._condensed import is_short

FLOAT = torch.float64
LIMIT = 0.5
METHODS = ("ILQR, sweep", "ILQR, condensed", "LQR layer")
DIFFERENCE = 1e-5
"""The step of central differences: rounding and curvature weigh about the same."""


@dataclass(frozen=True)
class Size:
    """How large the problems are.

    Attributes:
        batch: B.
        horizon: N.
        state: nx; there are half as many actions.
    """

    batch: int = 64
    horizon: int = 40
    state: int = 8

    @property
    def actions(self) -> int:
        """Return nu."""
        return self.state // 2


class System(nn.Module):
    """x' = x + (drift · x + a · tanh(x) + control · u) / 10, a = 1 or 0."""

    def __init__(self, size: Size, *, linear: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(
            size.state, size.state + size.actions, generator=generator, dtype=FLOAT
        )
        drawn /= size.state**0.5
        # Its circle of eigenvalues lies left of zero: states stay moderate however
        # many steps there are, though tanh makes the origin itself unstable.
        drift = drawn[:, : size.state] - 1.5 * torch.eye(size.state, dtype=FLOAT)
        self.drift = nn.Parameter(drift)
        self.control = nn.Parameter(drawn[:, size.state :].clone())
        self.bend = 0.0 if linear else 1.0

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state."""
        rate = state @ self.drift.mT + self.bend * state.tanh()
        return state + 0.1 * (rate + action @ self.control.mT)

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state and the Jacobians by state and action."""
        bend = self.bend * (1 - state.tanh().square())
        eye = torch.eye(state.shape[-1], dtype=FLOAT)
        by_state = eye + 0.1 * (self.drift + torch.diag_embed(bend))
        by_action = 0.1 * self.control.expand(*state.shape[:-1], -1, -1)
        return self(state, action), by_state, by_action


class Case:
    """One method on problems of one size.

    Args:
        method: One of `METHODS`.
        size: Of the problems.
    """

    def __init__(self, method: str, size: Size) -> None:
        self.size, self.linear = size, method == "LQR layer"
        self.system = System(size, linear=self.linear)
        generator = torch.Generator().manual_seed(1)
        lead = (size.batch, size.state)
        self.state = torch.randn(lead, generator=generator, dtype=FLOAT)
        self.state.requires_grad_()
        if not self.linear:
            self.planner = dp.ILQR(
                size.horizon,
                iterations=30,
                tolerance=1e-8,
                form=method.split(", ")[1],
                gradient=dp.Implicit(),
            )

    def plan(self) -> Tensor:
        """Return the actions `[B, N, nu]`."""
        size, eye = self.size, torch.eye(self.size.state, dtype=FLOAT)
        effort = 0.1 * torch.eye(size.actions, dtype=FLOAT)
        if self.linear:
            return self.regulator(eye, effort)
        bounds = torch.full((size.actions,), LIMIT, dtype=FLOAT)
        cost = dp.objectives.QuadraticCost(eye, effort)
        box = dp.Box(-bounds, bounds)
        problem = dp.PlanningProblem(self.system, cost, box)
        return self.planner(problem, self.state).actions

    def regulator(self, eye: Tensor, effort: Tensor) -> Tensor:
        """Return the actions of the LQR layer, with matrices for each problem."""
        size = self.size

        def many(value: Tensor, steps: int) -> Tensor:
            return value.expand(size.batch, steps, *value.shape)

        horizon, zeros = size.horizon, torch.zeros(size.state, dtype=FLOAT)
        solution = dp.functional.lqr(
            dp.functional.LQRProblem(
                state_cost=many(eye, horizon + 1),
                action_cost=many(effort, horizon),
                cross_cost=many(0 * self.system.control.detach().mT, horizon),
                state_linear=many(zeros, horizon + 1),
                action_linear=many(zeros[: size.actions], horizon),
                state_jacobian=many(eye + 0.1 * self.system.drift, horizon),
                action_jacobian=many(0.1 * self.system.control, horizon),
                offset=many(zeros, horizon),
                initial_state=self.state,
            )
        )
        return solution.actions

    def gradient(self) -> tuple[Tensor, ...]:
        """Return the gradient of the squared plan to parameters and start."""
        loss = self.plan().square().sum()
        return torch.autograd.grad(loss, [*self.system.parameters(), self.state])

    def gradient_error(self) -> float:
        """Return the relative error along a random direction of the parameters."""
        generator = torch.Generator().manual_seed(2)
        leaves = list(self.system.parameters())
        directions = [
            torch.randn(leaf.shape, generator=generator, dtype=FLOAT) for leaf in leaves
        ]
        told = sum(
            (gradient * direction).sum().item()
            for gradient, direction in zip(self.gradient()[:2], directions, strict=True)
        )
        values = []
        with torch.no_grad():
            for step in (DIFFERENCE, -2 * DIFFERENCE):
                for leaf, direction in zip(leaves, directions, strict=True):
                    leaf += step * direction
                values.append(self.plan().square().sum().item())
            for leaf, direction in zip(leaves, directions, strict=True):
                leaf += DIFFERENCE * direction
        expected = (values[0] - values[1]) / (2 * DIFFERENCE)
        return abs(told - expected) / abs(expected)


def seconds(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the least seconds of some runs, of the processor and by the clock."""
    found: dict[str, list[float]] = {"processor": [], "clock": []}
    for _ in range(repeats):
        processor, clock = time.process_time(), time.perf_counter()
        run()
        found["processor"].append(time.process_time() - processor)
        found["clock"].append(time.perf_counter() - clock)
    return {name: min(values) for name, values in found.items()}


def measure(method: str, size: Size, budget: float) -> dict[str, Any]:
    """Return times, peak memory and the gradient's error at one size."""
    case = Case(method, size)
    once = seconds(case.gradient, 1)
    repeats = 3 if once["clock"] < budget / 10 else 1
    both = seconds(case.gradient, repeats) if repeats > 1 else once
    with torch.no_grad():
        forward = seconds(case.plan, repeats)
    with PeakMemory() as memory:
        case.gradient()
    return {
        **asdict(size),
        "forward_seconds": forward,
        "both_seconds": both,
        "peak_bytes": memory.peak,
        "gradient_error": case.gradient_error(),
    }


def exponent(records: list[dict[str, Any]], name: str, key: str) -> float | None:
    """Return the slope of log seconds over log size, over the upper half of sizes."""
    told = [record for record in records if key in record]
    upper = told[len(told) // 2 - 1 :] if len(told) > 2 else told
    if len(upper) < 2:
        return None
    first, last = upper[0], upper[-1]
    ratio = last[key]["processor"] / first[key]["processor"]
    return math.log(ratio) / math.log(last[name] / first[name])


def sweep(
    method: str,
    name: str,
    values: list[int],
    budget: float,
    known: dict[Size, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Measure a method over one size, save for what is known or would take long."""
    records: list[dict[str, Any]] = []
    spent = 0.0
    for value in sorted(values):
        size = replace(Size(), **{name: value})
        short = is_short(size.horizon * size.actions, affine=True)
        dense = method == "ILQR, condensed" and not short
        if dense or spent > budget:
            told = "too many actions" if dense else "the one before took too long"
            records.append({**asdict(size), "left_out": told})
            continue
        try:
            # The size in the middle belongs to all three sweeps.
            record = known[size] = known.get(size) or measure(method, size, budget)
        except (RuntimeError, dp.errors.DiffplanError) as error:
            told = str(error).splitlines()[0]
            records.append({**asdict(size), "left_out": told})
            continue
        spent = record["both_seconds"]["clock"]
        records.append(record)
        print(row(method, record), flush=True)
    return records


def row(method: str, record: dict[str, Any]) -> str:
    """Return one line of the table."""
    forward, both = record["forward_seconds"], record["both_seconds"]
    return (
        f"| {method} | {record['batch']} | {record['horizon']} | {record['state']} "
        f"| {1e3 * forward['processor']:.1f} | {1e3 * both['processor']:.1f} "
        f"| {record['peak_bytes'] / 2**20:.1f} | {record['gradient_error']:.1e} |"
    )


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="two small sizes of each")
    many = {"type": positive, "nargs": "+"}
    batches, horizons = [1, 4, 16, 64, 256, 1024], [10, 20, 40, 80, 160, 320]
    parser.add_argument("--batches", **many, default=batches)
    parser.add_argument("--horizons", **many, default=horizons)
    parser.add_argument("--states", **many, default=[4, 8, 16, 32])
    parser.add_argument("--budget", type=float, default=15.0, help="seconds of a case")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batches, arguments.horizons = [1, 4], [10, 20]
        arguments.states = [4, 8]
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    print("| method | B | N | nx | forward, ms | with gradient | MiB | error |")
    print("|---|---|---|---|---|---|---|---|")
    sizes = {
        "batch": arguments.batches,
        "horizon": arguments.horizons,
        "state": arguments.states,
    }
    for method in METHODS:
        Case(method, Size(2, 4, 4)).gradient()  # what a process does once
        found: dict[str, Any] = {}
        known: dict[Size, dict[str, Any]] = {}
        for name, values in sizes.items():
            records = sweep(method, name, values, arguments.budget, known)
            found[name] = {
                "records": records,
                "exponents": {
                    key: exponent(records, name, key)
                    for key in ("forward_seconds", "both_seconds")
                },
            }
            print(f"{method}, {name}: grows like {found[name]['exponents']}")
        results[method] = found
    write_results(
        arguments.output / "scaling.json", config=settings(arguments), results=results
    )


if __name__ == "__main__":
    main()
