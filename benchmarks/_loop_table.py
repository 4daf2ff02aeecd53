"""The table of planners in a control loop, beside peers."""

from _gpu_table import Results, table


def control_loop(results: Results) -> list[str]:
    """Latencies and costs of planners in a loop, beside peers."""
    rows = []
    for task, found in results["tasks"].items():
        for record in found["contenders"]:
            if "error" in record:
                rows.append((task, record["name"], record["error"], *[""] * 5))
                continue
            processor, clock = record["processor_ms"], record["ms"]
            rows.append(
                (
                    task,
                    record["name"],
                    f"{processor['p50']:.2f}",
                    f"{processor['p99']:.2f}",
                    f"{clock['p50']:.2f}",
                    f"{clock['p99']:.2f}",
                    f"{record['mean_cost']:.2f}",
                    f"{record['first_seconds']:.2f}",
                )
            )
    versions = "; ".join(
        name + ": " + ", ".join(f"{package} {v}" for package, v in told.items())
        for name, told in results["versions"].items()
    )
    header = ("processor, ms: p50", "p99", "clock, ms: p50", "p99", "cost", "first, s")
    return [
        f"{versions}.",
        "",
        *table(("task", "contender", *header), rows),
    ]
