"""Write the table of gradients into `gradients.md`, from what the planners declare.

    python docs/gradient_table.py

The same declarations are what `tests/planners/test_gradient_table.py` tests, cell by
cell; another test fails when the page is not what this script writes.
"""

import inspect
import re
from pathlib import Path

from diffplan import planners
from diffplan.gradients import Detach, Implicit, Truncated, Unroll

PAGE = Path(__file__).parent / "gradients.md"
STRATEGIES = (Unroll, Truncated, Implicit, Detach)
BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def concrete_planners() -> list[type[planners.Planner]]:
    """Every planner that a user can build, in the order of their names."""
    found = [getattr(planners, name) for name in sorted(planners.__all__)]
    return [
        planner
        for planner in found
        if inspect.isclass(planner)
        and issubclass(planner, planners.Planner)
        and not inspect.isabstract(planner)
    ]


def cell(planner: type[planners.Planner], strategy: type) -> str:
    """What a planner promises under a strategy, in a few words."""
    promise = planner.supported_gradients.get(strategy)
    if promise is None:
        return "refused"
    if promise.order == 0:
        return "cost only, not by bounds"
    numbers = ", ".join(f"`{name}`" for name in planner.learnable_numbers)
    words = [
        f"planner ({numbers})" if argument == "planner" else argument
        for argument in promise.wrt
        if argument != "planner" or numbers
    ]
    return f"order {promise.order}: {', '.join(words)}"


def table() -> str:
    """The table in Markdown."""
    heads = ["planner", *(f"`{strategy.__name__}`" for strategy in STRATEGIES)]
    rows = [
        [
            f"`dp.{planner.__name__}`",
            *(cell(planner, strategy) for strategy in STRATEGIES),
        ]
        for planner in concrete_planners()
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page_with_table(page: str) -> str:
    """The page with the table of today."""
    return BLOCK.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
