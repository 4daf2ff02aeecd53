"""The problems that all contenders solve: same numbers, same callables, torch alone.

A worker runs in the environment of one library, where diffplan is not installed, so
nothing here may import it.

Every problem is: minimise ½ Σ_{t<T} (w·(x_t - goal)² + effort ‖u_t‖²)
+ ½ w·(x_T - goal)², subject to x_{t+1} = f(x_t, u_t) and |u| ≤ limit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TIME_STEP = 0.05


class Linear(nn.Module):
    """A random stable system x' = A x + B u."""

    def __init__(self, size: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width = width
        generator = torch.Generator().manual_seed(size)
        drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
        drawn = drawn / torch.linalg.eigvals(drawn).abs().max()
        control = torch.randn(size, width, generator=generator, dtype=torch.float64)
        self.state_matrix = nn.Parameter((0.98 * drawn).to(dtype))
        self.action_matrix = nn.Parameter((0.3 * control).to(dtype))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state."""
        return state @ self.state_matrix.mT + action @ self.action_matrix.mT

    def jacobians(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∂next/∂state `[…, S, S]` and ∂next/∂action `[…, S, A]`."""
        del action  # the system is linear
        lead = state.shape[:-1]
        return (
            self.state_matrix.expand(*lead, -1, -1),
            self.action_matrix.expand(*lead, -1, -1),
        )


class Pendulums(nn.Module):
    """A chain of damped pendulums joined by springs; one pendulum is the classic.

    State: cosines of all angles, then sines, then angular velocities; angle 0 is
    upright. The sines of neighbours pull on each other.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = self.width = count
        self.gravity = nn.Parameter(torch.tensor(9.81, dtype=dtype))
        self.gain = nn.Parameter(torch.tensor(6.0, dtype=dtype))
        spring = -2.0 * torch.eye(count, dtype=dtype)
        if count > 1:
            beside = torch.ones(count - 1, dtype=dtype)
            spring = spring + torch.diag(beside, 1) + torch.diag(beside, -1)
        self.register_buffer("spring", spring)

    def _turn(self, state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        cosine, sine, velocity = state.split(self.count, dim=-1)
        torque = self.gravity * sine + self.gain * action + sine @ self.spring
        velocity = 0.99 * velocity + TIME_STEP * torque
        turn = TIME_STEP * velocity
        return cosine, sine, velocity, turn.cos(), turn.sin()

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state."""
        cosine, sine, velocity, cos_turn, sin_turn = self._turn(state, action)
        turned = cosine * cos_turn - sine * sin_turn
        raised = sine * cos_turn + cosine * sin_turn
        return torch.cat([turned, raised, velocity], dim=-1)

    def jacobians(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∂next/∂state `[…, S, S]` and ∂next/∂action `[…, S, A]`."""
        cosine, sine, _, cos_turn, sin_turn = self._turn(state, action)
        turned = cosine * cos_turn - sine * sin_turn
        raised = sine * cos_turn + cosine * sin_turn
        eye = torch.eye(self.count, dtype=state.dtype)
        # d velocity' by sine, velocity and action; d turn is TIME_STEP times that
        by_sine = TIME_STEP * (self.gravity * eye + self.spring)
        by_velocity, by_action = 0.99 * eye, TIME_STEP * self.gain * eye
        zero = torch.zeros_like(eye)
        velocity_rows = torch.cat([zero, by_sine, by_velocity], dim=-1)
        turn_rows = TIME_STEP * velocity_rows
        cos_rows = torch.cat(
            [torch.diag_embed(cos_turn), torch.diag_embed(-sin_turn)], dim=-1
        )
        sin_rows = torch.cat(
            [torch.diag_embed(sin_turn), torch.diag_embed(cos_turn)], dim=-1
        )
        lead = (*state.shape[:-1], self.count, self.count)
        none = zero.expand(lead)
        by_state = torch.cat(
            [
                torch.cat([cos_rows, none], dim=-1) - raised[..., None] * turn_rows,
                torch.cat([sin_rows, none], dim=-1) + turned[..., None] * turn_rows,
                velocity_rows.expand(*lead[:-1], 3 * self.count),
            ],
            dim=-2,
        )
        moved = TIME_STEP * by_action
        by_control = torch.cat(
            [
                -raised[..., None] * moved,
                turned[..., None] * moved,
                by_action.expand(lead),
            ],
            dim=-2,
        )
        return by_state, by_control


@dataclass
class Problem:
    """One problem and its start states.

    Attributes:
        dynamics: A module `(state, action) → next_state`, with `jacobians` and `width`.
        goal: `[S]`.
        weight: w `[S]`.
        effort: Weight of the actions.
        limit: Largest absolute action; None leaves them free.
        state: Start states `[B, S]`.
        horizon: T.
    """

    dynamics: Any
    goal: Tensor
    weight: Tensor
    effort: float
    limit: float | None
    state: Tensor
    horizon: int

    @property
    def size(self) -> int:
        """S."""
        return self.state.shape[-1]

    @property
    def width(self) -> int:
        """A."""
        return self.dynamics.width

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost `[…]` of one step."""
        effort = 0.5 * self.effort * action.square().sum(dim=-1)
        return self.terminal_cost(state) + effort

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost `[…]` of the last state."""
        return 0.5 * (self.weight * (state - self.goal).square()).sum(dim=-1)

    def cost(self, actions: Tensor) -> Tensor:
        """Return the cost `[B]` of actions `[B, T, A]`, clipped to the limit."""
        if self.limit is not None:
            actions = actions.clamp(-self.limit, self.limit)
        state, total = self.state, 0.0
        for step in range(self.horizon):
            total = total + self.running_cost(state, actions[:, step])
            state = self.dynamics(state, actions[:, step])
        return total + self.terminal_cost(state)

    def slope(self, actions: Tensor) -> float:
        """Return the largest entry of the slope of the cost that the bounds leave."""
        actions = actions.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.cost(actions).sum(), actions)
        downhill = actions.detach() - slope
        if self.limit is not None:
            downhill = downhill.clamp(-self.limit, self.limit)
        return (actions.detach() - downhill).abs().max().item()


def build(case: dict[str, Any]) -> Problem:
    """Build the problem that a case describes.

    Args:
        case: With "problem" ("linear" or "pendulums"), "state", "batch", "horizon",
            "limit" and "dtype"; for a linear one also "actions".
    """
    dtype = getattr(torch, case["dtype"])
    batch, size = case["batch"], case["state"]
    width = size // 3
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(batch, size, generator=generator, dtype=torch.float64)
    drawn = (2 * drawn - 1).to(dtype)
    if case["problem"] == "linear":
        dynamics: Any = Linear(size, case["actions"], dtype)
        goal, weight, state = torch.zeros(size), torch.ones(size), 2 * drawn
    else:
        dynamics = Pendulums(width, dtype)
        angle, velocity = 0.8 * drawn[:, :width], drawn[:, width : 2 * width]
        state = torch.cat([angle.cos(), angle.sin(), velocity], dim=-1)
        goal = torch.cat([torch.ones(width), torch.zeros(2 * width)])
        weight = torch.cat([torch.ones(2 * width), 0.1 * torch.ones(width)])
    return Problem(
        dynamics=dynamics,
        goal=goal.to(dtype),
        weight=weight.to(dtype),
        effort=0.05,
        limit=case["limit"],
        state=state,
        horizon=case["horizon"],
    )
