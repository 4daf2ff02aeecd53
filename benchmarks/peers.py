"""Our planners against the libraries that people use today, on the same problems.

    python benchmarks/peers.py [--environments .nox/peers] [--peers mpc torchrl …]
                               [--batches 1 64] [--horizons 20 50] [--states 3 10]
                               [--rounds 5] [--quick]

Convex layers are compared on smaller problems with more actions besides, one at a time,
which is what a controller solves.

Each peer runs in a virtual environment of its own (`nox -s bench` fills them), each
contender in a process of its own on one thread. The two take turns, and medians are
compared; each peer gets a results file. A contender must also say what it found: the
cost of its actions, and the largest slope that the bounds leave there, both counted by
the same function, stand beside its time. A peer that could not be installed or that
fails on a case is reported with its error.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from _workers import ENVIRONMENTS, Worker, interpreter

OURS = "ours_worker"
ROUND_SECONDS = 0.5
"""A turn repeats a short solve until it has taken about this long."""
CASE_SECONDS = 20.0
"""A slow solve gets fewer turns, three at least, to take about this long."""


@dataclass(frozen=True)
class Case:
    """One comparison; the fields are what workers read.

    Attributes:
        peer: The library, and the environment and worker of that name.
        planner: Our planner, or LQR, the layer.
        problem: "linear" or "pendulums".
        batch: B.
        horizon: T.
        state: S; one pendulum per three numbers.
        actions: A, of the linear problem; a pendulum has one.
        iterations: Of the planner, at most.
        limit: Largest absolute action, or None.
        backward: Whether a gradient through the plan is part of the time.
        wrt: To what: the "state", or "everything" (parameters of the dynamics too).
        jacobians: "analytic" or "autodiff", for planners that linearise.
        samples: Candidates per iteration.
        elites: Of them, how many are kept.
        std: Spread of the first candidates.
        temperature: Of the softmax.
        dtype: Of everything.
        compiled: Whether `torch.compile` is used, by each contender in its own way (a
            peer that has none runs as it is).
        exported: Whether ours is code without Python, see `planner.export`.
    """

    peer: str
    planner: str
    problem: str
    batch: int
    horizon: int
    state: int
    actions: int
    iterations: int
    limit: float | None = 1.0
    backward: bool = False
    wrt: str = "everything"
    jacobians: str = "analytic"
    samples: int = 500
    elites: int = 50
    std: float = 1.0
    temperature: float = 1.0
    dtype: str = "float32"
    compiled: bool = False
    exported: bool = False

    @property
    def kind(self) -> str:
        """What sets this case apart beside its sizes."""
        words = [self.problem]
        if self.planner == "ILQR" and self.problem == "pendulums":
            words.append(f"{self.jacobians} Jacobians")
        words.append("with gradient" if self.backward else "forward")
        if self.compiled:
            words.append("compiled")
        if self.exported:
            words.append("exported")
        return ", ".join(words)


SECOND_ORDER = {"iterations": 10, "dtype": "float64"}


def cases(
    batches: Iterable[int], horizons: Iterable[int], states: Iterable[int]
) -> Iterator[Case]:
    """Yield every comparison, grouped by peer."""
    sizes = [
        {"batch": batch, "horizon": horizon, "state": state, "actions": state // 3}
        for state in states
        for horizon in horizons
        for batch in batches
    ]
    for size in sizes:
        linear = Case("mpc", "ILQR", "linear", **SECOND_ORDER, **size)
        nonlinear = replace(linear, problem="pendulums", state=whole(size["state"]))
        regulator = replace(linear, planner="LQR", limit=None, iterations=1)
        yield from (regulator, replace(regulator, backward=True))
        yield from (linear, replace(linear, backward=True))
        yield from (nonlinear, replace(nonlinear, backward=True))
        # Without Jacobians the peer's gradient leaves terms out: forward only.
        yield replace(nonlinear, jacobians="autodiff")
        if size["horizon"] <= 20:  # the graph of the layer grows with the horizon
            for case in (regulator, linear, nonlinear):
                yield replace(case, compiled=True)
    shorter = [{**size, "horizon": 15} for size in sizes if size["horizon"] == 20]
    for size in [*shorter, *sizes]:
        yield from sampling(Case("mppi", "MPPI", "linear", iterations=1, **size))
    for size in sizes:
        yield from sampling(Case("torchrl", "CEM", "linear", iterations=5, **size))
    for size in (*control_sizes(sizes), *sizes):
        convex = Case("cvxpylayers", "ILQR", "linear", **SECOND_ORDER, **size)
        yield from (convex, replace(convex, backward=True))
        if size["batch"] == 1 and size["horizon"] <= 20:
            # One step of ours is the optimum, and a program takes all that it has.
            yield replace(convex, exported=True, iterations=1)
    for size in sizes:
        free = Case(
            "theseus",
            "ILQR",
            "pendulums",
            limit=None,
            jacobians="autodiff",
            wrt="state",
            **SECOND_ORDER,
            **{**size, "state": whole(size["state"])},
        )
        yield from (free, replace(free, backward=True))


def control_sizes(sizes: list[dict[str, int]]) -> Iterator[dict[str, int]]:
    """Yield sizes of linear control, one problem at a time."""
    if len(sizes) > 1:  # not for a quick look
        for state, actions in ((3, 2), (5, 2), (8, 4)):
            for horizon in (10, 20, 40):
                yield dict(batch=1, horizon=horizon, state=state, actions=actions)


def sampling(linear: Case) -> Iterator[Case]:
    """Yield the comparisons of a planner that samples; compiled where that is quick."""
    nonlinear = replace(linear, problem="pendulums", state=whole(linear.state))
    for case in (linear, nonlinear):
        yield case
        if case.state == 3 and case.horizon <= 20:
            yield replace(case, compiled=True)


def whole(state: int) -> int:
    """Return the largest state of whole pendulums, three numbers each."""
    return 3 * (state // 3)


def compare(case: Case, ours: Worker, peer: Worker, rounds: int) -> dict[str, Any]:
    """Measure both contenders on one case, in turn."""
    contenders = {"ours": ours, "peer": peer}
    record: dict[str, Any] = {"case": asdict(case), "kind": case.kind}
    counts: dict[str, int] = {}
    for name, worker in contenders.items():
        try:
            record[name] = worker.ask(prepare=asdict(case))
            (once,) = worker.ask(measure=1)["seconds"]
        except RuntimeError as error:
            record[name] = {"error": str(error)}
            return record
        counts[name] = max(1, round(ROUND_SECONDS / max(once, 1e-6)))
        rounds = min(rounds, max(3, int(CASE_SECONDS / max(once, ROUND_SECONDS))))
        record[name]["seconds"] = []
    for _ in range(rounds):
        for name, worker in contenders.items():
            seconds = worker.ask(measure=counts[name])["seconds"]
            record[name]["seconds"].append(statistics.median(seconds))
    for name in contenders:
        record[name]["median_ms"] = 1e3 * statistics.median(record[name]["seconds"])
    record["ratio"] = record["peer"]["median_ms"] / record["ours"]["median_ms"]
    return record


def run(
    name: str, chosen: list[Case], environments: Path, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the cases of one peer; return the records, and its versions or an error."""
    try:
        python = interpreter(environments, name)
    except RuntimeError as error:
        return [], {"error": str(error)}
    script = f"{name}_worker"
    peer, ours = Worker(python, script), Worker(sys.executable, OURS)
    records: list[dict[str, Any]] = []
    try:
        versions = peer.ask(versions=[])
    except RuntimeError as error:
        return [], {"error": str(error)}
    for case in chosen:
        record = compare(case, ours, peer, rounds)
        records.append(record)
        print(row(record), flush=True)
        # A worker that died is started again for the next case.
        if peer.process.poll() is not None:
            peer = Worker(python, script)
        if ours.process.poll() is not None:
            ours = Worker(sys.executable, OURS)
    peer.close()
    ours.close()
    return records, versions


