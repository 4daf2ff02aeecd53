"""Systems whose equations are known, and the linear one, which may change with time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from diffplan._checks import is_traced, require_finite, require_shape
from diffplan._problem_data import at_steps, hold, times_each
from diffplan.errors import ShapeError
from diffplan.models._own_steps import OwnSteps

Linearization = tuple[Tensor, Tensor, Tensor]
"""Next state `[…, S]`, Jacobian by the state `[…, S, S]` and the action `[…, S, A]`."""


class AnalyticDynamics(OwnSteps, nn.Module, ABC):
    """Known equations of motion with their Jacobian.

    Attributes:
        state_dim: Size S of the state.
        action_dim: Size A of an action.
        is_affine: Whether the Jacobian is the same for all states and actions.
    """

    state_dim: int
    action_dim: int
    is_affine: ClassVar[bool] = False

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Next state `[…, S]` after `action […, A]` in `state […, S]`."""

    @abstractmethod
    def linearize(self, state: Tensor, action: Tensor) -> Linearization:
        """Next state `[…, S]` and Jacobians `[…, S, S]` and `[…, S, A]`."""

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Same as `step`."""
        return self.step(state, action)

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(self, state: Tensor, action: Tensor) -> Tensor: ...

    def _as(self, like: Tensor, *names: str) -> list[Tensor]:
        """Return constants in the dtype of states: products of theirs are as exact."""
        return [getattr(self, name).to(like.dtype) for name in names]

    def _hold(self, **values: Tensor | float) -> None:
        """Keep finite constants: a parameter if it is one, else a buffer."""
        for name, number in values.items():
            value = torch.as_tensor(number)
            if not is_traced(value):
                require_finite(name, value)
            hold(self, name, value)

    def _check(self, state: Tensor, action: Tensor) -> None:
        require_shape("state", state, [self.state_dim], "must equal state_dim")
        require_shape("action", action, [self.action_dim], "must equal action_dim")


class LinearDynamics(AnalyticDynamics):
    """x' = A x + B u + c, also with matrices that change from step to step.

    Each may depend on the step: `[T, …]`, for plans of that horizon; and on the
    problem: `[…, T, …]`, with the leading dimensions of the states that are planned
    from and a T of 1 for what is the same at all steps.

    Args:
        state_matrix: A, `[S, S]`.
        action_matrix: B, `[S, A]`.
        bias: c, `[S]`; None for zero.

    Attributes:
        takes_time: Whether something depends on the step.
        only_horizon: T if so, else None.

    Raises:
        ShapeError: the matrices do not fit each other.

    Example:
        >>> system = LinearDynamics(torch.eye(2), torch.ones(2, 1))
        >>> system(torch.zeros(3, 2), torch.ones(3, 1)).shape
        torch.Size([3, 2])
        >>> wind = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, -0.1]])
        >>> LinearDynamics(torch.eye(2), torch.ones(2, 1), wind).only_horizon
        3
    """

    per_problem: ClassVar[Mapping[str, int]] = {
        "state_matrix": 3,
        "action_matrix": 3,
        "bias": 2,
    }
    is_affine: ClassVar[bool] = True
    state_matrix: Tensor
    action_matrix: Tensor
    bias: Tensor

    def __init__(
        self,
        state_matrix: Float[Tensor, "... S S"],
        action_matrix: Float[Tensor, "... S A"],
        bias: Float[Tensor, "... S"] | None = None,
    ) -> None:
        super().__init__()
        self.state_dim, self.action_dim = action_matrix.shape[-2:]
        if bias is None:
            bias = state_matrix.new_zeros(self.state_dim)
        self._hold(state_matrix=state_matrix, action_matrix=action_matrix, bias=bias)
        steps = {self._steps(name) for name in self.per_problem} - {1}
        if len(steps) > 1:
            raise ShapeError(
                "state_matrix, action_matrix, bias: expected one number of steps, got "
                f"{sorted(steps)}"
            )
        self.only_horizon = steps.pop() if steps else None
        self.takes_time = self.only_horizon is not None

    def forward(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Same as `step`."""
        return self.step(state, action, time)

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(
            self, state: Tensor, action: Tensor, time: Tensor | None = None
        ) -> Tensor: ...

    def step(self, state: Tensor, action: Tensor, time: Tensor | None = None) -> Tensor:
        """A x + B u + c, of the steps `time` `[steps]` for states `[…, steps, S]`."""
        self._check(state, action)
        return self._moved(state, action, *self._matrices(state, time))

    def rollout(
        self, state: Tensor, actions: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """States `[…, T+1, S]`, by one operation for each step; see `Rolling`."""
        self._check(state, actions)
        lead, horizon, size = state.shape[:-1], actions.shape[-2], self.state_dim
        count = lead.numel()
        like = state.unsqueeze(-2).expand(*lead, horizon, size)
        by_state, by_action, bias = self._matrices(like, time)
        drive = times_each(actions, by_action.mT) + bias
        # One step after the other in memory, as in `functional.rollout`.
        pushes = drive.reshape(count, horizon, size).transpose(0, 1).contiguous()
        states = [state.reshape(count, size)]
        if by_state.ndim == 2:
            matrix = by_state.mT
            for push in pushes.unbind(0):
                states.append(torch.addmm(push, states[-1], matrix))
        else:
            each = by_state.mT.expand(*lead, horizon, size, size)
            each = each.reshape(count, horizon, size, size)
            for push, matrix in zip(pushes.unbind(0), each.unbind(1), strict=True):
                row = torch.bmm(states[-1].unsqueeze(1), matrix)
                states.append(row.squeeze(1) + push)
        together = torch.stack(states)
        return together.view(horizon + 1, *lead, size).movedim(0, -2)

    def linearize(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Linearization:
        """A and B, seen through the leading dimensions."""
        self._check(state, action)
        by_state, by_action, bias = self._matrices(state, time)
        following = self._moved(state, action, by_state, by_action, bias)
        batch = following.shape[:-1]
        return (
            following,
            by_state.expand(*batch, -1, -1),
            by_action.expand(*batch, -1, -1),
        )

    def _moved(
        self, state: Tensor, action: Tensor, a: Tensor, b: Tensor, c: Tensor
    ) -> Tensor:
        if a.ndim == b.ndim == 2 and c.ndim == 1:
            return linear(state, a) + linear(action, b, c)
        return times_each(state, a.mT) + times_each(action, b.mT) + c

    def _matrices(self, state: Tensor, time: Tensor | None) -> list[Tensor]:
        found = []
        for name, own in self.per_problem.items():
            value = getattr(self, name)
            if value.ndim >= own:  # of each step, or of each problem
                value = at_steps(name, value, time, state, own - 1)
            found.append(value)
        return found

    def _steps(self, name: str) -> int:
        value, own = getattr(self, name), self.per_problem[name]
        return value.shape[-own] if value.ndim >= own else 1
