"""The table of what each planner costs as it is built."""

from _gpu_table import Results, table


def defaults(results: Results) -> list[str]:
    """What a plan and its gradient take, at three sizes."""
    sizes = results["sizes"]
    first = next(iter(sizes.values()))["planners"]
    rows = []
    for planner, told in first.items():
        cells = [_cost(found["planners"][planner]) for found in sizes.values()]
        rows.append((planner, f"`{told['strategy']}`", *cells))
    about = "; ".join(
        f"{name}: B = {size['batch']}, T = {size['horizon']}, S = {size['state']}, "
        f"A = {size['action']}, {size['units']} units"
        for name, size in ((name, found["size"]) for name, found in sizes.items())
    )
    loads = f"{results['load_before']:.1f} before and {results['load_after']:.1f} after"
    return [
        "<!-- costs -->",
        "Milliseconds of a processor, and MiB, of a plan → and with its gradient.",
        "",
        *table(("planner", "gradient", *sizes), rows),
        "",
        f"{about}. Load of the machine: {loads}.",
        "<!-- end of costs -->",
    ]


def _cost(found: Results) -> str:
    plan, gradient = found["plan"], found["gradient"]
    times = [f"{1e3 * each['median_seconds']:,.0f}" for each in (plan, gradient)]
    sizes = [f"{each['peak_bytes'] / 2**20:,.1f}" for each in (plan, gradient)]
    return f"{' → '.join(times)} ms, {' → '.join(sizes)} MiB"
