"""Rolling out steps: how far along a step the cost is lowest, and going there.

Shared by the planners that shoot with second derivatives. A step may carry feedback: a
law about the nominal states, which keeps a rollout near the model that it was made for.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional.rollout import rollout
from diffplan.planners.candidates import worst_if_nan
from diffplan.problem import Box, PlanningProblem


class Nominal(NamedTuple):
    """The trajectory that the problem is expanded about.

    Attributes:
        states: `[…, T+1, S]`.
        actions: `[…, T, A]`.
        cost: `[…]`, without a graph; infinite instead of NaN.
    """

    states: Tensor
    actions: Tensor
    cost: Tensor


class Step(NamedTuple):
    """A step away from a nominal trajectory.

    Attributes:
        feedforward: Increments of the actions, `[…, T, A]`.
        gains: How the actions answer to a deviation of the states, `[…, T, A, S]`;
            None for a step in open loop.
        slope: Derivative of the cost by the actions, `[…, T, A]`.
        ok: Whether there is a step, `[…]` bool; where not, the others are zero.
    """

    feedforward: Tensor
    gains: Tensor | None
    slope: Tensor
    ok: Tensor


def roll_out(problem: PlanningProblem, state: Tensor, actions: Tensor) -> Nominal:
    """Return the trajectory of actions `[…, T, A]`."""
    states = rollout(problem.dynamics, state, actions)
    with torch.no_grad():
        cost = worst_if_nan(problem.objective(states, actions))
    return Nominal(states, actions, cost)


def trial(
    problem: PlanningProblem, nominal: Nominal, step: Step, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Roll out fractions of a step, with its feedback, inside the bounds.

    Args:
        problem: The problem.
        nominal: The trajectory that the step leaves.
        step: The step.
        sizes: n fractions, `[n]`, or `[…, n]` to give each element its own.

    Returns:
        States `[…, n, T+1, S]` and actions `[…, n, T, A]`.
    """
    box = problem.action_space.to(nominal.actions)
    fractions = sizes[..., None, None] * step.feedforward.unsqueeze(-3)
    wanted = nominal.actions.unsqueeze(-3) + fractions
    start = nominal.states[..., :1, :].expand(*wanted.shape[:-2], -1)
    if step.gains is None:
        actions = box.project(wanted)
        return rollout(problem.dynamics, start, actions), actions
    states, actions_taken = [start], []
    for before, action, gain in zip(
        nominal.states[..., :-1, :].split(1, -2),
        wanted.unbind(-2),
        step.gains.mT.unbind(-3),
        strict=True,
    ):
        action = box.project(action + (states[-1] - before) @ gain)
        actions_taken.append(action)
        states.append(problem.dynamics(states[-1], action))
    return torch.stack(states, -2), torch.stack(actions_taken, -2)


def follow(
    problem: PlanningProblem,
    nominal: Nominal,
    step: Step,
    taken: Tensor,
    cost: Tensor,
) -> Nominal:
    """Take the chosen fraction of a step; where that is zero, none of it.

    A step that is not taken is masked before the rollout and not after it: what a
    failed rollout returns would spoil the gradient of everybody else.
    """
    moves = (taken > 0)[..., None, None]
    gains = step.gains
    if gains is not None:
        gains = torch.where(moves.unsqueeze(-1), gains, 0.0)
    masked = step._replace(
        feedforward=torch.where(moves, step.feedforward, 0.0), gains=gains
    )
    states, actions = trial(problem, nominal, masked, taken.unsqueeze(-1))
    return Nominal(states.squeeze(-3), actions.squeeze(-3), cost)


def gradient_norm(box: Box, nominal: Nominal, step: Step) -> Tensor:
    """Return the largest entry `[…]` of the gradient that the bounds leave to descend.

    `max |u - project(u - slope)|`: zero exactly at a stationary point of the bounded
    problem, and the slope itself where no bound is near. Infinite where the slope is
    not known.
    """
    with torch.no_grad():
        downhill = box.project(nominal.actions - step.slope)
        norm = (nominal.actions - downhill).abs().amax((-1, -2))
        return torch.where(step.ok, norm, torch.inf)
