"""Conformance checks of answers: good ones, from questions that are allowed."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from diffplan.errors import UnsupportedProblemError
from diffplan.gradients import Detach
from diffplan.planners.base import Planner
from diffplan.problem import PlanningProblem
from diffplan.testing._assertions import close, constants_expected, fail, refusal

_WORSE = 0.01
"""By how much an answer may be worse than what was known before, relatively."""


def check_no_worse(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """An answer is no worse than the warm start, nor than the middle of the box."""
    with torch.no_grad():
        cold = planner(problem, state)
        middle = problem.project(problem.action_space.to(state).center)
        middle = middle.expand(cold.actions.shape)
        _no_worse("the middle of the box", problem, state, middle, cold.cost)
        bent = problem.project(0.7 * cold.actions + 0.3 * middle)
        for name, actions in (
            ("its own last plan", cold.actions),
            ("a plan like its last one", bent),
        ):
            warm = planner(problem, state, warm_start=replace(cold, actions=actions))
            _no_worse(name, problem, state, actions, warm.cost)


def _no_worse(
    what: str, problem: PlanningProblem, state: Tensor, actions: Tensor, cost: Tensor
) -> None:
    known = problem.cost(state, actions)
    if not (cost <= known + _WORSE * known.abs()).all():
        fail(f"an answer costs {cost.tolist()}, {what} {known.tolist()}")


def check_questions(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """The model is asked about allowed actions only, also for a warm start outside.

    A planner that differs, as collocation does, declares `leaves_bounds`.
    """
    box = problem.action_space.to(state)
    wrong: list[Tensor] = []

    def watched(before: Tensor, action: Tensor) -> Tensor:
        wrong.append((box.excess(action.detach()) != 0).sum())
        return problem.dynamics(before, action)

    asked = PlanningProblem(watched, problem.objective, problem.action_space)
    plan = planner(asked, state).detach()
    far = plan.actions + 10 * (1 + box.scale)
    planner(asked, state, warm_start=replace(plan, actions=far))
    outside = int(torch.stack(wrong).sum())
    if outside and not planner.leaves_bounds:
        fail(f"the dynamics were asked about {outside} numbers outside of {box}")


def check_failed_element(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """An element whose rollouts are NaN leaves the gradients of the others as they are.

    Also that of a parameter that all of them share.
    """
    limit = 1e3 * (1 + float(state.abs().max()))
    lost = state.detach().clone()
    lost[0] = 2 * limit
    pairs = []
    for start in (lost, state.detach().clone()):
        dynamics = _Fragile(problem, limit).to(state)
        fragile = PlanningProblem(dynamics, problem.objective, problem.action_space)
        leaf = start.requires_grad_()
        with constants_expected():
            plan = planner(fragile, leaf)
        constant = isinstance(planner.gradient, Detach)
        loss = (plan.cost if constant else plan.actions.sin())[1:].sum()
        pairs.append(torch.autograd.grad(loss, (leaf, dynamics.strength)))
    (by_state, by_strength), (expected_state, expected_strength) = pairs
    for name, got, expected in (
        ("state", by_state[1:], expected_state[1:]),
        ("a shared parameter", by_strength, expected_strength),
    ):
        scale = 1 + expected.abs().max()
        close(f"gradient to {name}", got / scale, expected / scale, 1e-4)
    if not (by_state[0] == 0).all():
        fail(f"an element that no loss reaches has the gradient {by_state[0]}")


class _Fragile(nn.Module):
    """Dynamics with a parameter that all elements share, and NaN far away."""

    def __init__(self, problem: PlanningProblem, limit: float) -> None:
        super().__init__()
        self.dynamics, self.limit = problem.dynamics, limit
        self.strength = nn.Parameter(torch.ones(()))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        following = self.dynamics(state, self.strength * action)
        far = state.abs().amax(-1, keepdim=True) > self.limit
        return torch.where(far, torch.nan, following)


def check_cut_graph(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A planner that descends says so where the graph to descend along is cut."""
    if not planner.needs_derivatives:
        return

    @torch.no_grad()
    def cut(before: Tensor, action: Tensor) -> Tensor:
        return problem.dynamics(before, action)

    blind = PlanningProblem(cut, problem.objective, problem.action_space)
    with refusal(UnsupportedProblemError, "dynamics", "dynamics without a graph"):
        planner(blind, state)
