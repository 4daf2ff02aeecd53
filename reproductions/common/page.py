"""The results page of a preset: what was found, and where the numbers come from."""

import json
from pathlib import Path

from diffplan._runs.tables import markdown_table, write_text
from reproductions.common.experiment import Paper, Results
from reproductions.common.provenance import RECORDS, known, summary, with_digests

NO_MEANING = (
    "**The numbers on this page mean nothing:** this preset only tries whether "
    "everything runs.\n"
)


def write_page(paper: Paper, directory: Path, output: Path, preset: str) -> Path:
    """Write everything that the finished units allow, and what was published before.

    What is published (CSV, JSON and figures in `output`) is replaced unit by unit and
    never deleted; the page is made from it alone.

    Args:
        paper: Whose experiments report.
        directory: The run folder of the preset.
        output: Receives `README.md`, tables, figures, and `run.json` with the records
            of all units.
        preset: Its name.

    Returns:
        The page.
    """
    output.mkdir(parents=True, exist_ok=True)
    records = known(directory, output)
    body, rows = list[str](), list[list[str]]()
    for each in paper.experiments:
        if preset in each.presets:
            made = each.report(Results(directory / each.name, output, preset, records))
            if made is not None:
                body += [f"## {made.title or each.title}\n", made.text]
                rows += [[str(value) for value in row] for row in made.rows]
    table = [markdown_table(paper.columns, rows)] if rows else []
    claims = paper.claims(Results(directory, output, preset, records))
    shown = [paper.above, *table, paper.below, claims, *body] if body else []
    page = [
        f"# {paper.facts['name']}, preset `{preset}`\n",
        *([NO_MEANING] if preset == "smoke" else []),
        *([text for text in shown if text] or ["No finished unit yet.\n"]),
        "## Provenance\n",
        summary(records.values()),
        "Settings, seeds, versions, commit, hardware and time of every unit are in "
        "`run.json`; this page is written by\n"
        f"`python -m reproductions.{paper.name} report --preset {preset}`, from the "
        "runs, and goes into the\nrepository with `publish` instead of `report`.\n",
    ]
    path = output / "README.md"
    write_text(path, "\n".join(page))
    kept = {name: with_digests(record) for name, record in records.items()}
    write_text(output / RECORDS, json.dumps(kept, indent=1) + "\n")
    return path
