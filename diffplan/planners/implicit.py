"""The implicit gradient of planners that search over actions (`Implicit`).

Whatever found them, optimal actions are a minimum of the rolled-out cost inside the
action space, and that alone decides their derivative. The Newton systems are
preconditioned by the regulator of the linearised problem: one sweep over the horizon
instead of a matrix over all actions.
"""

import torch
from torch import Tensor

from diffplan.functional.conjugate_gradients import Solve
from diffplan.functional.lqr import lqr_factorize
from diffplan.functional.rollout import rollout
from diffplan.gradients import Implicit
from diffplan.objectives.base import ResidualObjective, StageObjective
from diffplan.plan import Status
from diffplan.planners.base import Solution
from diffplan.planners.quadratic_model import quadratic_model
from diffplan.problem import PlanningProblem
from diffplan.solvers.stationary import (
    Minimization,
    Minimum,
    differentiable,
    polish,
)

_LEAST_CURVATURE = 1e-6
"""Added to the action curvature of the preconditioner, which must be definite."""


def differentiate_actions(
    problem: PlanningProblem, state: Tensor, solution: Solution, strategy: Implicit
) -> Solution:
    """Polish the actions of a shooting planner and give them their derivative.

    Args:
        problem: The problem; its action space is kept.
        state: `[B, S]`.
        solution: What the planner found.
        strategy: Tolerances and limits.

    Returns:
        The same solution with polished actions that carry the implicit gradient, and
        with "stationarity" `[B, 1]` in its diagnostics.
    """
    shape = solution.actions.shape
    box = problem.action_space.to(state)

    def cost(flat: Tensor) -> Tensor:
        actions = flat.view(shape)
        return problem.objective(rollout(problem.dynamics, state, actions), actions)

    def precondition(flat: Tensor) -> Solve:
        return regulator(problem, state.detach(), flat.view(shape))

    repeats = shape[1]
    minimization = Minimization(
        cost, precondition, strategy, box.low.repeat(repeats), box.high.repeat(repeats)
    )
    start = problem.action_space.project(solution.actions.detach()).flatten(1)
    minimum = polish(minimization, start)
    actions = differentiable(minimization, minimum).view(shape)
    return judged(solution, minimum, actions)


def judged(solution: Solution, minimum: Minimum, actions: Tensor) -> Solution:
    """Return a solution with polished actions and a status that says how sound it is.

    Args:
        solution: Of the planner.
        minimum: Of the polishing.
        actions: With the implicit gradient `[B, T, A]`.
    """
    found = torch.where(
        minimum.sound, int(Status.CONVERGED), int(Status.NOT_STATIONARY)
    )
    if solution.status is not None:
        broken = solution.status == int(Status.NON_FINITE)
        found = torch.where(broken, solution.status, found)
    return Solution(
        actions=actions,
        status=found,
        iterations=solution.iterations,
        diagnostics={
            **solution.diagnostics,
            "stationarity": minimum.stationarity[:, None],
        },
        memory=solution.memory,
    )


def regulator(problem: PlanningProblem, state: Tensor, actions: Tensor) -> Solve:
    """Return an approximate inverse Hessian of the cost in the actions.

    That of the linear-quadratic model about the rollout, which is positive definite
    wherever it can be factored; elsewhere, and for an objective without stages, the
    identity.

    Args:
        problem: The problem.
        state: `[B, S]`.
        actions: `[B, T, A]`.
    """
    objective = problem.objective
    if not isinstance(objective, StageObjective):
        return lambda vector: vector
    states = rollout(problem.dynamics, state, actions)
    model, finite = quadratic_model(
        problem,
        states,
        actions,
        gauss_newton=isinstance(objective, ResidualObjective),
    )
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
