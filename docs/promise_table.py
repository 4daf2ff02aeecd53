"""Write the table of promises into `promises.md`, from the checks and the planners.

    python docs/promise_table.py

Rows are the checks that `dp.testing.check_planner` runs, in the words of their
docstrings; columns are the planners of `tests/planner_cases.py`, on which the contract
suite runs every check. A check from which a planner may be exempt says so in its
docstring, as a planner that "declares `attribute`"; the cell then shows the attribute.
A test fails when the page is not what this script writes.
"""

import inspect
import re
import sys
from pathlib import Path

from diffplan import testing
from diffplan.planners import Planner
from diffplan.testing._planners import PlannerCheck

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "promises.md"
BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
EXEMPTION = re.compile(r"declares `(\w+)`")

CHECKS = (*testing.PLANNER_CHECKS, testing.check_states_follow_actions)
"""All that `check_planner` runs."""


def planners() -> dict[str, list[Planner]]:
    """The planners of the contract suite, by the name of their class."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from planner_cases import CASES
    finally:
        sys.path.pop(0)
    found: dict[str, list[Planner]] = {}
    for case in CASES:
        planner = case.build()
        found.setdefault(type(planner).__name__, []).append(planner)
    return dict(sorted(found.items()))


def promise(check: PlannerCheck) -> str:
    """The first sentence of a check's docstring, or of its first paragraph."""
    text = inspect.getdoc(check)
    if not text:
        raise ValueError(f"{check.__name__}: a check says in a docstring what it asks")
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!])\s", paragraph)[0].removesuffix(".")


def cell(check: PlannerCheck, kind: list[Planner]) -> str:
    """Whether a promise holds for a planner: yes, or why it does not apply."""
    named = EXEMPTION.findall(inspect.getdoc(check) or "")
    reasons = [
        next((name for name in named if getattr(planner, name, False)), None)
        for planner in kind
    ]
    if not any(reasons):
        return "yes"
    why = ", ".join(f"`{name}`" for name in dict.fromkeys(filter(None, reasons)))
    some = "" if all(reasons) else "in some settings "
    return f"{some}does not apply: {why}"


def table() -> str:
    """The table in Markdown."""
    kinds = planners()
    heads = ["promise", "check", *(f"`{name}`" for name in kinds)]
    rows = [
        [
            promise(check),
            f"`{check.__name__.removeprefix('check_')}`",
            *(cell(check, kind) for kind in kinds.values()),
        ]
        for check in CHECKS
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page_with_table(page: str) -> str:
    """The page with the table of today."""
    return BLOCK.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