HEADER = (
    "| planner | peer | problem | S | A | T | B | ours ms | peer ms | peer / ours "
    "| our cost | peer's cost | our slope | peer's slope |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(record: dict[str, Any]) -> str:
    """Return one line of the table."""
    case, ours, peer = record["case"], record["ours"], record.get("peer", {})
    left = (
        f"| {case['planner']} | {case['peer']} | {record['kind']} | {case['state']} "
        f"| {case['actions']} | {case['horizon']} | {case['batch']} "
    )
    for name, found in (("ours", ours), ("peer", peer)):
        if "error" in found:
            return f"{left}| {name} failed: {found['error']} | | | | | | |"
    return (
        f"{left}| {ours['median_ms']:.2f} | {peer['median_ms']:.2f} "
        f"| {record['ratio']:.1f} | {ours['cost']:.5g} | {peer['cost']:.5g} "
        f"| {ours['slope']:.1e} | {peer['slope']:.1e} |"
    )


def plot(folder: Path) -> None:
    """Draw one figure per planner: the time of both contenders in every case."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    files = sorted(folder.glob("peers_*.json"))
    records = [
        record
        for file in files
        for record in json.loads(file.read_text())["results"]["comparisons"]
    ]
    measured = [record for record in records if "ratio" in record]
    for planner in dict.fromkeys(record["case"]["planner"] for record in measured):
        mine = [record for record in measured if record["case"]["planner"] == planner]
        labels = [
            f"{record['case']['peer']}: {record['kind']}, S {record['case']['state']}, "
            f"T {record['case']['horizon']}, B {record['case']['batch']} "
            f"({record['ratio']:.1f}×)"
            for record in mine
        ]
        heights = range(len(mine))
        figure, axes = plt.subplots(figsize=(9, 1.2 + 0.2 * len(mine)))
        times = {
            name: [record[name]["median_ms"] for record in mine]
            for name in ("ours", "peer")
        }
        axes.hlines(heights, times["ours"], times["peer"], color="lightgrey", zorder=1)
        axes.scatter(times["ours"], heights, s=16, label=f"diffplan {planner}")
        axes.scatter(times["peer"], heights, s=16, marker="s", label="peer")
        axes.set(xscale="log", xlabel="milliseconds per plan", yticks=list(heights))
        axes.set_yticklabels(labels, fontsize=7)
        axes.invert_yaxis()
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        figure.savefig(folder / f"peers_{planner.lower()}.svg", bbox_inches="tight")
        plt.close(figure)


def main() -> None:
    """Measure, print a table, and write the results file and the figures."""
    parser = Parser(__doc__, quick="the smallest sizes only")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    peers = sorted({case.peer for case in cases([1], [20], [3])})
    parser.add_argument("--peers", nargs="+", choices=peers, help="only these")
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 64])
    parser.add_argument("--horizons", type=positive, nargs="+", default=[20, 50])
    parser.add_argument("--states", type=positive, nargs="+", default=[3, 10])
    parser.add_argument("--rounds", type=positive, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batches, arguments.horizons = arguments.batches[:1], [20]
        arguments.states, arguments.rounds = arguments.states[:1], 2
    torch.set_num_threads(1)  # as the workers do
    chosen = [
        case
        for case in cases(arguments.batches, arguments.horizons, arguments.states)
        if not arguments.peers or case.peer in arguments.peers
    ]
    print(HEADER)
    for name in dict.fromkeys(case.peer for case in chosen):
        mine = [case for case in chosen if case.peer == name]
        records, found = run(name, mine, arguments.environments, arguments.rounds)
        if "error" in found:
            print(f"| {name} was left out: {found['error']} |")
            continue
        write_results(
            arguments.output / f"peers_{name}.json",
            config=settings(arguments),
            results={"versions": found, "comparisons": records},
        )
    plot(arguments.output)


if __name__ == "__main__":
    main()
