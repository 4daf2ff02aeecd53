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
from diffplan.functional._isolation import finite_rows, may_look, replaced
from diffplan.plan import Plan, Status

ResultT = TypeVar("ResultT")


def evaluate_soundly(
    function: Callable[..., ResultT], inputs: tuple[Tensor, ...], sound: Tensor
) -> tuple[ResultT, Tensor]:
    """Evaluate a function of a batch so that failed elements have no part in backward.

    An element fails where some number of its result is not finite. The function is
    evaluated a second time only if its result has a graph and an element fails that was
    sound before (where numbers may not be looked at: if it has a graph).

    Args:
        function: Of tensors `[B, …]` to a tensor, or a tuple of tensors, `[B, …]`.
        inputs: What to evaluate it at.
        sound: Which elements have not failed before, `[B]` bool.

    Returns:
        The result, whose numbers mean nothing for elements that are not sound, and
        which are, `[B]` bool. If all have failed nothing flows back.
    """
    result = function(*stand_ins(inputs, sound))
    leaves = tree_leaves(result)
    good = sound & finite_rows(tuple(leaves), 1)
    if not any(leaf.requires_grad for leaf in leaves):
        return result, good
    if may_look(good):
        if bool((good == sound).all()):
            return result, good
        if not bool(good.any()):
            return tree_map(_Cut.apply, result), good
    return function(*stand_ins(inputs, good)), good


def stand_ins(inputs: tuple[Tensor, ...], sound: Tensor) -> tuple[Tensor, ...]:
    """Put the numbers of the first sound element in the place of those that are not.

    Args:
        inputs: Tensors `[B, …]`.
        sound: `[B]` bool.
    """
    if not sound.shape[0] or (may_look(sound) and bool(sound.all())):
        return inputs
    return replaced(inputs, sound)


def can_start_from(plan: Plan) -> Tensor:
    """Return where a plan can be warm-started from, `[B]`: nothing of it is NaN."""
    usable = plan.status != int(Status.NON_FINITE)
    for value in (plan.actions, plan.states, *plan.memory.values()):
        usable = usable & torch.isfinite(value).flatten(1).all(dim=1)
    return usable


def where_sound(sound: Tensor, value: Tensor, other: Tensor | float) -> Tensor:
    """Return `value` `[B, …]` for elements that are sound and `other` for the rest."""
    return torch.where(sound.reshape(-1, *(1,) * (value.ndim - 1)), value, other)


def with_value(value: Tensor, of: Tensor) -> Tensor:
    """Return numbers without a graph as if they were those of a tensor that has one."""
    if not is_followed(of):
        return value
    return apply(_ValuedBothModes, _Valued, value, of)


class _Cut(torch.autograd.Function):
    """Its argument, through which nothing flows back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> None:  # noqa: ARG004
        return None


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
