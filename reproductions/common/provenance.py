"""What stands beside every published number: settings, seeds, versions, hardware, time.

The facts are those that each unit of work wrote down when it ended, so a report that is
made later, elsewhere, tells about the run and not about itself.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reproductions.common.stages import DONE


def gather(directory: Path) -> dict[str, Any]:
    """Return the records of all finished units below a folder, by name."""
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(directory.rglob(DONE))
    ]
    return {record["name"]: record for record in records}


def summary(records: Iterable[dict[str, Any]]) -> str:
    """Return versions, commit, hardware and wall time as a Markdown list.

    Units that were run with different versions or sources are all named.
    """
    records = list(records)
    if not records:
        return "- no finished unit\n"
    versions = _distinct(
        ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        for record in records
    )
    sources = _distinct(_source(record["source"]) for record in records)
    machines = _distinct(_machine(record["hardware"]) for record in records)
    seconds = sum(record["wall_seconds"] for record in records)
    return (
        f"- Versions: {versions}\n"
        f"- Source: {sources}\n"
        f"- Hardware: {machines}\n"
        f"- Wall time: {seconds / 60:.1f} min summed over {len(records)} units of one "
        "process each\n"
    )


def _source(source: dict[str, Any]) -> str:
    if source["commit"] is None:
        return "no git repository"
    changed = " with changed files" if source["dirty"] else ""
    return f"commit {source['commit'][:12]}{changed}"


def _machine(hardware: dict[str, Any]) -> str:
    gpus = f", GPU {', '.join(hardware['gpus'])}" if hardware["gpus"] else ""
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} thread(s)"
        f" per process{gpus}, {hardware['system']}"
    )


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
