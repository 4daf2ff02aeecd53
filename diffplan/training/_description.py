"""What an agent is, in plain values: a run that goes on compares them."""

import types
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from diffplan.models.base import WorldModel
from diffplan.problem import PlanningProblem

_DEEPEST = 6
_LATER = ("agent", "seed_agent")
"""Settings that checkpoints of earlier versions do not hold."""
_LEFT_OUT = object()
_OF_PROBLEMS = ("num_particles", "risk", "action_constraints", "state_constraints")
"""Attributes that are settings of an agent's problem, where it has any."""


def described(value: object) -> Any:
    """Return the settings of an object as nested dictionaries of plain values.

    Every object is its class with its public attributes; of a problem, its particles,
    risk and constraints. What is learnt, the world model, large tensors and containers
    that can be filled are left out: they are no settings.

    Args:
        value: An agent, with its planner, objective and exploration.

    Example:
        >>> from diffplan.agents import GaussianNoise
        >>> described(GaussianNoise(0.1))
        {'class': 'GaussianNoise', 'std': 0.1}
    """
    found = _described(value, _DEEPEST)
    return None if found is _LEFT_OUT else found


def _described(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, WorldModel) or depth == 0:
        return _LEFT_OUT
    if isinstance(value, PlanningProblem):
        settings = {name: getattr(value, name, ()) for name in _OF_PROBLEMS}
        found = _kept({n: each for n, each in settings.items() if each != ()}, depth)
        return {"class": type(value).__qualname__, **found} if found else _LEFT_OUT
    if isinstance(value, Tensor):
        # One number may be a setting, such as a temperature; a weight is none.
        known = value.numel() == 1 and not isinstance(value, nn.Parameter)
        return float(value) if known else _LEFT_OUT
    if isinstance(value, list | dict | set):
        return _LEFT_OUT  # what is filled while it works is no setting
    if isinstance(value, tuple):
        return _kept({str(i): each for i, each in enumerate(value)}, depth)
    if isinstance(value, partial):
        bound = {"function": value.func, **value.keywords}
        return {"class": "partial", **_kept(bound, depth)}
    if isinstance(value, type | types.FunctionType | types.MethodType):
        return {"function": value.__qualname__}
    attributes = dict(getattr(value, "__dict__", {}))
    if isinstance(value, nn.Module):
        attributes.pop("training", None)
        attributes |= {**value._buffers, **value._modules}
    return {"class": type(value).__qualname__, **_kept(attributes, depth)}


def _kept(values: Mapping[str, object], depth: int) -> dict[str, Any]:
    pairs = {
        name: _described(each, depth - 1)
        for name, each in values.items()
        if not name.startswith("_")
    }
    return {name: each for name, each in pairs.items() if each is not _LEFT_OUT}


def changes(
    saved: Mapping[str, Any],
    settings: Mapping[str, Any],
    extensible: tuple[str, ...],
    path: str = "",
) -> list[str]:
    """Return each setting that is another one now, in words.

    Args:
        saved: As they were, nested.
        settings: As they are now.
        extensible: Those that may differ, by their path, such as "training.rounds".
        path: Of the two, for the words.
    """
    found = []
    for name in sorted({*saved, *settings}):
        before, now = saved.get(name), settings.get(name)
        later = name in _LATER and name not in saved and not path
        if before == now or later or f"{path}{name}" in extensible:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += changes(before, now, extensible, f"{path}{name}.")
        else:
            found.append(f"{path}{name} was {before!r}, now {now!r}")
    return found
