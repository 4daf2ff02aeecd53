"""The table of what a GPU measured, and how tables are written."""

from collections.abc import Iterable, Sequence
from typing import Any

Results = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def gpu(results: Results) -> list[str]:
    """Seconds on a GPU, eagerly and as one CUDA graph."""
    card, lines = results["card"], []
    if card:
        lines += [f"{card['name']}, driver {card['driver_version']}.", ""]
    rows, measured = [], {}
    for section, found in results["sections"].items():
        if "left_out" in found:
            told = f"left out: {found['left_out']}"
            rows.append((section, "", "", told, "", ""))
            continue
        measured[section] = found
        for case, way, timing in _timings(found):
            error = timing.get("error", "").splitlines()
            seconds = error[0] if error else f"{timing['median_seconds']:.4f}"
            first = "" if error else f"{timing.get('first_seconds', float('nan')):.1f}"
            memory = "" if error else f"{timing.get('peak_mib', float('nan')):.0f}"
            rows.append((section, case, way, seconds, first, memory))
    lines += table(("section", "case", "way", "s", "first call, s", "MiB"), rows)
    waits = measured.get("synchronisation", {})
    waits = {k: v for k, v in waits.items() if not k.startswith("_")}
    if waits:
        quiet = [name for name, told in waits.items() if told == "never waits"]
        lines += ["", f"Never wait for the device: {', '.join(quiet)}."]
        lines += [f"{k}: {v}" for k, v in waits.items() if k not in quiet]
    tests = measured.get("tests")
    if tests:
        lines += ["", f"Tests marked `gpu`: {tests['last_lines'][-1]}."]
        failed = [line for line in tests["last_lines"] if line.startswith("FAILED")]
        lines += ["", *(f"- `{line.split()[1]}`" for line in failed)]
    return lines


def _timings(found: Results) -> Iterable[tuple[str, str, Results]]:
    """Yield case, way and timing of a section, whose cases may have several ways."""
    for name, entry in found.items():
        if not isinstance(entry, dict) or name.startswith("_"):
            continue
        if "median_seconds" in entry or "error" in entry:
            yield "", name, entry
        else:
            for way, timing in entry.items():
                yield name, way, timing
