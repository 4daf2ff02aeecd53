"""The implicit gradient of planners that search over actions (`Implicit`).

Whatever found them, optimal actions are a minimum of the rolled-out cost inside the
action space, and that alone decides their derivative. Newton systems of small states
are solved exactly, as a regulator; those of large ones by conjugate gradients,
preconditioned by the regulator of the linearised problem.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffplan.functional._conjugate_gradients import Solve
from diffplan.functional._derivatives import constants, keep
from diffplan.functional._isolation import StandIns, without_gradient
from diffplan.gradients import Implicit
from diffplan.objectives._base import StageObjective
from diffplan.planners._exact_newton import ActionCost
from diffplan.planners._quadratic_model import regulator
from diffplan.planners._solution import judged
from diffplan.planners.base import Solution
from diffplan.problem import PlanningProblem
from diffplan.solvers._matrix_free import Minimization, differentiable
from diffplan.solvers._stationary import polish, refusing, report

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
    start = problem.action_space.project(solution.actions.detach()).flatten(1)
    few = state.shape[-1] + shape[-1] <= _FEW
    exact = few and isinstance(problem.objective, StageObjective)

    def minimization(
        problem: PlanningProblem, state: Tensor
    ) -> ActionCost | Minimization:
        box = problem.action_space.to(state)
        low, high = (side.expand(shape).flatten(1) for side in (box.low, box.high))
        if exact:
            return ActionCost(problem, state, shape, strategy, low, high)
        return _matrix_free(problem, state, shape, strategy, low, high)

    smooth = minimization(problem, state)
    minimum = polish(smooth, start)
    polished = minimum.variables
    with constants():
        finite = torch.isfinite(smooth.cost(polished))
    finite = finite & torch.isfinite(minimum.stationarity)
    sound = minimum.sound & finite
    if not bool(finite.all()):
        # Another element stands in the place of one that is NaN, whose own numbers
        # would make the gradient of the parameters that they share NaN.
        rows = StandIns.of(finite)
        here, there = map(rows.put, (state, polished))
        smooth = minimization(problem.standing_in(rows), here)
        minimum = replace(minimum, variables=there, local=smooth.local(there))
    if isinstance(smooth, ActionCost):
        actions, depends, solved = smooth.differentiable(minimum)
        sound = sound & solved
    else:
        actions, depends = differentiable(smooth, minimum).view(shape), ()
    if not bool(finite.any()):
        actions, depends = without_gradient(actions), ()
    constant = polished.view(shape)
    actions = Guard.apply(actions, constant, state, strategy, sound, *depends)
    return judged(solution, actions, sound, minimum.stationarity)


def _matrix_free(
    problem: PlanningProblem,
    state: Tensor,
    shape: torch.Size,
    strategy: Implicit,
    low: Tensor,
    high: Tensor,
) -> Minimization:
    def cost(flat: Tensor) -> Tensor:
        return problem.cost(state, flat.view(shape))

    def precondition(flat: Tensor) -> Solve:
        actions = flat.view(shape)
        states = problem.rollout(state.detach(), actions)
        return regulator(problem, states, actions)

    return Minimization(cost, precondition, strategy, low, high)


class Guard(torch.autograd.Function):
    """Actions that carry the implicit gradient; a word on elements that have none.

    Those are the constants that they were polished to.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        actions: Tensor,
        constant: Tensor,
        state: Tensor,
        strategy: Implicit,
        sound: Tensor,
        *depends_on: Tensor,
    ) -> Tensor:
        """Return actions `[B, T, A]`.

        Args:
            actions: With the gradient, `[B, T, A]`.
            constant: Without, `[B, T, A]`.
            state: Of the elements, `[B, S]`.
            strategy: Says what becomes of elements without a derivative.
            sound: Which elements have one, `[B]` bool.
            depends_on: What the actions depend on.
        """
        del state, strategy, depends_on
        return torch.where(sound[:, None, None], actions, constant)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivative needs."""
        del output
        ctx.strategy = inputs[3]
        keep(ctx, inputs[4], inputs[2], *inputs[5:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Raise, or replace cotangents, as the strategy says."""
        sound, state, *depends_on = ctx.saved_tensors
        kept = _guarded(cotangent, ctx.strategy, sound, depends_on)
        # An element's own state is cut off where another element stands for it.
        lost = kept.detach().flatten(1).isnan().any(1, keepdim=True) & ~sound[:, None]
        by_state = torch.where(lost, torch.nan, torch.zeros_like(state))
        return kept, None, by_state, None, None, *(None for _ in depends_on)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
        """Raise, or replace tangents, likewise."""
        sound, _, *depends_on = ctx.saved_tensors
        if tangent is None:
            return None
        return _guarded(tangent, ctx.strategy, sound, depends_on)


def _guarded(
    derivative: Tensor, strategy: Implicit, sound: Tensor, depends_on: list[Tensor]
) -> Tensor:
    flat = derivative.flatten(1)
    kept = report(flat, sound, flat, strategy.on_failure).view(derivative.shape)
    if strategy.order > 1:
        return kept
    return refusing(kept, lambda: tuple(depends_on))
