"""The linear-quadratic model of a planning problem about a trajectory.

Dynamics are linearised, and the cost of each step is expanded to second order, see
`diffplan.objectives._expansion`. The second derivatives of the dynamics are left out
(that is what makes it iLQR rather than DDP). All steps are expanded at once.
"""

import torch
from torch import Tensor

from diffplan.functional._conjugate_gradients import Solve
from diffplan.functional.box_lqr import IncrementalLQR
from diffplan.functional.lqr import lqr_factorize
from diffplan.objectives._base import ResidualObjective, StageObjective
from diffplan.objectives._expansion import expand
from diffplan.problem import PlanningProblem

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
    forms = expand(problem.objective, states, actions, gauss_newton=gauss_newton)
    model = IncrementalLQR(by_action, by_state, *forms)
    return _finite_or_zero(model, lead=states.dim() - 2)


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
