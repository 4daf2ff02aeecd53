"""Tables of what precision gains and costs, in planning and in training."""

from _gpu_table import Results, table


def training_time(results: Results) -> list[str]:
    """Seconds of one update, and the share of what cannot be left out."""
    rows = []
    for size, found in results.items():
        times = found["processor_seconds"]
        for way, seconds in times.items():
            share = f"{found['bare_share']:.0%}" if way == "float32" else ""
            ratio = f"{times['float32'] / seconds:.2f}"
            rows.append((size, way, f"{seconds:.3f}", ratio, share))
    return table(("size", "way", "processor, s", "speed-up", "share"), rows)


def bf16(results: Results) -> list[str]:
    """What bfloat16 rollouts cost in quality, and gain in time."""
    rows = []
    for name, found in results.items():
        if name == "training_loss":
            continue
        error, seconds = found["gradient_error"], found["median_seconds"]
        rows.append(
            (
                name,
                f"{found['share_of_gain_lost_mean']:.2%}",
                f"{found['share_of_gain_lost_worst']:.2%}",
                f"{found['action_rms_difference']:.3f}",
                "–" if error is None else f"{error:.1%}",
                f"{seconds['float32'] / seconds['bfloat16']:.2f}",
            )
        )
    return table(
        (
            "planner",
            "lost, mean",
            "lost, worst",
            "actions differ by (rms)",
            "gradient off by",
            "speed-up",
        ),
        rows,
    )
