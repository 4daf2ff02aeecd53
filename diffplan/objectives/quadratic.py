"""The quadratic cost of classical control, with its derivatives written down."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import require_finite
from diffplan._problem_data import aligned, at_steps, hold, times_each
from diffplan._segments import step_numbers
from diffplan.errors import ShapeError
from diffplan.objectives._base import Forms, StageObjective


class QuadraticCost(StageObjective):
    """A quadratic cost of states and actions, also one that changes from step to step.

    cost = Σ_{t<T} (½ x'Q x + u'N x + ½ u'R u + q'x + r'u) + ½ x_T'Q_T x_T + q_T'x_T

    with x, u of step t. Planners that need second derivatives read them off instead of
    asking autodiff. Every tensor may carry a graph, or be an `nn.Parameter` to learn.
    They are met in the dtype of the states.

    Each cost of a step may depend on it: `[T, *sizes]`, for plans of that horizon; and
    on the problem: `[…, T, *sizes]`, with the leading dimensions of the states that are
    planned from and a T of 1 for what is the same at all steps. A cost of the last
    state is `[*sizes]`, or `[…, *sizes]` with one for each problem. A reference x* has
    the linear cost q_t = -Q_t x*_t.

    Args:
        state_cost: Q `[S, S]`; of the square costs only the symmetric part counts.
        action_cost: R `[A, A]`.
        cross_cost: N `[A, S]`; None for none.
        state_linear: q `[S]`; None for none.
        action_linear: r `[A]`; None for none.
        final_cost: Q_T `[S, S]`; None stands for Q, at the step before.
        final_linear: q_T `[S]`; None stands for q, at the step before.

    Raises:
        TensorTypeError: an argument is no floating-point tensor.
        ShapeError: two tensors disagree about S, A or T; later, about the problems.
        NonFiniteError: one holds NaN or infinity.

    References:
        Anderson and Moore, *Optimal Control: Linear Quadratic Methods*, chapter 2.

    Example:
        >>> import torch
        >>> cost = QuadraticCost(torch.eye(2), torch.eye(1))
        >>> cost(torch.ones(3, 2), torch.ones(2, 1))
        tensor(4.)
        >>> late = QuadraticCost(torch.eye(2).expand(2, 2, 2), torch.zeros(1, 1))
        >>> late.only_horizon
        2
    """

    per_problem: ClassVar[Mapping[str, int]] = {
        "state_cost": 3,
        "action_cost": 3,
        "cross_cost": 3,
        "state_linear": 2,
        "action_linear": 2,
        "final_cost": 2,
        "final_linear": 1,
    }
    state_cost: Tensor
    action_cost: Tensor
    cross_cost: Tensor | None
    state_linear: Tensor | None
    action_linear: Tensor | None
    final_cost: Tensor | None
    final_linear: Tensor | None

    def __init__(
        self,
        state_cost: Float[Tensor, "... S S"],
        action_cost: Float[Tensor, "... A A"],
        *,
        cross_cost: Float[Tensor, "... A S"] | None = None,
        state_linear: Float[Tensor, "... S"] | None = None,
        action_linear: Float[Tensor, "... A"] | None = None,
        final_cost: Float[Tensor, "... S S"] | None = None,
        final_linear: Float[Tensor, "... S"] | None = None,
    ) -> None:
        super().__init__()
        self._keep("state_cost", state_cost)
        self._keep("action_cost", action_cost)
        self._keep("cross_cost", cross_cost)
        self._keep("state_linear", state_linear)
        self._keep("action_linear", action_linear)
        self._keep("final_cost", final_cost)
        self._keep("final_linear", final_linear)
        self.uses_time = self.only_horizon is not None

    def running_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return the cost `[…]` of a step, or `[…, steps]` at the steps `time`."""
        state_cost, action_cost, cross, by_state, by_action = self._blocks(state, time)
        cost = _value(state, state_cost, by_state)
        cost = cost + _value(action, action_cost, by_action)
        if cross is None:
            return cost
        return cost + (times_each(action, cross) * state).sum(-1)

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost `[…]` of the last state."""
        hessian = _last(self.final_cost, self.state_cost, state, own=2)
        linear = _last(self.final_linear, self.state_linear, state, own=1)
        return _value(state, hessian, linear)

    def quadratize(self, states: Tensor, actions: Tensor) -> Forms:
        """Return Hessians and gradients along a trajectory; see `Quadratizable`."""
        points = torch.cat((actions, states[..., :-1, :]), -1)
        last = states[..., -1, :]
        time = None
        if self.uses_time:
            self._check_horizon(actions.shape[-2])
            time = step_numbers(0, slice(0, actions.shape[-2]), states)
        running = _form(points, *self._running(points, time))
        return *running, *_form(last, *self._final(last))

    def _blocks(self, like: Tensor, time: Tensor | None) -> list[Tensor | None]:
        """Q, R, N, q and r of some steps."""
        return [
            at_steps(name, getattr(self, name), time, like, self.per_problem[name] - 1)
            for name in (
                "state_cost",
                "action_cost",
                "cross_cost",
                "state_linear",
                "action_linear",
            )
        ]

    def _running(self, like: Tensor, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hessian and slope at zero by (u, x) of some steps."""
        blocks = self._blocks(like, time)
        state_cost, action_cost, cross, by_state, by_action = blocks
        assert state_cost is not None  # both are required
        assert action_cost is not None
        size, width = state_cost.shape[-1], action_cost.shape[-1]
        if cross is None:
            cross = state_cost.new_zeros(width, size)
        by_state = state_cost.new_zeros(size) if by_state is None else by_state
        by_action = action_cost.new_zeros(width) if by_action is None else by_action
        top = _beside(action_cost, cross, dim=-1)
        hessian = _beside(top, _beside(cross.mT, state_cost, dim=-1), dim=-2)
        return _symmetric(hessian, _beside(by_action, by_state, dim=-1), like)

    def _final(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Hessian and slope at zero by the last state."""
        hessian = _last(self.final_cost, self.state_cost, like, own=2)
        linear = _last(self.final_linear, self.state_linear, like, own=1)
        assert hessian is not None  # Q is required
        if linear is None:
            linear = hessian.new_zeros(hessian.shape[-1])
        return _symmetric(hessian, linear, like)

    def _keep(self, name: str, value: Tensor | None) -> None:
        if value is not None:
            require_finite(name, value)
            own = self.per_problem[name]
            if not name.startswith("final") and value.ndim >= own:
                self._note_steps(name, value.shape[-own])
        hold(self, name, value)

    def _note_steps(self, name: str, steps: int) -> None:
        if steps == 1:
            return
        if self.only_horizon not in (None, steps):
            raise ShapeError(
                f"{name}: expected costs of {self.only_horizon} steps, as those before "
                f"it, or of 1, got {steps}"
            )
        self.only_horizon = steps


def _last(
    final: Tensor | None, running: Tensor | None, like: Tensor, own: int
) -> Tensor | None:
    """What is said of the last state, or else of the step before, beside states."""
    if final is None and running is not None:
        final = running.select(-own - 1, -1) if running.ndim > own else running
    if final is None:
        return None
    return aligned("final", final, like, own, covers=1)


def _beside(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Put blocks side by side; those that are one for all are repeated."""
    own = max(-dim, 2 if first.ndim > 1 else 1)
    if first.ndim != second.ndim or first.shape[:-own] != second.shape[:-own]:
        lead = torch.broadcast_shapes(first.shape[:-own], second.shape[:-own])
        first, second = (
            block.expand(*lead, *block.shape[-own:]) for block in (first, second)
        )
    return torch.cat((first, second), dim)


def _symmetric(hessian: Tensor, linear: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    hessian, linear = hessian.to(like.dtype), linear.to(like.dtype)
    return torch.lerp(hessian, hessian.mT, 0.5), linear


def _value(point: Tensor, hessian: Tensor | None, linear: Tensor | None) -> Tensor:
    """½ z'H z + h'z, whether or not H is symmetric."""
    assert hessian is not None  # Q and R are required
    slope = times_each(0.5 * point, hessian.to(point.dtype))
    if linear is not None:
        slope = slope + linear.to(point.dtype)
    return (slope * point).sum(-1)


def _form(point: Tensor, hessian: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    gradient = times_each(point, hessian) + linear
    return hessian.expand(*point.shape, -1), gradient
