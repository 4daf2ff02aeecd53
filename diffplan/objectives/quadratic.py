"""The quadratic cost of classical control, with its derivatives written down."""

import torch
from torch import Tensor, nn

from diffplan._checks import require_finite, require_shape, require_tensor
from diffplan.errors import ShapeError
from diffplan.objectives._base import StageObjective


class QuadraticCost(StageObjective):
    """A quadratic cost of states and actions, the same at every step.

    cost = Σ_{t<T} (½ x'Q x + u'N x + ½ u'R u + q'x + r'u) + ½ x_T'Q_T x_T + q_T'x_T

    with x, u of step t. Planners that need second derivatives read them off instead of
    asking autodiff. Every tensor may carry a graph, or be an `nn.Parameter` to learn.
    They are met in the dtype of the states.

    Args:
        state_cost: Q `[S, S]`; of the square costs only the symmetric part counts.
        action_cost: R `[A, A]`.
        cross_cost: N `[A, S]`; None for none.
        state_linear: q `[S]`; None for none. A goal g has q = -Q g.
        action_linear: r `[A]`; None for none.
        final_cost: Q_T `[S, S]`; None stands for Q.
        final_linear: q_T `[S]`; None stands for q.

    Raises:
        TensorTypeError: an argument is no floating-point tensor.
        ShapeError: two tensors disagree about S or A.
        NonFiniteError: one holds NaN or infinity.

    References:
        Anderson and Moore, *Optimal Control: Linear Quadratic Methods*, chapter 2.

    Example:
        >>> import torch
        >>> cost = QuadraticCost(torch.eye(2), torch.eye(1))
        >>> cost(torch.ones(3, 2), torch.ones(2, 1))
        tensor(4.)
    """

    state_cost: Tensor
    action_cost: Tensor
    cross_cost: Tensor | None
    state_linear: Tensor | None
    action_linear: Tensor | None
    final_cost: Tensor | None
    final_linear: Tensor | None

    def __init__(
        self,
        state_cost: Tensor,
        action_cost: Tensor,
        *,
        cross_cost: Tensor | None = None,
        state_linear: Tensor | None = None,
        action_linear: Tensor | None = None,
        final_cost: Tensor | None = None,
        final_linear: Tensor | None = None,
    ) -> None:
        super().__init__()
        size = require_tensor("state_cost", state_cost).shape[-1]
        width = require_tensor("action_cost", action_cost).shape[-1]
        self._keep("state_cost", state_cost, size, size)
        self._keep("action_cost", action_cost, width, width)
        self._keep("cross_cost", cross_cost, width, size)
        self._keep("state_linear", state_linear, size)
        self._keep("action_linear", action_linear, width)
        self._keep("final_cost", final_cost, size, size)
        self._keep("final_linear", final_linear, size)

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost `[…]` of a step."""
        point = torch.cat((action, state), -1)
        return _value(point, *self._running(point))

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost `[…]` of the last state."""
        return _value(state, *self._final(state))

    def quadratize(
        self, states: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return Hessians and gradients along a trajectory; see `Quadratizable`."""
        points = torch.cat((actions, states[..., :-1, :]), -1)
        last = states[..., -1, :]
        running = _form(points, *self._running(points))
        return *running, *_form(last, *self._final(last))

    def _running(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Hessian and slope at zero by (u, x)."""
        state_cost, action_cost, cross = (
            self.state_cost,
            self.action_cost,
            self.cross_cost,
        )
        if cross is None:
            cross = state_cost.new_zeros(len(action_cost), len(state_cost))
        rows = (action_cost, cross), (cross.mT, state_cost)
        hessian = torch.cat([torch.cat(row, -1) for row in rows])
        linears = [
            matrix.new_zeros(len(matrix)) if linear is None else linear
            for matrix, linear in (
                (action_cost, self.action_linear),
                (state_cost, self.state_linear),
            )
        ]
        return _symmetric(hessian, torch.cat(linears), like)

    def _final(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Hessian and slope at zero by the last state."""
        hessian = self.state_cost if self.final_cost is None else self.final_cost
        linear = self.state_linear if self.final_linear is None else self.final_linear
        if linear is None:
            linear = hessian.new_zeros(len(hessian))
        return _symmetric(hessian, linear, like)

    def _keep(self, name: str, value: Tensor | None, *sizes: int) -> None:
        if value is not None:
            require_finite(name, require_tensor(name, value))
            if value.dim() != len(sizes):
                raise ShapeError(
                    f"{name}: expected {list(sizes)}, got {list(value.shape)}"
                )
            require_shape(name, value, sizes, "must fit state_cost and action_cost")
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)


def _symmetric(hessian: Tensor, linear: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    hessian, linear = hessian.to(like.dtype), linear.to(like.dtype)
    return torch.lerp(hessian, hessian.mT, 0.5), linear


def _value(point: Tensor, hessian: Tensor, linear: Tensor) -> Tensor:
    return ((0.5 * point @ hessian + linear) * point).sum(-1)


def _form(point: Tensor, hessian: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    return hessian.expand(*point.shape, -1), point @ hessian + linear
