"""What stands beside every published number: settings, seeds, versions, hardware, time.

The facts are those that each unit of work wrote down when it ended, so a report that is
made later, elsewhere, tells about the run and not about itself.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffplan.training._files import read_json
from reproductions.common.runs import folders
from reproductions.common.units import fingerprint, read_record

RECORDS = "run.json"
Records = Mapping[str, dict[str, Any]]
"""What each unit wrote down when it ended, by its name."""

CHANGED = "*"
"""Marks a source with changes that no commit holds."""
UNKNOWN = "unknown"
"""Stands for the source of what ran outside of a repository."""
LEGEND = (
    f"What has a {CHANGED} was run, or made from what was run, from a source that no "
    "commit holds."
)
"""Stands below a table that has such a mark."""


def gather(directory: Path) -> dict[str, Any]:
    """Return the records of all finished units below a folder, by name."""
    records = [read_record(folder) for folder in folders(directory)]
    return {record["name"]: record for record in records if record is not None}


def known(directory: Path, output: Path) -> dict[str, Any]:
    """Return the records of finished units and, of others, those that are published.

    Args:
        directory: Of the runs; it need not exist.
        output: Where an earlier report may have left a `run.json`.

    Raises:
        FileError: that `run.json` cannot be read.
    """
    return {**published(output), **gather(directory)}


def published(output: Path) -> dict[str, Any]:
    """Return the records of the units that a results folder shows, by name.

    Raises:
        FileError: they cannot be read.
    """
    path = output / RECORDS
    return read_json(path, "the records of units") if path.exists() else {}


def with_digests(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with a SHA-256 of each file and folder, not of each file inside.

    A unit of data has hundreds; the hash of a folder is that of the sorted lines
    `<SHA-256>  <path>`, as `sha256sum` writes them. The fingerprint of the unit, which
    is made of all files, is kept beside them.
    """
    found: dict[str, list[str]] = {}
    for name, entry in sorted(record.get("files", {}).items()):
        place, _, inside = name.partition("/")
        found.setdefault(place, []).append(
            f"{entry['sha256']}  {inside}\n" if inside else entry["sha256"]
        )
    hashes = {
        place: lines[0]
        if "  " not in lines[0]
        else hashlib.sha256("".join(lines).encode()).hexdigest()
        for place, lines in found.items()
    }
    kept = {key: value for key, value in record.items() if key != "files"}
    own = {"fingerprint": fingerprint(record), "sha256": hashes}
    return kept | (own if hashes else {})


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
    marked = {
        f"from a tree with changes that no commit holds ({CHANGED})": sum(
            bool(record["source"]["dirty"]) for record in records
        ),
        "outside of a repository (unknown)": sum(
            record["source"]["commit"] is None for record in records
        ),
    }
    parts = [f"{count} {where}" for where, count in marked.items() if count]
    ran = f". Of {len(records)} units ran {', '.join(parts)}" if parts else ""
    machines = _distinct(_machine(record["hardware"]) for record in records)
    seconds = sum(record["wall_seconds"] for record in records)
    return (
        f"- Versions: {versions}\n"
        f"- Source: {sources}{ran}\n"
        f"- Hardware: {machines}\n"
        f"- Wall time: {seconds / 60:.1f} min summed over {len(records)} units of one "
        f"process each ({_by_stage(records)})\n"
    )


def source_of(records: Records, *names: str) -> str:
    """Return the commits that units were run from, `52c0b634` or `52c0b634*`.

    A star marks files that were changed and are in no commit; units without a record
    count for nothing.

    Example:
        >>> source_of({"a": {"source": {"commit": "0123456789", "dirty": True}}}, "a")
        '01234567*'
    """
    found = [records[name]["source"] for name in names if name in records]
    return ", ".join(dict.fromkeys(map(_source, found))) or "–"


def mark(records: Records, *names: str) -> str:
    """Return `*` if any of the units was run from a source that no commit holds.

    That is a changed tree, or none of a repository. Units without a record count for
    nothing: earlier versions kept none of some.
    """
    return mark_of(source_of(records, *names))


def mark_of(sources: str) -> str:
    """Return the mark of sources in the words of `source_of`."""
    return CHANGED if CHANGED in sources or UNKNOWN in sources else ""


def _source(source: Mapping[str, Any]) -> str:
    if source["commit"] is None:
        return UNKNOWN
    return f"{source['commit'][:8]}{CHANGED if source['dirty'] else ''}"


def _by_stage(records: Iterable[dict[str, Any]]) -> str:
    found: dict[str, float] = {}
    for record in records:
        stage = record["name"].partition("/")[0]
        found[stage] = found.get(stage, 0.0) + record["wall_seconds"]
    return ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in found.items())


def _machine(hardware: dict[str, Any]) -> str:
    gpus = f", GPU {', '.join(hardware['gpus'])}" if hardware["gpus"] else ""
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} thread(s)"
        f" per process{gpus}, {hardware['system']}"
    )


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
