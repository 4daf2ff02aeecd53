"""Jacobians along a trajectory: many small, independent functions at once.

For a function applied to each leading index on its own, `J[i] = ∂f(x[i]) / ∂x[i]`. One
forward pass serves all indices; the rows of all Jacobians come from R backward passes,
which run as one vectorised pass.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from diffplan.errors import ShapeError


def batched_jacobian(
    function: Callable[..., Tensor], *inputs: Float[Tensor, "*batch _"]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Evaluate a function and its Jacobian with respect to each input.

    Args:
        function: Maps inputs `[…, n_i]` to an output `[…, R]`, each leading index
            independently of the others.
        inputs: Tensors `[…, n_i]` with the same leading dimensions.

    Returns:
        The output `[…, R]` and, per input, its Jacobian `[…, R, n_i]`. Both are
        differentiable, also with respect to what `function` closes over.

    Example:
        >>> _, (jacobian,) = batched_jacobian(lambda x: x.square(), torch.ones(3, 2))
        >>> jacobian[0]
        tensor([[2., 0.],
                [0., 2.]])
    """
    output, pullback = vjp(function, *inputs)  # type: ignore[misc]
    lead = inputs[0].shape[:-1]
    if output.shape[:-1] != lead or not output.ndim:
        expected = ", ".join(map(str, [*lead, "R"]))
        raise ShapeError(
            f"function: expected an output [{expected}], got {list(output.shape)}"
        )
    size = output.shape[-1]
    if size == 0:
        rows = tuple(
            value.new_zeros(*output.shape[:-1], 0, value.shape[-1]) for value in inputs
        )
        return output, rows
    if size == 1:
        gradients = pullback(torch.ones_like(output))
        return output, tuple(gradient.unsqueeze(-2) for gradient in gradients)
    basis = torch.eye(size, dtype=output.dtype, device=output.device)
    cotangents = basis.reshape(size, *(1,) * (output.ndim - 1), size)
    cotangents = cotangents.expand(size, *output.shape)
    gradients = vmap(pullback)(cotangents)
    return output, tuple(gradient.movedim(0, -2) for gradient in gradients)


def linearize_dynamics(
    dynamics: Callable[[Tensor, Tensor], Tensor],
    state: Float[Tensor, "*batch S"],
    action: Float[Tensor, "*batch A"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Linearise dynamics that do not know their own Jacobian.

    Args:
        dynamics: `(state, action) → next_state`, for any leading dimensions.
        state: `[…, S]`.
        action: `[…, A]`.

    Returns:
        Next state `[…, S]`, `∂next/∂state` `[…, S, S]`, `∂next/∂action` `[…, S, A]`.
    """
    following, (by_state, by_action) = batched_jacobian(dynamics, state, action)
    return following, by_state, by_action
