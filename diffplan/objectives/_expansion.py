"""Second-order expansions of objectives about a trajectory: one place for all of them.

An objective that is `Quadratizable` is asked, a sum is the sum of what its terms are,
and everything else comes by autodiff: its Hessian, or, where it is a sum of squared
residuals, Gauss-Newton's JᵀJ, which is never indefinite. All steps are expanded at
once.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffplan._user_functions import require_result
from diffplan.capabilities import Part, Quadratizable, Summing, knows
from diffplan.errors import TensorTypeError
from diffplan.functional._chain import times
from diffplan.functional._lqr_kkt import unexpanded
from diffplan.functional.linearize import batched_jacobian
from diffplan.objectives._base import Forms, ResidualObjective, StageObjective
from diffplan.problem import Objective


def expand(
    objective: Objective, states: Tensor, actions: Tensor, *, gauss_newton: bool
) -> Forms:
    """Return Hessian and gradient of the cost of each step and of the end.

    Args:
        objective: A `StageObjective`, or a `ResidualObjective` for Gauss-Newton.
        states: `[…, T+1, S]`.
        actions: `[…, T, A]`.
        gauss_newton: Whether Hessians that are not known are JᵀJ instead of exact.

    Returns:
        As `Quadratizable.quadratize`.
    """
    if knows(objective, Quadratizable):
        return _checked(objective.quadratize(states, actions), states, actions)
    if knows(objective, Summing):
        parts = objective.parts()
        found = [_part(part, states, actions, gauss_newton) for part in parts]
        return cast(Forms, tuple(map(_added, zip(*found, strict=True))))
    points = torch.cat((actions, states[..., :-1, :]), -1)
    by_autodiff = _residual_forms if gauss_newton else _cost_forms
    staged = cast(ResidualObjective, objective)  # or with stages only
    return by_autodiff(staged, points, states[..., -1, :])


def _part(part: Part, states: Tensor, actions: Tensor, gauss_newton: bool) -> Forms:
    seen = states[..., : states.shape[-1] - part.hides] if part.hides else states
    forms = expand(part.objective, seen, actions, gauss_newton=gauss_newton)
    if part.hides:  # by what is not seen they are zero
        vector, matrix = (0, part.hides), (0, part.hides, 0, part.hides)
        sizes = (matrix, vector, matrix, vector)
        padded = (pad(form, size) for form, size in zip(forms, sizes, strict=True))
        forms = cast(Forms, tuple(padded))
    if part.weight != 1.0:
        scaled = ((part.weight * unexpanded(form)).expand_as(form) for form in forms)
        forms = cast(Forms, tuple(scaled))
    return forms


def _added(forms: Sequence[Tensor]) -> Tensor:
    """Add Hessians, or gradients; what is one for all, expanded, stays one."""
    first, *others = forms
    total = unexpanded(first)
    for form in others:
        total = total + unexpanded(form)
    return total.expand_as(first)


def _checked(forms: object, states: Tensor, actions: Tensor) -> Forms:
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
