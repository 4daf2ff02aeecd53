"""The table of how batched planning with gradient grows."""

from _gpu_table import Results, table


def scaling(results: Results) -> list[str]:
    """Milliseconds and memory over batch, horizon and state; what they grow like."""
    rows, growth = [], []
    for method, found in results.items():
        for name, told in found.items():
            for key, exponent in told["exponents"].items():
                if exponent is not None:
                    what = key.removesuffix("_seconds")
                    growth.append((method, name, what, f"{exponent:.2f}"))
            for record in told["records"]:
                sizes = (record["batch"], record["horizon"], record["state"])
                if "left_out" in record:
                    reason = f"left out: {record['left_out']}"
                    rows.append((method, *sizes, reason, "", "", ""))
                    continue
                forward, both = record["forward_seconds"], record["both_seconds"]
                rows.append(
                    (
                        method,
                        *sizes,
                        f"{1e3 * forward['processor']:.1f}",
                        f"{1e3 * both['processor']:.1f}",
                        f"{record['peak_bytes'] / 2**20:.1f}",
                        f"{record['gradient_error']:.0e}",
                    )
                )
    header = ("method", "B", "N", "nx", "forward, ms", "with gradient, ms", "MiB")
    grows = table(("method", "over", "time", "exponent"), growth)
    return [*table((*header, "gradient's error"), rows), "", *grows]
