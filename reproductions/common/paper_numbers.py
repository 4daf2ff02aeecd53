"""What stands in a paper's `paper.toml`: its title, and numbers with their sources."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

FILE = "paper.toml"


@cache
def load(folder: Path) -> dict[str, Any]:
    """Return everything in the `paper.toml` of a paper's folder."""
    return tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
