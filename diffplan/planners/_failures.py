"""Elements of a batch that fail while a planner iterates, and stay failed.

`functional.isolation` keeps what fails in one call out of the gradient of the others. A
planner that calls its model once per iteration knows more: an element that has failed
stays where it is, so that the model need not be asked about it again. A sound element
stands in for it in all later calls, also where no number may be looked at.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from diffplan.functional._derivatives import apply, is_followed
from diffplan.functional._isolation import (
    Isolable,
    StandIns,
    finite_rows,
    may_look,
    without_gradient,
)

ResultT = TypeVar("ResultT")


def evaluate_soundly(
    function: Callable[..., ResultT],
    problem: Isolable,
    inputs: tuple[Tensor, ...],
    sound: Tensor,
) -> tuple[ResultT, Tensor]:
    """Evaluate a function of a batch so that failed elements have no part in backward.

    An element fails where some number of its result is not finite. The function is
    evaluated a second time only if its result has a graph and an element fails that was
    sound before (where numbers may not be looked at: if it has a graph).

    Args:
        function: Of a problem and tensors `[B, …]` to a tensor, or a tuple of tensors,
            `[B, …]`.
        problem: With data of each element.
        inputs: What to evaluate it at.
        sound: Which elements have not failed before, `[B]` bool.

    Returns:
        The result, whose numbers mean nothing for elements that are not sound, and
        which are, `[B]` bool. If all have failed nothing flows back.
    """
    result = function(*_with_stand_ins(problem, inputs, sound))
    leaves = tree_leaves(result)
    good = sound & finite_rows(tuple(leaves), 1)
    if not any(leaf.requires_grad for leaf in leaves):
        return result, good
    if may_look(good):
        if not bool(good.any()):
            return tree_map(without_gradient, result), good
        if bool((good == sound).all()):
            return result, good
    return function(*_with_stand_ins(problem, inputs, good)), good


def _with_stand_ins(
    problem: Isolable, inputs: tuple[Tensor, ...], sound: Tensor
) -> tuple[Any, ...]:
    if not len(sound) or (may_look(sound) and bool(sound.all())):
        return problem, *inputs
    rows = StandIns.of(sound)
    return problem.standing_in(rows), *map(rows.put, inputs)


def where_sound(sound: Tensor, value: Tensor, other: Tensor | float) -> Tensor:
    """Return `value` `[B, …]` for elements that are sound and `other` for the rest."""
    return torch.where(sound.reshape(-1, *(1,) * (value.ndim - 1)), value, other)


def with_value(value: Tensor, of: Tensor) -> Tensor:
    """Return numbers without a graph as if they were those of a tensor that has one."""
    if not is_followed(of):
        return value
    return apply(_ValuedBothModes, _Valued, value, of)


class _Valued(torch.autograd.Function):
    """The first argument, whose gradient is handed to the second."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, of: Tensor) -> Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        return None, cotangent


class _ValuedBothModes(_Valued):
    """The same with forward mode."""

    @staticmethod
    def jvp(ctx: Any, value: Tensor | None, of: Tensor | None) -> Tensor | None:  # noqa: ARG004
        return torch.zeros_like(value) if of is None and value is not None else of
