"""Write the numbers of results into the pages that quote them, from the ledgers.

    python -m reproductions.numbers

A page has them between `<!-- numbers: module.function -->` and `<!-- end of numbers
-->`: the function returns the Markdown. A test fails when a page says something else,
and when it says a result in its own words.
"""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

BLOCK = re.compile(
    r"(<!-- numbers: ([\w.]+)\.(\w+) -->\n).*?(?=<!-- end of numbers -->)", re.DOTALL
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
RESULT = re.compile(r"\d[\d.]* ?(?:%|percent\b|points\b)|\b\d+(?:/| of )\d+\b")
"""Shares, differences of shares, and counts of episodes."""


def page_with_numbers(page: str) -> str:
    """Return the page with the numbers of today."""
    return BLOCK.sub(lambda block: block[1] + _call(block[2], block[3]), page)


def typed(page: str) -> list[str]:
    """Return the results that a page states outside of what is written into it."""
    prose = CODE.sub("", BLOCK.sub("", page))
    return [found[0] for found in RESULT.finditer(prose)]


def _call(module: str, function: str) -> str:
    text: str = getattr(importlib.import_module(module), function)()
    return text


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page_with_numbers(path.read_text("utf-8")), encoding="utf-8")
