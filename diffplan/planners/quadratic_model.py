"""The linear-quadratic model of a planning problem about a trajectory.

Dynamics are linearised, and the cost of each step is expanded to second order: with its
Hessian by autodiff, or, where it is a sum of squared residuals, with Gauss-Newton's
JᵀJ, which is never indefinite. The second derivatives of the dynamics are left out
(that is what makes it iLQR rather than DDP). All steps are expanded at once.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from diffplan.functional.box_lqr import ExtendedLQR, extend_dynamics
from diffplan.functional.linearize import batched_jacobian, linearize_dynamics
from diffplan.functional.lqr import LQRProblem
from diffplan.objectives.base import ResidualObjective, StageObjective
from diffplan.problem import Linearizable, PlanningProblem


def quadratic_model(
    problem: PlanningProblem, states: Tensor, actions: Tensor, *, gauss_newton: bool
) -> tuple[LQRProblem, Tensor]:
    """Expand a problem about a rollout, in increments of states and actions.

    Args:
        problem: With a `StageObjective`, or a `ResidualObjective` for Gauss-Newton.
        states: The rollout of the actions, `[…, T+1, S]`.
        actions: `[…, T, A]`.
        gauss_newton: Whether cost Hessians are JᵀJ instead of exact.

    Returns:
        Blocks with the leading dimensions of `states`, whose offsets and initial state
        are zero; and whether an element's blocks are finite, `[…]` bool.
    """
    model, finite = extended_model(problem, states, actions, gauss_newton=gauss_newton)
    return model.unpacked(), finite


def extended_model(
    problem: PlanningProblem, states: Tensor, actions: Tensor, *, gauss_newton: bool
) -> tuple[ExtendedLQR, Tensor]:
    """Return the same as one quadratic form of (du, dx, 1) per step.

    Args:
        problem: As above.
        states: `[…, T+1, S]`.
        actions: `[…, T, A]`.
        gauss_newton: As above.

    Returns:
        The model, and whether it is finite, `[…]` bool; where it is not and gradients
        are recorded, the model is a constant zero.
    """
    before = states[..., :-1, :]
    by_state, by_action = _jacobians(problem, before, actions)
    points = torch.cat((actions, before), -1)
    expand = _residual_forms if gauss_newton else _cost_forms
    objective = cast(ResidualObjective, problem.objective)  # or with stages only
    costs, end = expand(objective, points, states[..., -1:, :])
    model = ExtendedLQR(extend_dynamics(by_action, by_state), costs, end.squeeze(-3))
    return _finite_or_zero(model, lead=states.dim() - 2)


def _jacobians(
    problem: PlanningProblem, states: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    linearizable = problem.find(Linearizable)
    if linearizable is not None:
        _, by_state, by_action = linearizable.linearize(states, actions)
    else:
        _, by_state, by_action = linearize_dynamics(problem.dynamics, states, actions)
    return by_state, by_action


def _cost_forms(
    objective: StageObjective, points: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Quadratic forms with exact Hessians."""

    def expand(cost: Callable[..., Tensor], point: Tensor) -> Tensor:
        slope = torch.func.grad(lambda value: cost(value).sum())
        gradient, (hessian,) = batched_jacobian(slope, point)
        column = gradient.unsqueeze(-1)
        row = torch.cat((column, torch.zeros_like(column[..., :1, :])), -2).mT
        return torch.cat((torch.cat((hessian, column), -1), row), -2)

    functions = (
        objective.initial_cost,
        objective.running_cost,
        objective.terminal_cost,
    )
    return _each_stage(expand, functions, _runs_at_once(objective), points, last)


def _residual_forms(
    objective: ResidualObjective, points: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Quadratic forms of half squared residuals, (J z + r)'(J z + r)."""

    def expand(residual: Callable[..., Tensor], point: Tensor) -> Tensor:
        value, (jacobian,) = batched_jacobian(residual, point)
        both = torch.cat((jacobian, value.unsqueeze(-1)), -1)
        return both.mT @ both

    functions = (
        objective.initial_residual,
        objective.running_residual,
        objective.terminal_residual,
    )
    return _each_stage(expand, functions, _runs_at_once(objective), points, last)


def _each_stage(
    expand: Callable[[Callable[..., Tensor], Tensor], Tensor],
    functions: tuple[Callable[..., Tensor], ...],
    runs_at_once: bool,
    points: Tensor,
    last: Tensor,
) -> tuple[Tensor, Tensor]:
    """Expand the first, the running and the last function where they apply."""
    initial, running, terminal = functions
    width = points.shape[-1] - last.shape[-1]

    def of_point(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda point: function(point[..., width:], point[..., :width])

    end = expand(terminal, last)
    if runs_at_once:
        return expand(of_point(running), points), end
    first = expand(of_point(initial), points[..., :1, :])
    if points.shape[-2] == 1:
        return first, end
    later = expand(of_point(running), points[..., 1:, :])
    return torch.cat((first, later), -3), end


def _runs_at_once(objective: StageObjective) -> bool:
    """Whether the first step costs what the running ones do: one expansion fewer."""
    kind = type(objective)
    if isinstance(objective, ResidualObjective):
        initial = cast(type[ResidualObjective], kind).initial_residual
        if initial is not ResidualObjective.initial_residual:
            return False
    defaults = (StageObjective.initial_cost, ResidualObjective.initial_cost)
    return kind.initial_cost in defaults


def _finite_or_zero(model: ExtendedLQR, lead: int) -> tuple[ExtendedLQR, Tensor]:
    dynamics, costs, end = (tensor.detach().flatten(lead).sum(-1) for tensor in model)
    finite = torch.isfinite(dynamics + costs + end)
    if not any(tensor.requires_grad for tensor in model):
        return model, finite

    # One NaN would reach the gradient of everybody who shares a parameter, since zero
    # times NaN is NaN; a constant in its place has nothing to spoil.
    def kept(tensor: Tensor) -> Tensor:
        mask = finite.reshape(*finite.shape, *(1,) * (tensor.dim() - lead))
        return torch.where(mask, tensor, 0.0)

    return ExtendedLQR(*(kept(tensor) for tensor in model)), finite
