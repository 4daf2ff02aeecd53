"""The paper's numbers, read from `paper.toml`."""

from pathlib import Path
from typing import Any

from reproductions.common import paper_numbers


def load() -> dict[str, Any]:
    """Return everything in `paper.toml`."""
    return paper_numbers.load(Path(__file__).parent)


def regression_curve(method: str) -> dict[int, float]:
    """Return the published error by the number of updates (Fig. 6, left).

    Example:
        >>> regression_curve("gd")[59800]
        0.00028
    """
    table = load()["regression"]["error_while_training"]
    return dict(zip(table["updates"], table[method], strict=True))


def regression_iterations(method: str) -> dict[int, float]:
    """Return the published error by the true number of iterations (Fig. 6, right).

    Example:
        >>> regression_iterations("dcem")[10]
        0.000389
    """
    table = load()["regression"]["error_by_iterations"]
    return dict(zip(table[f"{method}_iterations"], table[method], strict=True))


def locomotion_box(task: str, phase: str) -> list[float]:
    """Return a published box: low whisker, quartiles, high whisker (Fig. 4).

    Example:
        >>> locomotion_box("cheetah-run", "embedded")[2]
        652
    """
    box: list[float] = load()["locomotion"]["returns"][task][phase]
    return box


def locomotion_steps(task: str, phase: str) -> int:
    """Return the published number of simulated steps of a phase.

    Example:
        >>> locomotion_steps("walker-walk", "initial")
        4000000
    """
    steps: int = load()["locomotion"]["steps"][task][phase]
    return steps


def locomotion_evaluations(phase: str) -> int:
    """Return the published number of transitions that are evaluated for an action.

    Example:
        >>> locomotion_evaluations("embedded")
        12000
    """
    count: int = load()["locomotion"]["evaluations"][phase]
    return count
