"""Calls of every public function and class with arguments of another kind.

In a process of its own, without the run-time type checks of the test suite. The oracle
for what fits an annotation is beartype. Prints what was answered, as JSON.
"""

import inspect
import json
import math
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping import AnnotationError

import diffplan as dp
from diffplan import (
    agents,
    constraints,
    functional,
    models,
    objectives,
    planners,
    solvers,
    testing,
    training,
)

# As type checkers have it: an int is welcome where a float is expected.
CONF = BeartypeConf(is_pep484_tower=True)
PACKAGES = (
    *(agents, constraints, functional, models, objectives, planners, solvers),
    *(testing, training),
)
OTHERS = (dp.CVaR, dp.Derivatives, dp.Implicit, dp.StochasticProblem, dp.Truncated)

# Where an infinite number has a meaning: a limit that is none, equal weights, a norm.
MAY_BE_INFINITE = {
    *("clip", "force_limit", "gradient_clip", "interval", "max_penalty", "maximum"),
    *("norm", "temperature"),
}

# Records of results, which the library makes; some take what `torch.func` and
# `torch.export` put in them.
RECORDS = {
    *("Best", "Episode", "Evaluation", "Experience", "Iterate", "Job", "LossRecord"),
    *("PlanRecord", "PlanRequest", "Search", "Solution", "Watch"),
}
WRONG = {
    "None": None,
    "word": "no",
    "fraction": 1.5,
    "bool": True,
    "complex": 1j,
    "list": [object()],
    "object": object(),
    "class": int,
    "array": np.ones((2, 2, 2)),  # fewer dimensions are welcome in some places
    "complex tensor": torch.ones(2, 2, dtype=torch.complex64),
    "mask": torch.ones(2, 2, dtype=torch.bool),
}


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of the kind; shapes and numbers are other tests' matter."""
    try:
        return is_bearable(value, hint, conf=CONF)
    except AnnotationError:  # all but a size such as T+1, alone without its T
        return True


def right(hint: Any) -> object:
    """Something of the kind, that need not make sense."""
    for value in RIGHT:
        if fits(value, hint):
            return value
    if not isinstance(hint, type):
        return None
    if issubclass(hint, tuple):
        return hint(*map(right, typing.get_type_hints(hint).values()))
    return object.__new__(hint)


def dynamics(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return state + action


BOX = dp.Box([-1.0], [1.0])
PROBLEM = dp.PlanningProblem(dynamics, objectives.ActionPenalty(1.0), BOX)
RIGHT = [
    *(1.0, 2, True, torch.arange(2), *(torch.ones([2] * n) for n in (2, 4, 3, 1))),
    *([objectives.ActionPenalty(1.0)], objectives.ActionPenalty(1.0), BOX, PROBLEM),
    *(
        (2,),
        (2.0, 2.0),
        [dynamics],
        [torch.ones(2)],
        torch.Size([2]),
        torch.float64,
        {},
    ),
    *([constraints.StateConstraint(dynamics)], dp.CEM(1), torch.nn.Linear(1, 1)),
    *(dynamics, "a", torch.ones(()), torch.ones(2, dtype=torch.bool)),
    *(models.RSSM((3,), 1), agents.UniformAgent(BOX), torch.Generator(), np.ones(2)),
]


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    for package in PACKAGES:
        for name in package.__all__:
            value = getattr(package, name)
            record = not inspect.isfunction(value) and package is functional
            if not record and name not in RECORDS and callable(value):
                yield name, value
    yield from ((kind.__name__, kind) for kind in OTHERS)


def own(called: Callable[..., Any]) -> Callable[..., Any] | None:
    """What is called by it, if it defines that itself."""
    if not inspect.isclass(called):
        return called if inspect.isfunction(called) else None
    return vars(called).get("__init__") if not inspect.isabstract(called) else None


def no_numbers(name: str, hint: Any) -> Iterator[tuple[str, object]]:
    """What fits an annotation of numbers, and is none."""
    for number in (math.nan, -math.inf, math.inf):
        for value in (number, (number, number)):
            allowed = number == math.inf and name in MAY_BE_INFINITE
            if not allowed and has_numbers(hint) and fits(value, hint):
                yield str(number), value


def has_numbers(hint: Any) -> bool:
    return hint is float or any(map(has_numbers, typing.get_args(hint)))


def calls() -> Iterator[tuple[str, str, Callable[[], object]]]:
    for name, called in public():
        function = own(called)
        if not inspect.isfunction(function):
            continue
        hints = typing.get_type_hints(function)
        named = [
            (key, parameter)
            for key, parameter in inspect.signature(called).parameters.items()
            if key in hints and "KEYWORD" in parameter.kind.name
        ]
        named = [pair for pair in named if not pair[1].kind.name.startswith("VAR")]
        others = {
            key: right(hints[key])
            for key, parameter in named
            if parameter.default is parameter.empty
        }
        for key, _ in named:
            for what, value in (*WRONG.items(), *no_numbers(key, hints[key])):
                if not fits(value, hints[key]) or what not in WRONG:
                    arguments = {**others, key: value}
                    yield (
                        f"{name}({key}={what})",
                        key,
                        lambda c=called, a=arguments: c(**a),
                    )


def answer(name: str, call: Callable[[], object]) -> tuple[bool, str]:
    """Whether the call was refused by the argument's name, and in which words."""
    try:
        return False, f"accepted: {call()!r}"
    except dp.errors.DiffplanError as error:
        return name in str(error), str(error)
    except Exception as error:  # raw
        return False, f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    answers = [(label, *answer(name, call)) for label, name, call in calls()]
    sys.stdout.write(json.dumps(answers))
