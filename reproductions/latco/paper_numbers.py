"""The paper's numbers, read from `paper.toml`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproductions.common import paper_numbers


@dataclass(frozen=True)
class PaperNumber:
    """A number of a table of the paper.

    Attributes:
        value: As printed.
        error: One standard error over seeds, as printed.
        unit: "%" of successes, or "" for returns.
        reference: The table.
        definition: What was measured.
    """

    value: float
    error: float
    unit: str
    reference: str
    definition: str

    def text(self) -> str:
        """Return it as text, `91 ± 3 % (Table 1)`."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.value:g} ± {self.error:g}{unit} ({self.reference})"


def load() -> dict[str, Any]:
    """Return everything in `paper.toml`."""
    return paper_numbers.load(Path(__file__).parent)


def find(task: str, planner: str) -> PaperNumber | None:
    """Return what the paper reports for a task and a planner, or None.

    Args:
        task: With or without its suite, such as `metaworld/reach`.
        planner: latco, cem, mppi or gd.

    Example:
        >>> find("metaworld/reach", "latco").text()
        '91 ± 3 % (Table 1)'
    """
    content, name = load(), task.rpartition("/")[2]
    kinds = {"success_percent": ("%", "success"), "return": ("", "return")}
    for table in ("table_1", "table_2"):
        for kind, (unit, definition) in kinds.items():
            found = content[table].get(kind, {}).get(name, {}).get(planner)
            if found:
                return PaperNumber(
                    value=found[0],
                    error=found[1],
                    unit=unit,
                    reference=content[table]["reference"],
                    definition=content["definitions"][definition],
                )
    return None
