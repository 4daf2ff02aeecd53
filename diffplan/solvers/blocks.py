"""The damped Gauss-Newton step of a collocation problem, as blocks and solvers.

A trajectory problem hands out `ChainBlocks`: transition Jacobians, defects, stage
residuals, active limits and their weights. A `ChainSolver` turns them into a
`ChainStep`. The problem never knows how the step is computed, and the solver never
knows what the residuals mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan._checks import require_count, require_positive, require_shape
from diffplan.errors import ShapeError
from diffplan.functional._chain import ChainRightHandSide, ChainSystem
from diffplan.functional._chain_factor import ChainFactor
from diffplan.functional.block_tridiagonal import normal_equations_factorize
from diffplan.functional.riccati import riccati_factorize


@dataclass(frozen=True)
class ChainBlocks:
    """The least-squares subproblem of one step along a trajectory.

    Over increments x_1..x_T of the states (x_0 = 0: the first state is given) and
    u_0..u_{T-1} of the actions, with every tensor leading with the batch dimensions::

        sum_t    transition_weight_t |x_{t+1} - A_t x_t - B_t u_t + defect_t|^2
        + sum_t  |residual_t + stage Jacobians (x_t, u_t)|^2
        + |terminal_residual + terminal_jacobian x_T|^2
        + sum_t  limit_weight_t sum_i (limit_residual_{t,i} + limit_slope_{t,i} u_i)^2
        + damping (|x|^2 + |u|^2)

    Args:
        state_jacobian: A_t, `[…, T, S, S]`.
        action_jacobian: B_t, `[…, T, S, A]`.
        defect: x_{t+1} - f(x_t, u_t) at the current trajectory, `[…, T, S]`.
        transition_weight: Above zero, `[…, T]`.
        residual: Stage residuals of t = 0..T-1, `[…, T, R]`; R may be 0.
        stage_state_jacobian: `[…, T, R, S]`.
        stage_action_jacobian: `[…, T, R, A]`.
        terminal_residual: `[…, R']`; R' may be 0.
        terminal_jacobian: `[…, R', S]`.
        limit_residual: How far each action is beyond its limits, `[…, T, A]`.
        limit_slope: Its derivative, 0 where the limit is inactive, `[…, T, A]`.
        limit_weight: At least zero, `[…, T]`.
        damping: `[…]`.

    Raises:
        ShapeError: two tensors disagree about B, T, S, A or R.
    """

    state_jacobian: Tensor
    action_jacobian: Tensor
    defect: Tensor
    transition_weight: Tensor
    residual: Tensor
    stage_state_jacobian: Tensor
    stage_action_jacobian: Tensor
    terminal_residual: Tensor
    terminal_jacobian: Tensor
    limit_residual: Tensor
    limit_slope: Tensor
    limit_weight: Tensor
    damping: Tensor

    def __post_init__(self) -> None:
        """Check all shapes against those of `action_jacobian` and `damping`."""
        if self.action_jacobian.dim() < 3:
            raise ShapeError(
                "action_jacobian: expected […, T, S, A], got "
                f"{list(self.action_jacobian.shape)}"
            )
        batch = self.damping.shape
        horizon, state, action = self.action_jacobian.shape[-3:]
        rows, end_rows = self.residual.shape[-1:], self.terminal_residual.shape[-1:]
        expected: dict[str, tuple[int, ...]] = {
            "state_jacobian": (horizon, state, state),
            "action_jacobian": (horizon, state, action),
            "defect": (horizon, state),
            "transition_weight": (horizon,),
            "residual": (horizon, *rows),
            "stage_state_jacobian": (horizon, *rows, state),
            "stage_action_jacobian": (horizon, *rows, action),
            "terminal_residual": end_rows,
            "terminal_jacobian": (*end_rows, state),
            "limit_residual": (horizon, action),
            "limit_slope": (horizon, action),
            "limit_weight": (horizon,),
        }
        for name, trailing in expected.items():
            tensor: Tensor = getattr(self, name)
            require_shape(
                name, tensor, trailing, "must fit action_jacobian and the residuals"
            )
            if tensor.shape[: tensor.dim() - len(trailing)] != batch:
                raise ShapeError(
                    f"{name}: expected the batch dimensions {list(batch)} of damping, "
                    f"got {list(tensor.shape)}"
                )

    def system(self) -> ChainSystem:
        """Return the matrices of the step."""
        return ChainSystem(
            state_jacobian=self.state_jacobian,
            action_jacobian=self.action_jacobian,
            transition_weight=self.transition_weight,
            stage_state_jacobian=self.stage_state_jacobian,
            stage_action_jacobian=self.stage_action_jacobian,
            terminal_jacobian=self.terminal_jacobian,
            action_curvature=self.limit_weight[..., None] * self.limit_slope.square(),
            damping=self.damping,
        )

    def right_hand_side(self) -> ChainRightHandSide:
        """Defects, and minus the gradient of all costs but the transitions'."""
        residual = self.residual.unsqueeze(-2)
        stage = (residual @ self.stage_state_jacobian).squeeze(-2)
        action = (residual @ self.stage_action_jacobian).squeeze(-2)
        end = self.terminal_residual.unsqueeze(-2) @ self.terminal_jacobian
        limit = self.limit_weight[..., None] * self.limit_slope * self.limit_residual
        return ChainRightHandSide(
            defect=self.defect,
            states=-torch.cat((stage[..., 1:, :], end), -2),
            actions=-(action + limit),
        )


