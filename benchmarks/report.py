"""Write the tables of all results files, and the page of the documentation from them.

    python benchmarks/report.py

Reads `benchmarks/results/*.json`, as the other scripts here wrote them, and writes
`benchmarks/results/README.md`. No number is typed.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from _costs_table import defaults
from _gpu_table import Results, gpu, table
from _loop_table import control_loop
from _measuring import RESULTS
from _precision_tables import bf16, training_time
from _scaling_table import scaling


def source(content: Results) -> str:
    """Say where the numbers of a results file come from."""
    versions, machine = content["versions"], content["hardware"]
    commit = f"`{(content['source'].get('commit') or 'unknown')[:10]}`"
    if content["source"].get("dirty"):
        commit += " with uncommitted changes"
    processor = machine.get("processor") or machine.get("cpu", "unknown processor")
    command = "python benchmarks/" + " ".join(content["command"])
    torch = versions.get("torch", "?")
    return (
        f"`{command}`, threads: {content['threads']}, torch {torch}, {processor}, "
        f"commit {commit}, {content['date'][:10]}."
    )


def latco_iteration(results: Results) -> list[str]:
    """Milliseconds of one LatCo iteration."""
    medians = results["median_ms"]
    first = next(iter(medians.values()))
    rows = [
        (name, f"{milliseconds:.1f}", f"{milliseconds / first:.2f}")
        for name, milliseconds in medians.items()
    ]
    return table(("engine and solver", "ms", "relative"), rows)


def gaussian_latco(results: Results) -> list[str]:
    """Milliseconds of one iteration of Gaussian LatCo, beside LatCo's."""
    rows = [
        (size, name, f"{milliseconds:.1f}", f"{found['over_latco'][name]:.2f}")
        for size, found in results.items()
        for name, milliseconds in found["median_ms"].items()
    ]
    return table(("model", "planner", "ms", "times LatCo"), rows)


def lml(results: Results) -> list[str]:
    """Milliseconds of the LML layer, forward and backward."""
    rows = [
        (
            case,
            name,
            f"{found['median_ms']:.2f}",
            f"{found['times_slower']:,.1f}",
            f"{found['largest_error']:.1e}",
        )
        for case, contenders in results.items()
        for name, found in contenders.items()
    ]
    header = ("case", "method", "ms", "times ours", "largest error")
    return table(header, rows)


def implicit_gradient(results: Results) -> list[str]:
    """The implicit gradient of LatCo against finite differences."""
    rows = []
    whole, theseus = results["whole_planner"], results["theseus_implicit"]
    for name, found in (
        ("implicit, at frozen multipliers", results),
        ("implicit, against the whole planner", whole),
        ("Theseus' implicit mode, same point", theseus),
    ):
        errors = found["directional"]
        seconds = found.get("backward_seconds")
        rows.append(
            (
                name,
                *(f"{error['relative_error']:.1e}" for error in errors.values()),
                "" if seconds is None else f"{seconds:.2f}",
            )
        )
    kinds = [f"error, {kind}" for kind in results["directional"]]
    iterations = results["backward_in_iterations"]
    return [
        *table(("gradient", *kinds, "backward, s"), rows),
        "",
        f"Our backward takes the time of {iterations:.1f} planner iterations.",
    ]


