"""Where results go: beside the runs, or, when they are published, into the repository.

A folder of results belongs to us if its `manifest.json` says so. It names every file
with its SHA-256; nothing else in the folder is ever touched.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffplan._files import write_atomically
from diffplan.errors import ArgumentError, FileError
from reproductions.common.runs import Found, missing_section, shown, view
from reproductions.common.units import read_json_or_none, sha256, write_json

MANIFEST = "manifest.json"
PAGE = "README.md"
LEAST_FREE_BYTES = 100 * 2**20

Report = Callable[[Path, Path, str], Path]
"""`(run folder, output, preset) → page`."""

_CONTENT_ERRORS = (
    *(ArithmeticError, LookupError, ValueError, TypeError),
    *(FileError, zipfile.BadZipFile),
)
"""What readers raise when a whole file holds something else than they wrote."""


def require_writable(name: str, folder: Path) -> None:
    """Raise unless files can be written to a folder, which is made if needed.

    Args:
        name: Of the argument, for the message.
        folder: The folder.

    Raises:
        ArgumentError: it is no folder, is read-only, or its disk is nearly full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"diffplan")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ArgumentError(
            f"{name}: expected a folder to write to, got {folder}: {error.strerror}"
        ) from error
    if free < LEAST_FREE_BYTES:
        raise ArgumentError(
            f"{name}: expected {LEAST_FREE_BYTES // 2**20} MB free on the disk of "
            f"{folder}, got {free // 2**20} MB"
        )


def require_ours(folder: Path, paper: str) -> None:
    """Raise if results written to a folder could replace files of somebody else.

    Raises:
        ArgumentError: the folder holds files, and no manifest of this paper's results.
    """
    strangers = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if strangers and _manifest(folder).get("paper") != paper:
        raise ArgumentError(
            f"--output: expected a new or empty folder, or results of {paper}, got "
            f"{folder} with {min(strangers).name}; choose another one"
        )


@contextmanager
def made(
    report: Report,
    directory: Path,
    units: Sequence[Found],
    preset: str,
    committed: Path | None = None,
) -> Iterator[tuple[Path, list[Found]]]:
    """Make results in a temporary folder; a unit that breaks the report is left out.

    Args:
        report: Makes them.
        directory: The run folder.
        units: Of `runs.scan`.
        preset: Its name.
        committed: Results that these are added to.

    Yields:
        The folder, and the units, of which one may be called broken now.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def attempt(number: int, found: Sequence[Found]) -> Path:
            folder = Path(scratch) / str(number)
            return _attempt(report, directory, found, preset, committed, folder)

        try:
            yield attempt(0, units), list(units)
            return
        except _CONTENT_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
        # Every file looks whole, and one holds no result: find the unit it belongs to.
        for number, suspect in enumerate(shown(units), start=1):
            found = [_broken(u, reason) if u is suspect else u for u in units]
            try:
                output = attempt(number, found)
            except _CONTENT_ERRORS:
                continue
            yield output, found
            return
        raise FileError(
            f"directory: expected results that can be read in {directory}, got {reason}"
        )


def annotate(page: Path, notes: Sequence[str]) -> None:
    """Insert paragraphs below the title of a page."""
    title, _, rest = page.read_text(encoding="utf-8").partition("\n")
    kept = [note for note in notes if note]
    text = "\n\n".join([title, *(note.rstrip() for note in kept), rest.lstrip("\n")])
    page.write_text(text, encoding="utf-8")


def notes(
    units: Sequence[Found], blocked: Mapping[str, str], own: Sequence[str], preset: str
) -> list[str]:
    """Return what has to be known before anything else on a page.

    Args:
        units: Of `runs.scan`.
        blocked: Units that were not started, with the unit that they waited for.
        own: What differs from the preset, in words.
        preset: Its name.
    """
    several = f" (and {len(own) - 3} more)" if len(own) > 3 else ""
    return [
        f"**These are not the settings of preset `{preset}`:** "
        f"{'; '.join(own[:3])}{several}."
        if own
        else "",
        missing_section(units, blocked),
    ]


def install(made_in: Path, output: Path, paper: str, preset: str) -> None:
    """Put made results in their place, and remove those that are no longer made.

    Args:
        made_in: Holds nothing else.
        output: Ours, see `require_ours`, or new.
        paper: The name of its package.
        preset: Its name.
    """
    paths = sorted(p for p in made_in.iterdir() if p.name != MANIFEST)
    files = {path.name: sha256(path) for path in paths}
    before = _manifest(output).get("files", {})
    content = {"paper": paper, "preset": preset}
    strangers = [name for name in files if (output / name).exists()] if before else []
    if set(strangers) - before.keys():
        raise ArgumentError(
            f"--output: expected a place for {min(set(strangers) - before.keys())}, "
            f"got a file of that name in {output} that is not ours"
        )
    # First of all, with old and new: whatever is interrupted, all files are known.
    write_json(output / MANIFEST, {**content, "files": {**before, **files}})
    for path in paths:
        data = path.read_bytes()
        write_atomically(output / path.name, lambda file, data=data: file.write(data))
    for name in before.keys() - files.keys():
        (output / Path(name).name).unlink(missing_ok=True)
    write_json(output / MANIFEST, {**content, "files": files})


def _attempt(
    report: Report,
    directory: Path,
    units: Sequence[Found],
    preset: str,
    committed: Path | None,
    scratch: Path,
) -> Path:
    output = scratch / "output"
    output.mkdir(parents=True)
    if committed is not None and committed.exists():
        shutil.copytree(committed, output, dirs_exist_ok=True)
    view(directory, shown(units), scratch / "runs")
    report(scratch / "runs", output, preset)
    return output


def _broken(unit: Found, reason: str) -> Found:
    return Found(unit.name, unit.place, "broken", reason, {})


def _manifest(folder: Path) -> dict[str, Any]:
    return read_json_or_none(folder / MANIFEST) or {}
