"""The small files of a run folder, in JSON, and what a killed process leaves there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffplan._files import reading, write_atomically


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        expected: What it should be, for the message.

    Raises:
        FileError: it is missing or holds something else.
    """
    with reading(path, expected):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, no object")
        return content


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files that a killed process left in `directory`."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)