def peers(results: Results) -> list[str]:
    """Milliseconds of a plan beside a peer's."""
    rows = []
    for record in results["comparisons"]:
        case, ours, peer = record["case"], record["ours"], record.get("peer", {})
        # Older files do not say that there was one action per three numbers.
        actions = case.get("actions", case["state"] // 3)
        sizes = (case["state"], actions, case["horizon"], case["batch"])
        if "ratio" not in record:
            error = ours.get("error") or peer.get("error")
            rows.append((case["planner"], record["kind"], *sizes, error, *[""] * 5))
            continue
        rows.append(
            (
                case["planner"],
                record["kind"],
                *sizes,
                f"{ours['median_ms']:.2f}",
                f"{peer['median_ms']:.2f}",
                f"**{record['ratio']:.1f}**",
                f"{ours['cost']:.5g} / {peer['cost']:.5g}",
                f"{ours['slope']:.0e} / {peer['slope']:.0e}",
            )
        )
    sizes = ("S", "A", "T", "B")
    header = ("planner", "problem", *sizes, "ours, ms", "peer, ms", "ratio")
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    return [
        f"Peer: {versions}. Costs and slopes: ours / peer's.",
        "",
        *table((*header, "costs", "slopes left"), rows),
    ]


def memory(results: Results) -> list[str]:
    """Peak memory of a gradient over the horizon."""
    rows = []
    for name, found in results.items():
        for kept, again in zip(found["kept"], found["checkpointed"], strict=True):
            rows.append(
                (
                    name,
                    kept["horizon"],
                    f"{kept['peak_bytes'] / 2**20:.1f}",
                    f"{again['peak_bytes'] / 2**20:.1f}",
                    f"{again['seconds'] / kept['seconds']:.2f}",
                )
            )
    slopes = "; ".join(
        f"{name} T^{found['exponents']['kept']:.2f} without, "
        f"T^{found['exponents']['checkpointed']:.2f} with checkpoints"
        for name, found in results.items()
    )
    header = ("planner", "T", "MiB", "checkpointed, MiB", "time, relative")
    return [*table(header, rows), "", f"Peak memory grows like {slopes}."]


def plan_times(results: Results) -> list[str]:
    """Seconds of a plan with the paper's counts."""
    rows = [
        (
            name,
            mode,
            found["iterations"],
            found[mode].get("error") or f"{found[mode]['median_seconds']:.3f}",
            f"{found['floor']['seconds']:.4f}",
            "–" if found["paper_seconds"] is None else f"{found['paper_seconds']:.0f}",
        )
        for name, found in results["plans"].items()
        for mode in ("eager", "graph", "compiled")
        if mode in found
    ]
    reached = results["reached"]
    header = ("planner", "mode", "iterations", "s", "floor, s", "paper, s")
    return [
        *table(header, rows),
        "",
        f"Reached here: {reached['flops'] / 1e12:.2f} TFLOP/s, "
        f"{reached['bytes'] / 1e9:.0f} GB/s.",
    ]


def compiling(results: Results) -> list[str]:
    """What compiling costs and gains."""
    rows = [
        (
            name.removeprefix("problem: "),
            f"`{found.get('compiles', 'planner')}.compile()`",
            f"{found['compile_seconds']:.0f}",
            f"{found['eager_ms']:.2f}",
            f"{found['compiled_ms']:.2f}",
        )
        for name, found in results.items()
    ]
    header = ("planner", "compiled by", "to compile, s", "eager, ms", "compiled, ms")
    return table(header, rows)


def random_numbers(results: Results) -> list[str]:
    """What drawing noise costs, beside torch's and beside planning."""
    first = next(iter(results.values()))["median_seconds"]
    rows = [
        (name, f"{1000 * found['median_seconds']:.0f}", f"{ratio:.1f}")
        for name, found in results.items()
        for ratio in [found["median_seconds"] / first]
    ]
    return table(("", "ms", "times `torch.randn`"), rows)


def planner_tax(results: Results) -> list[str]:
    """Plans beside their calls of the model alone."""
    rows = []
    for name, found in results.items():
        # Drawn again, so few pairs give the least and the largest: no 95 %.
        kind = "range" if found["pairs"] < 6 else "95 %"
        for clock in ("processor", "clock"):
            told = found[clock]
            low, high = told["interval"]
            rows.append(
                (
                    name,
                    clock,
                    f"{told['plan_seconds']:.2f}",
                    f"{told['model_seconds']:.2f}",
                    f"**{told['ratio']:.2f}**",
                    f"{low:.2f} … {high:.2f}, {kind}",
                    found["pairs"],
                )
            )
    header = ("", "seconds of the", "plan, s", "model alone, s", "ratio")
    return table((*header, "interval", "pairs"), rows)


def batch_invariance(results: Results) -> list[str]:
    """Successes of episodes that were planned alone and together."""
    starts = results["starts"]
    rows = []
    for name, found in results.items():
        if name == "starts":
            continue
        errors = [
            f"{sorted(found[key])[starts // 2]:.0e} / {max(found[key]):.0e}"
            for key in ("first_plans_float32", "first_plans_float64")
        ]
        other = found["other_outcome"]
        which = ", ".join(f"start {number}" for number in other)
        rows.append(
            (
                name,
                found["successes_alone"],
                found["successes_together"],
                f"{len(other)} ({which})" if other else 0,
                *errors,
            )
        )
    one, many = "in batches of 1", f"in a batch of {starts}"
    header = ("planner", one, many, "starts with another outcome")
    return table((*header, "float32, median / most", "float64"), rows)


SECTIONS: dict[str, tuple[str, str, Callable[[Results], list[str]]]] = {
    "defaults": (
        "What each planner costs as it is built",
        "Through a network of one hidden layer; the gradient goes to its weights.",
        defaults,
    ),
    "latco_iteration": (
        "One LatCo iteration at the size of the paper's RSSM",
        "State 230, 6 actions, horizon 30 where nothing else is said.",
        latco_iteration,
    ),
    "gaussian_latco": (
        "One iteration of Gaussian LatCo",
        "By what its steps know of derivatives. 50 samples, horizon 30, one problem; "
        "both planners with the model's analytic Jacobian where they take one.",
        gaussian_latco,
    ),
    "lml": (
        "The LML projection, forward and backward",
        "",
        lml,
    ),
    "implicit_gradient": (
        "The implicit gradient of LatCo",
        "Relative errors against central differences along random directions of the "
        "given state and of the reward's parameters.",
        implicit_gradient,
    ),
    "peers_mpc": ("Against mpc.pytorch", "", peers),
    "peers_mppi": ("Against pytorch_mppi", "", peers),
    "peers_torchrl": ("Against TorchRL's CEM", "", peers),
    "peers_cvxpylayers": (
        "Against cvxpylayers",
        "Linear control with limits; at batch 1 as a controller solves it.",
        peers,
    ),
    "peers_theseus": ("Against Theseus", "", peers),
    "control_loop": (
        "In a control loop of 50 Hz",
        "Swing-ups of a pendulum and a cartpole and a point mass, one second ahead, "
        "each plan warm-started by the one before; one thread. The cost is that of "
        "what happened.",
        control_loop,
    ),
    "scaling": (
        "How batched planning with gradient grows",
        "One size changed at a time from B = 64, N = 40, nx = 8, nu = 4.",
        scaling,
    ),
    "memory": ("Memory of gradients", "To an RSSM of the paper's size.", memory),
    "training_time": (
        "An update of a world model on a CPU",
        "Share: of bare convolutions and matrix products, with their derivatives, in "
        "float32.",
        training_time,
    ),
    "bf16": (
        "bfloat16 rollouts",
        "An RSSM of the paper's size, trained for a short time; plans are judged by "
        "the float32 model; what is lost is relative to what planning gains.",
        bf16,
    ),
    "plan_times_cuda": (
        "A plan with the paper's counts, on a GPU",
        "Horizon 30, an RSSM of the paper's size.",
        plan_times,
    ),
    "gpu": (
        "What one GPU does in eight minutes",
        "At the size of the papers: an RSSM of 230 numbers, LatCo with 200 iterations "
        "of a horizon of 30, CEM with 100 refits of 10,000 candidates, Grad-MPC with "
        "40 steps of 1,000 candidates, an RSSM update on 50 x 50 frames; iLQR with ten "
        "iterations of a horizon of 20 on pendulums.",
        gpu,
    ),
    "random_numbers": (
        "Random numbers",
        "For 1,000 problems, 300 candidates of 12 steps with 6 actions, on one thread.",
        random_numbers,
    ),
    "planner_tax": (
        "What planning costs beside the model",
        "CEM with 300 candidates, 30 refits, horizon 12 on an untrained RSSM, and the "
        "same calls of the model without a planner, in turn.",
        planner_tax,
    ),
    "batch_invariance": (
        "Episodes alone and together",
        "Successes in stage (a) of LatCo's reproduction, and how far actions of the "
        "first plan differ between both ways; the successes are those in float32.",
        batch_invariance,
    ),
    "compiling": (
        "Compiling",
        "A pendulum of three numbers, horizon 15, or an untrained RSSM of 200 units "
        "for 24 sensor values, horizon 12, 240 candidates.",
        compiling,
    ),
}


def report(folder: Path) -> str:
    """Return the page of all results in a folder."""
    lines = ["# Benchmarks", "", "Written by `python benchmarks/report.py`.", ""]
    for name, (title, about, write) in SECTIONS.items():
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        lines += [f"## {title}", ""]
        lines += [about, ""] if about else []
        lines += [*write(content["results"]), "", source(content), ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    page = report(RESULTS)
    (RESULTS / "README.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
