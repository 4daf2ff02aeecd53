"""The results page of a preset: what was found, and where the numbers come from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproductions.common.provenance import RECORDS, summary, with_digests
from reproductions.common.tables import write_text

NO_MEANING = (
    "**The numbers on this page mean nothing:** this preset only tries whether "
    "everything runs.\n"
)


def write_page(
    output: Path,
    title: str,
    package: str,
    preset: str,
    body: Sequence[str],
    records: Mapping[str, dict[str, Any]],
) -> Path:
    """Write `README.md`, and `run.json` with the records of all units.

    Args:
        output: The folder.
        title: Of the paper.
        package: Of the reproduction, such as `latco`.
        preset: Its name.
        body: Markdown between title and provenance.
        records: Of `provenance.known`.

    Returns:
        The page.
    """
    page = [
        f"# {title}, preset `{preset}`\n",
        *([NO_MEANING] if preset == "smoke" else []),
        *body,
        "## Provenance\n",
        summary(records.values()),
        "Settings, seeds, versions, commit, hardware and time of every unit are in "
        "`run.json`; this page is written by\n"
        f"`python -m reproductions.{package} report --preset {preset}`, from the runs, "
        "and goes into the\nrepository with `publish` instead of `report`.\n",
    ]
    path = output / "README.md"
    write_text(path, "\n".join(page))
    kept = {name: with_digests(record) for name, record in records.items()}
    write_text(output / RECORDS, json.dumps(kept, indent=1) + "\n")
    return path
