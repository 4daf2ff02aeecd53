"""The infos of several environments as one dictionary, in Gymnasium's format.

Each entry becomes an array over the environments, and `_entry` is the mask of those
that gave it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def batched(infos: Mapping[int, Mapping[str, Any]], count: int) -> dict[str, Any]:
    """Return the infos of some environments as one dictionary of arrays.

    Gymnasium's own helper gives an array the type that the first environment's entry
    has, so that 0 from one and 0.5 from another would be 0 twice. Here all count.

    Args:
        infos: By the number of the environment.
        count: How many environments there are, B.

    Example:
        >>> batched({1: {"success": True}}, 2)["success"].tolist()
        [False, True]
    """
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for info in infos.values() for name in info):
        values = {i: info[name] for i, info in infos.items() if name in info}
        mask = np.zeros(count, bool)
        mask[list(values)] = True
        result[name], result[f"_{name}"] = _gathered(values, count), mask
    return result


def _gathered(values: Mapping[int, Any], count: int) -> Any:
    """Return one array, or a dictionary of them, with the values in their places."""
    given = list(values.values())
    if all(isinstance(value, dict) for value in given):
        return batched(values, count)
    plain = (bool, int, float, np.number, np.bool_)
    shapes = {value.shape if isinstance(value, np.ndarray) else () for value in given}
    numbers = all(isinstance(value, (*plain, np.ndarray)) for value in given)
    if numbers and len(shapes) == 1:
        stacked = np.array(given)
        if stacked.dtype != object:  # As are whole numbers beyond 64 bits.
            places = np.zeros((count, *stacked.shape[1:]), stacked.dtype)
            places[list(values)] = stacked
            return places
    objects = np.full(count, None, dtype=object)
    for index, value in values.items():
        objects[index] = value
    return objects
