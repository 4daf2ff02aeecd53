"""What an agent is, in plain values: a run that goes on compares them."""

import hashlib
import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from diffplan.agents._base import Agent
from diffplan.models.base import WorldModel
from diffplan.problem import PlanningProblem
from diffplan.training._run_record import plain
from diffplan.training.episode import Episode

_DEEPEST = 6
_LATER = (
    *("agent", "seed_agent", "action_space"),
    *("auxiliary", "absorbing_steps", "offline_episodes"),
)
"""Settings that checkpoints of earlier versions do not hold."""
_LEFT_OUT = object()
_MOST_NUMBERS = 100
"""Of a tensor that may be a setting."""
_OF_PROBLEMS = ("num_particles", "risk", "action_constraints", "state_constraints")
"""Attributes that are settings of an agent's problem, where it has any."""


def described(value: object) -> Any:
    """Return the settings of an object as nested dictionaries of plain values.

    Every object is its class with its public attributes; of a problem, its particles,
    risk and constraints. What is learnt, the world model, tensors of more than 100
    numbers and containers that can be filled are left out: they are no settings.

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
        return _numbers(value)
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


def _numbers(value: Tensor) -> Any:
    """Return those of a small tensor: bounds, a temperature; a weight is no setting."""
    if value.numel() > _MOST_NUMBERS or isinstance(value, nn.Parameter):
        return _LEFT_OUT
    return float(value) if value.numel() == 1 else value.tolist()


def _kept(values: Mapping[str, object], depth: int) -> dict[str, Any]:
    pairs = {
        name: _described(each, depth - 1)
        for name, each in values.items()
        if not name.startswith("_")
    }
    return {name: each for name, each in pairs.items() if each is not _LEFT_OUT}


def described_parts(
    agent: Agent,
    seed_agent: Agent,
    auxiliary: object,
    offline_episodes: Sequence[Episode],
) -> dict[str, Any]:
    """Return the settings of what an online run is given beside its own.

    Args:
        agent: Described with its action bounds.
        seed_agent: Described too.
        auxiliary: Described by its class and its `config`, if it has one: what else it
            holds may be learnt.
        offline_episodes: Described by their number and a checksum.
    """
    config = described(getattr(auxiliary, "config", None))
    learner = {"class": type(auxiliary).__qualname__, "config": config}
    return {
        "agent": described(agent),
        "seed_agent": described(seed_agent),
        "action_space": described(agent.action_space),
        "auxiliary": None if auxiliary is None else learner,
        "offline_episodes": {
            "count": len(offline_episodes),
            "checksum": _checksum(offline_episodes),
        },
    }


def _checksum(episodes: Sequence[Episode]) -> str:
    """Return a checksum of all that is learnt from."""
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(bytes([episode.terminated]))
        for values in (episode.observations, episode.actions, episode.rewards):
            digest.update(f"{values.dtype}{values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def changes(
    saved: Mapping[str, Any],
    settings: Mapping[str, Any],
    extensible: tuple[str, ...],
    path: str = "",
) -> list[str]:
    """Return each setting that is another one now, in words.

    Args:
        saved: As they were, nested; an infinity of an earlier version is a number.
        settings: As they are now.
        extensible: Those that may differ, by their path, such as "training.rounds".
        path: Of the two, for the words.
    """
    found = []
    for name in sorted({*saved, *settings}):
        before, now = plain(saved.get(name)), settings.get(name)
        later = name in _LATER and not path
        # Neither do they hold tensors of several numbers, anywhere in these.
        later |= isinstance(now, list) and path.startswith(_LATER)
        known = name in saved or not later
        if before == now or not known or f"{path}{name}" in extensible:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += changes(before, now, extensible, f"{path}{name}.")
        else:
            words = [
                repr(t[name]) if name in t else "not set" for t in (saved, settings)
            ]
            found.append(f"{path}{name} was {words[0]}, now {words[1]}")
    return found
