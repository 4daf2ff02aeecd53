"""The lines of figures: each planner in its colour, its variants told apart."""

from typing import Any

from diffplan._colours import OTHER, PLANNERS

_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (9, 4)))


def planner_styles(*labels: str) -> list[tuple[str, Any]]:
    """Return colour and dashes, as matplotlib has them, of the lines of a figure.

    Args:
        *labels: That name a planner somehow, "Grad-MPC" or "latco_duals"; those that
            name the same one differ in their dashes.
    """
    found: list[tuple[str, Any]] = []
    for label in labels:
        plain = "".join(filter(str.isalnum, label.lower()))
        # The longest name first: DCEM is no CEM.
        names = sorted(PLANNERS, key=len, reverse=True)
        name = next((each for each in names if each.lower() in plain), "")
        colour = PLANNERS.get(name, OTHER)[0]
        before = sum(colour == other for other, _ in found)
        found.append((colour, _DASHES[before % len(_DASHES)]))
    return found