class ChainStep(NamedTuple):
    """A step of the whole trajectory.

    Attributes:
        states: Increments of x_1..x_T, `[…, T, S]`.
        actions: Increments of u_0..u_{T-1}, `[…, T, A]`.
        ok: Whether the element's factorisation succeeded, `[…]` bool; where it did
            not, the increments are zero and carry no gradient.
    """

    states: Tensor
    actions: Tensor
    ok: Tensor


ChainSolver = Callable[[ChainBlocks], ChainStep]
"""Turns blocks into a step; never raises for numerical reasons."""


@dataclass(frozen=True)
class RiccatiSolver:
    """Dynamic programming over soft dynamics: accurate in float32 at any large weight.

    It takes squares of stage Jacobians: where these exceed both weight and damping a
    thousandfold, digits are lost, and in the end the factorisation fails.

    Args:
        refinements: Corrections of the step by its own residual, at least 0. Each costs
            a sixth of the factorisation at 230 states, a third at 30. Without one a
            float32 step may be off by 4e-5 of its length; an iteration ends at the
            same point, because its right-hand side is exact.

    Example:
        >>> step = RiccatiSolver()(blocks)  # doctest: +SKIP
    """

    refinements: int = 0

    def __post_init__(self) -> None:
        require_count("refinements", self.refinements, 0)

    def factorize(self, blocks: ChainBlocks) -> ChainFactor:
        """Return the factor alone, to be reused with other right-hand sides."""
        return riccati_factorize(blocks.system(), refinements=self.refinements)

    def __call__(self, blocks: ChainBlocks) -> ChainStep:
        """Solve for the step."""
        return _step(self.factorize(blocks), blocks)


@dataclass(frozen=True)
class BlockCholeskySolver:
    """Block-tridiagonal Cholesky of the normal equations, the paper's method.

    Args:
        dtype: Precision of the factorisation. The normal equations square the
            condition number: with a fixed damping float32 is wrong from weights of
            1e4 on, float64 from about 1e10.

    Example:
        >>> step = BlockCholeskySolver()(blocks)  # doctest: +SKIP
    """

    dtype: torch.dtype = torch.float64

    def factorize(self, blocks: ChainBlocks) -> ChainFactor:
        """Return the factor alone, to be reused with other right-hand sides."""
        return normal_equations_factorize(blocks.system(), dtype=self.dtype)

    def __call__(self, blocks: ChainBlocks) -> ChainStep:
        """Solve for the step."""
        return _step(self.factorize(blocks), blocks)


@dataclass(frozen=True)
class ShortSteps:
    """Another solver, whose steps are shortened where they move an action too far.

    Args:
        solver: Any.
        unit: How far an action moves for an increment of one, `[A]` or a tensor that
            lines up with the increments `[…, T, A]`.
        longest: The most that an action may move, above zero.

    Example:
        >>> step = ShortSteps(RiccatiSolver(), torch.ones(1), 0.1)(
        ...     blocks
        ... )  # doctest: +SKIP
    """

    solver: ChainSolver
    unit: Tensor
    longest: float

    def __post_init__(self) -> None:
        require_positive("longest", self.longest)

    def __call__(self, blocks: ChainBlocks) -> ChainStep:
        """Solve for the step, and shorten it."""
        step = self.solver(blocks)
        moved = (self.unit * step.actions).abs().amax((-1, -2), keepdim=True)
        share = self.longest / moved.clamp_min(self.longest)
        return step._replace(states=share * step.states, actions=share * step.actions)


def _step(factor: ChainFactor, blocks: ChainBlocks) -> ChainStep:
    rhs = blocks.right_hand_side()
    solution = factor.solve(rhs.states, rhs.actions, rhs.defect)
    return ChainStep(solution.states, solution.actions, solution.ok)
