"""What a class of dynamics knows is true of its own steps, and of nobody else's."""

from typing import Any

_UNKNOWN = {"linearize": None, "rollout": None, "predict": None, "is_affine": False}
"""What dynamics may know, and what says that they do not; see `capabilities`."""


class OwnSteps:
    """Base of dynamics whose subclasses may take other steps."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Forget what is not true of a subclass that takes other steps.

        Its steps may also be those of a base that stands before the one that knows.
        """
        super().__init_subclass__(**arguments)
        steps = min(_place(cls, "step"), _place(cls, "forward"))
        for name, unknown in _UNKNOWN.items():
            if hasattr(cls, name) and steps < _place(cls, name):
                setattr(cls, name, unknown)


def _place(kind: type, name: str) -> int:
    """Return which class, in the order they are asked in, defines a name."""
    order = kind.__mro__
    return next((i for i, one in enumerate(order) if name in vars(one)), len(order))
