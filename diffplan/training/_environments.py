"""The border check of what agents act in."""

import inspect
from collections.abc import Callable
from typing import Any

from diffplan.errors import ArgumentError
from diffplan.training._interaction import Environments


def require_environments(value: Any) -> Environments:
    """Return `value` if it steps as `diffplan.envs.vector.VectorEnv` does, else raise.

    Raises:
        ArgumentError: it is a plain environment, one of Gymnasium's vector environments
            or something else; says what to hand over instead.
    """
    methods = getattr(value, "reset", None), getattr(value, "step", None)
    if hasattr(value, "num_envs") and callable(methods[0]) and _takes_mask(methods[1]):
        return value
    name = type(value).__name__
    if hasattr(value, "num_envs"):
        mode = getattr(value, "metadata", {}).get("autoreset_mode")
        given = (
            f"{name}, whose step takes no mask of those that go on (as Gymnasium's "
            "vector wrappers; wrap the single environments)"
            if getattr(mode, "value", None) == "Disabled"
            else f"{name}, whose environments reset themselves on a schedule of their "
            "own (as those of gymnasium.make_vec)"
        )
    elif all(map(callable, methods)):
        given = f"{name}, a single environment"
    else:
        given = name
    raise ArgumentError(
        "environments: expected a diffplan.envs.vector.VectorEnv, made by "
        "diffplan.envs.make_vector(task, num_envs) or from any Gymnasium environment "
        f"by VectorEnv([lambda: gymnasium.make(name)] * num_envs), got {given}"
    )


def _takes_mask(method: Callable[..., Any] | None) -> bool:
    """Return whether a method lets some environments rest."""
    if not callable(method):
        return False
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return True  # Nothing can be known of it.
    return any(
        parameter.name == "mask" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )
