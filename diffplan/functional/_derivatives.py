"""Who asks for a derivative, in whatever mode: one answer for all layers of this room.

A layer that solves a system does not differentiate its elimination. It factors numbers
without a history and gives the solve a derivative of its own, which is another solve:
a node of the graph with the rules of reverse *and* forward mode. A node costs time, so
it is left out where nobody asks. `requires_grad` alone does not tell: tensors of
forward mode do not have it, nor do those that `torch.func.vmap` maps over, though
somebody outside may differentiate the whole. This module tells.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch._C._functorch import TransformType

from diffplan.errors import UnsupportedGradientError


def inside_transform() -> bool:
    """Return whether this runs inside a transform such as `torch.func.vmap`."""
    if torch.compiler.is_compiling():
        return False  # they are part of the graph
    return _is_transformed()


def is_followed(*tensors: Tensor) -> bool:
    """Return whether a derivative by one of the tensors may be asked for, in any mode.

    Inside transforms of `torch.func` the answer is always yes: a tensor does not show
    what the transforms further out want of it.

    Raises:
        UnsupportedGradientError: a transform of `torch.func` is compiled, which cannot
            see through a node that has both modes; or forward mode is nested in
            itself, where torch drops the outer tangents inside a node.
    """
    if torch.compiler.is_compiling() and _is_transformed():
        if torch.is_grad_enabled() or in_forward_mode():
            raise UnsupportedGradientError(
                "gradient: a linear solve inside torch.func transforms cannot be "
                "differentiated by torch.compile; compile what is inside the "
                "transforms, or plan under torch.no_grad()"
            )
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    if inside_transform():
        if levels(TransformType.Jvp) > 1:
            raise UnsupportedGradientError(
                "gradient: forward mode inside forward mode is not supported through "
                "a linear solve; use forward over reverse mode, as torch.func.hessian"
            )
        return True
    return in_forward_mode() and any(_has_tangent(tensor) for tensor in tensors)


def apply(
    node: type[torch.autograd.Function],
    reverse: type[torch.autograd.Function],
    *arguments: Any,
) -> Any:
    """Call a node of the graph.

    Args:
        node: With `jvp`.
        reverse: The same without it, for `torch.compile`, which cannot trace it.
        arguments: As `forward` takes them.
    """
    chosen = reverse if torch.compiler.is_compiling() else node
    return chosen.apply(*arguments)


def keep(ctx: Any, *tensors: Tensor) -> None:
    """Save tensors of a node for both modes."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling() and in_forward_mode():
        ctx.save_for_forward(*tensors)


def or_zero(
    tangents: Sequence[Tensor | None], like: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return tangents; those of tensors that do not move are zero."""
    return tuple(
        torch.zeros_like(value) if tangent is None else tangent
        for tangent, value in zip(tangents, like, strict=True)
    )


@contextmanager
def constants() -> Iterator[None]:
    """Compute constants: neither reverse nor forward mode sees what happens inside.

    `torch.no_grad()` alone lets the tangents of forward mode through.
    """
    if in_forward_mode():
        with torch.no_grad(), forward_mode._set_fwd_grad_enabled(False):
            yield
    else:
        with torch.no_grad():
            yield


def is_mapped(tensor: Tensor) -> bool:
    """Return whether `torch.func.vmap` maps over a tensor, whose numbers are hidden."""
    wrapping = torch._C._functorch
    while wrapping.is_functorch_wrapped_tensor(tensor):
        if wrapping.is_batchedtensor(tensor):
            return True
        tensor = wrapping.get_unwrapped(tensor)
    return False


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active()


def levels(*kinds: TransformType) -> int:
    """Return how many transforms of `torch.func` of these kinds this runs inside."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() in kinds for level in stack)


def in_forward_mode() -> bool:
    """Return whether forward mode is on, here or further out."""
    return forward_mode._current_level >= 0


def _has_tangent(tensor: Tensor) -> bool:
    return forward_mode.unpack_dual(tensor).tangent is not None
