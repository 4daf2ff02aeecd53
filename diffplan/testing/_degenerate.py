"""Inputs at the border of what is allowed: no problem, no choice, nothing to gain."""

import copy
import warnings

import torch
from torch import Tensor

from diffplan.errors import GradientError, NumericsWarning
from diffplan.gradients import Detach, Implicit
from diffplan.objectives._base import ResidualObjective
from diffplan.plan import Plan, Status
from diffplan.planners.base import Planner
from diffplan.problem import Box, PlanningProblem
from diffplan.testing._assertions import (
    answered,
    constants_expected,
    fail,
    same,
    within,
)


class NothingToGain(ResidualObjective):
    """A cost that is zero everywhere, with a graph to states and actions."""

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return zeros `[…, S + A]`."""
        return 0 * torch.cat([state, action], dim=-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return zeros `[…, S]`."""
        return 0 * state


def check_empty_batch(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """No problem at all is planned like any other number of them."""
    one, none = planner(problem, state[:1]), planner(problem, state[:0])
    again = planner(problem, state[:0], warm_start=none.detach())
    for plan in (none, again):
        for name in ("actions", "states", "cost", "status", "iterations"):
            expected = getattr(one, name)[:0]
            same(f"plan.{name}.shape", getattr(plan, name).shape, expected.shape)
            same(f"plan.{name}.dtype", getattr(plan, name).dtype, expected.dtype)
        for kind in ("diagnostics", "memory"):
            mine, others = getattr(plan, kind), getattr(one, kind)
            same(f"the names in plan.{kind}", set(mine), set(others))
            for name, value in mine.items():
                # traces may be shorter: whoever stops early has nobody to go on for
                same(f"plan.{kind}[{name!r}]: batch", value.shape[0], 0)


def check_fixed_actions(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """Actions whose bounds are equal are those bounds, and plan like others."""
    if problem.action_constraints:
        return  # the point need not keep them
    point = problem.action_space.to(state).center
    plan = planner(within(problem, Box(point, point)), state)
    expected = point.expand_as(plan.actions)
    if not torch.equal(plan.actions, expected):
        fail(f"actions: expected the only ones there are, {point}, got {plan.actions}")
    _ended_well("a box that is a point", plan)


def check_constant_objective(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """Where nothing can be gained any allowed actions will do, but finite ones.

    Their derivative by `Implicit()` does not exist: a status may say so, and backward
    does what `on_failure` says, or gives a finite gradient like any other strategy.
    """
    pointless = copy.copy(problem)
    pointless.objective = NothingToGain()
    leaf = state.detach().clone().requires_grad_()
    with constants_expected():
        plan = planner(pointless, leaf)
    strategy = planner.gradient
    implicit = isinstance(strategy, Implicit)
    _ended_well("a constant objective", plan, or_not_stationary=implicit)
    if not problem.action_space.contains(plan.actions).all():
        fail(f"a constant objective: actions leave {problem.action_space}")
    if not (plan.cost == 0).all():
        fail(f"a constant objective of zero: plan.cost is {plan.cost.tolist()}")
    if isinstance(strategy, Detach) or not plan.actions.requires_grad:
        return
    on_failure = strategy.on_failure if isinstance(strategy, Implicit) else None
    refusals = (GradientError,) if on_failure == "raise" else ()
    gradient = None
    with (
        answered("backward from a constant objective", *refusals),
        warnings.catch_warnings(action="ignore", category=NumericsWarning),
    ):
        (gradient,) = torch.autograd.grad(plan.actions.sum(), leaf, allow_unused=True)
    finite = gradient is None or bool(torch.isfinite(gradient).all())
    if not (finite or on_failure == "nan"):
        fail(f"a constant objective: the gradient to the state is {gradient.tolist()}")


def _ended_well(what: str, plan: Plan, *, or_not_stationary: bool = False) -> None:
    good = plan.status <= int(Status.ITERATION_LIMIT)
    if or_not_stationary:
        good |= plan.status == int(Status.NOT_STATIONARY)
    if not good.all():
        fail(f"{what}: {plan.explain()}")
    if not (torch.isfinite(plan.actions).all() and torch.isfinite(plan.cost).all()):
        fail(f"{what}: actions or cost are not finite: {plan.cost.tolist()}")
