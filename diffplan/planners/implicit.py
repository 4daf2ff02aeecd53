"""The implicit gradient of planners that search over actions (`Implicit`).

Whatever found them, optimal actions are a minimum of the rolled-out cost inside the
action space, and that alone decides their derivative. Newton systems of small states
are solved exactly, as a regulator; those of large ones by conjugate gradients,
preconditioned by the regulator of the linearised problem.
"""

import torch
from torch import Tensor

from diffplan.functional.conjugate_gradients import Solve
from diffplan.gradients import Implicit
from diffplan.objectives.base import StageObjective
from diffplan.plan import Status
from diffplan.planners.base import Solution
from diffplan.planners.quadratic_model import regulator
from diffplan.planners.trajectory_newton import ActionCost
from diffplan.problem import PlanningProblem
from diffplan.solvers.matrix_free import Minimization, differentiable
from diffplan.solvers.stationary import Minimum, polish

_FEW = 32
"""Numbers of a state and an action together for which curvature is expanded."""


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
    low, high = (bound.repeat(shape[1]) for bound in (box.low, box.high))
    start = problem.action_space.project(solution.actions.detach()).flatten(1)
    few = state.shape[-1] + shape[-1] <= _FEW
    if few and isinstance(problem.objective, StageObjective):
        exact = ActionCost(problem, state, shape, strategy, low, high)
        minimum = polish(exact, start)
        return judged(solution, minimum, exact.differentiable(minimum))

    def cost(flat: Tensor) -> Tensor:
        return problem.cost(state, flat.view(shape))

    def precondition(flat: Tensor) -> Solve:
        actions = flat.view(shape)
        states = problem.rollout(state.detach(), actions)
        return regulator(problem, states, actions)

    large = Minimization(cost, precondition, strategy, low, high)
    minimum = polish(large, start)
    return judged(solution, minimum, differentiable(large, minimum).view(shape))


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
