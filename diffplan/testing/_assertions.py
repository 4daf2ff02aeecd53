"""What all checks share: failing in words."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor

from diffplan.errors import ConstantPlanWarning
from diffplan.plan import Plan
from diffplan.problem import Box, PlanningProblem


def within(problem: PlanningProblem, box: Box) -> PlanningProblem:
    """Return the problem with another action space."""
    other = copy.copy(problem)
    other.action_space = box
    return other


@contextmanager
def refusal(kind: type[Exception], name: str, what: str) -> Iterator[None]:
    """Expect an error of a kind whose message names an argument."""
    try:
        yield
    except kind as error:
        if name not in str(error):
            fail(f"{what}: expected a message that names {name!r}, got {error}")
        return
    except Exception as error:
        words = f"{what}: expected {kind.__name__} naming {name!r}, got {error!r}"
        raise AssertionError(words) from error
    fail(f"{what}: expected {kind.__name__} naming {name!r}, got no error")


@contextmanager
def answered(what: str, *refusals: type[Exception]) -> Iterator[None]:
    """Expect no error but these kinds, which end the block."""
    try:
        yield
    except AssertionError:
        raise
    except refusals:
        return
    except Exception as error:
        raise AssertionError(f"{what}: expected an answer, got {error!r}") from error


@contextmanager
def constants_expected() -> Iterator[None]:
    """Say nothing of plans that are constants: that is what is looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantPlanWarning)
        yield


def fail(words: str) -> NoReturn:
    """Break off with these words."""
    raise AssertionError(words)


def same(what: str, got: object, expected: object) -> None:
    """Fail unless two things are equal."""
    if got != expected:
        fail(f"{what}: expected {expected}, got {got}")


def close(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fail unless two tensors agree, relatively and absolutely."""
    same(f"{what}: shape", got.shape, expected.shape)
    if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance):
        gap = float((got - expected).detach().abs().max())
        fail(f"{what}: differs by {gap:.3g}, tolerance {tolerance}")


def same_plan(after: str, got: Plan, expected: Plan) -> None:
    """Fail unless two plans have the same actions, states and cost."""
    for name in ("actions", "states", "cost"):
        close(
            f"plan.{name} with {after}",
            getattr(got, name),
            getattr(expected, name),
            1e-5,
        )
