"""Whether two folders of runs hold the same numbers, times and provenance apart.

    python tests/compare_runs.py BEFORE AFTER

Compares every CSV and JSON file that either folder has; says which differ.
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

NOISE = re.compile(
    "second|_share$|time|^(source|versions|hardware|inputs|sessions|files|command)$"
)
"""Columns and keys that are others in every run."""

UNCOMPARED = ("inputs.json",)
"""Fingerprints of checkpoints, which hold times."""


def clean(value: Any) -> Any:
    """Return a copy without what differs between equal runs."""
    if isinstance(value, dict):
        return {k: clean(each) for k, each in value.items() if not NOISE.search(k)}
    return [clean(each) for each in value] if isinstance(value, list) else value


def load(path: Path) -> Any:
    """Return the numbers of a file."""
    if path.suffix == ".json":
        return clean(json.loads(path.read_text(encoding="utf-8")))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [clean(r) for r in rows if not r.get("name", "").startswith("time/")]


def main(before: Path, after: Path) -> int:
    """Compare; return the exit status, 0 if nothing differs."""
    names = sorted(
        {
            path.relative_to(folder)
            for folder in (before, after)
            for path in folder.rglob("*")
            if path.suffix in (".csv", ".json") and path.name not in UNCOMPARED
        }
    )
    different = 0
    for name in names:
        missing = [folder for folder in (before, after) if not (folder / name).exists()]
        if missing or load(before / name) != load(after / name):
            different += 1
            said = f"missing in {missing[0]}" if missing else "differs"
            sys.stdout.write(f"{name}: {said}\n")
    sys.stdout.write(f"{len(names) - different} of {len(names)} are equal\n")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
