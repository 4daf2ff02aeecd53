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

from diffplan._user_functions import require_result
from diffplan.errors import (
    TensorTypeError,
)
from diffplan.functional._chain import times
from diffplan.functional._conjugate_gradients import Solve
from diffplan.functional.box_lqr import IncrementalLQR
from diffplan.functional.linearize import batched_jacobian
from diffplan.functional.lqr import lqr_factorize
from diffplan.objectives._base import Quadratizable, ResidualObjective, StageObjective
from diffplan.problem import Objective, PlanningProblem

Forms = tuple[Tensor, Tensor, Tensor, Tensor]
"""Hessian and gradient of the cost of a step by (u, x), and of the end by x."""

_LEAST_CURVATURE = 1e-6
"""Added to the action curvature of a preconditioner, which must be definite."""


def quadratic_model(
    problem: PlanningProblem, states: Tensor, actions: Tensor, *, gauss_newton: bool
) -> tuple[IncrementalLQR, Tensor]:
    """Expand a problem about a rollout, in increments of actions and states.

    Args:
        problem: With a `StageObjective`, or a `ResidualObjective` for Gauss-Newton; one
            that is `Quadratizable` is asked for its exact Hessians instead.
        states: The rollout of the actions, `[…, T+1, S]`.
        actions: `[…, T, A]`.
        gauss_newton: Whether cost Hessians are JᵀJ instead of exact.

    Returns:
        The model, with the leading dimensions of `states`; and whether it is finite,
        `[…]` bool. That is only looked at where the model has a graph; it is a constant
        zero where it is not finite then.
    """
    times = problem.times(0, actions.shape[-2], states)
    _, by_state, by_action = problem.linearize(states[..., :-1, :], actions, times)
    forms = _forms(problem.objective, states, actions, gauss_newton)
    model = IncrementalLQR(by_action, by_state, *forms)
    return _finite_or_zero(model, lead=states.dim() - 2)


def _forms(
    objective: Objective, states: Tensor, actions: Tensor, gauss_newton: bool
) -> Forms:
    """Hessian and gradient of the cost of each step and of the end."""
    if isinstance(objective, Quadratizable):
        return _checked_forms(objective.quadratize(states, actions), states, actions)
    points = torch.cat((actions, states[..., :-1, :]), -1)
    expand = _residual_forms if gauss_newton else _cost_forms
    staged = cast(ResidualObjective, objective)  # or with stages only
    return expand(staged, points, states[..., -1, :])


def regulator(problem: PlanningProblem, states: Tensor, actions: Tensor) -> Solve:
    """Return an approximate inverse Hessian of the cost in the actions.

    That of the linear-quadratic model about the rollout, which is positive definite
    wherever it can be factored; elsewhere, and for an objective without stages, the
    identity.

    Args:
        problem: The problem.
        states: The rollout of the actions, `[B, T+1, S]`.
        actions: `[B, T, A]`.
    """
    objective = problem.objective
    if not isinstance(objective, StageObjective):
        return lambda vector: vector
    increments, finite = quadratic_model(
        problem,
        states,
        actions,
        gauss_newton=isinstance(objective, ResidualObjective),
    )
    model = increments.unpacked()
    width = actions.shape[-1]
    eye = torch.eye(width, dtype=actions.dtype, device=actions.device)
    factor = lqr_factorize(
        model._replace(action_cost=model.action_cost + _LEAST_CURVATURE * eye)
    )
    zeros = torch.zeros_like(states)

    def solve(vector: Tensor) -> Tensor:
        linear = -vector.view(actions.shape)
        answer = factor.solve(zeros, linear, model.offset, model.initial_state)
        found = (answer.ok & finite)[:, None, None]
        return torch.where(found, answer.actions, -linear).flatten(1)

    return solve


def _checked_forms(forms: Forms, states: Tensor, actions: Tensor) -> Forms:
    """Return what an objective says of its own derivatives, if the shapes are right."""
    if not isinstance(forms, tuple) or len(forms) != 4:
        raise TensorTypeError(
            "objective: expected quadratize to return a tuple of two Hessians and two "
            f"gradients, got {type(forms).__name__}"
        )
    lead, size = actions.shape[:-1], actions.shape[-1] + states.shape[-1]
    last = states.shape[:-2] + states.shape[-1:]
    shapes = ((*lead, size, size), (*lead, size), (*last, last[-1]), last)
    for form, shape in zip(forms, shapes, strict=True):
        require_result("objective:", "quadratize", form, shape, like=states)
    return forms


def _cost_forms(objective: StageObjective, points: Tensor, last: Tensor) -> Forms:
    """Exact Hessians and gradients."""

    def expand(cost: Callable[..., Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.func.grad(lambda value: cost(value).sum())
        gradient, (hessian,) = batched_jacobian(slope, point)
        return hessian, gradient

    return _each_stage(expand, objective, "cost", points, last)


def _residual_forms(
    objective: ResidualObjective, points: Tensor, last: Tensor
) -> Forms:
    """J'J and J'r of half squared residuals."""

    def expand(residual: Callable[..., Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
        value, (jacobian,) = batched_jacobian(residual, point)
        return jacobian.mT @ jacobian, times(value, jacobian)

    return _each_stage(expand, objective, "residual", points, last)


def _each_stage(
    expand: Callable[[Callable[..., Tensor], Tensor], tuple[Tensor, Tensor]],
    objective: StageObjective,
    what: str,
    points: Tensor,
    last: Tensor,
) -> Forms:
    """Expand the terms of all steps and of the end where they apply."""
    width, horizon = points.shape[-1] - last.shape[-1], points.shape[-2]

    def of_point(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda point: function(point[..., width:], point[..., :width])

    end = expand(objective.end_term(what, horizon, last), last)
    parts = [
        expand(of_point(term), points[..., where, :])
        for term, where in objective.stage_terms(what, 0, horizon, points)
    ]
    if len(parts) == 1:
        return *parts[0], *end
    hessians, gradients = zip(*parts, strict=True)
    return torch.cat(hessians, -3), torch.cat(gradients, -2), *end


def _finite_or_zero(model: IncrementalLQR, lead: int) -> tuple[IncrementalLQR, Tensor]:
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in model)
    if not graph:
        # what is made of it is looked at, and nothing else can be spoilt
        return model, torch.ones_like(model.end_gradient[..., 0], dtype=torch.bool)
    sums = [tensor.detach().flatten(lead).sum(-1) for tensor in model]
    finite = torch.isfinite(torch.stack(sums).sum(0))

    # One NaN would reach the gradient of everybody who shares a parameter, since zero
    # times NaN is NaN; a constant in its place has nothing to spoil.
    def kept(tensor: Tensor) -> Tensor:
        mask = finite.reshape(*finite.shape, *(1,) * (tensor.dim() - lead))
        return torch.where(mask, tensor, 0.0)

    return IncrementalLQR(*(kept(tensor) for tensor in model)), finite
