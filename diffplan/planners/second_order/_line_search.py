"""Rolling out steps: how far along a step the cost is lowest, and going there.

Shared by the planners that shoot with second derivatives. A step may carry feedback: a
law about the nominal states, which keeps a rollout near the model that it was made for.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional._isolation import select_rows
from diffplan.planners._evaluation import worst_if_failed
from diffplan.planners._progress import ROUNDING, no_worse
from diffplan.problem import Box, PlanningProblem

_SHARE = 0.1
"""Of the decrease that the model expects: the least that a step must bring."""


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


class PolicyStep(NamedTuple):
    """A step away from a nominal trajectory.

    Attributes:
        feedforward: Increments of the actions, `[…, T, A]`.
        gains: How the actions answer to a deviation of the states, `[…, T, A, S]`;
            None for a step in open loop.
        decrease: How much the model expects the whole step to lower the cost,
            `[…]`; without a graph.
        ok: Whether there is a step, `[…]` bool; where not, the others are zero.
        max_step: How far it may move an action, feedback included; None for no limit.
    """

    feedforward: Tensor
    gains: Tensor | None
    decrease: Tensor
    ok: Tensor
    max_step: float | None = None


class Chosen(NamedTuple):
    """What a line search decided; without a graph.

    Attributes:
        size: The fraction of the step that is taken, 0 for none, `[…]`.
        nominal: Where that leads.
    """

    size: Tensor
    nominal: Nominal


def roll_out(problem: PlanningProblem, state: Tensor, actions: Tensor) -> Nominal:
    """Return the trajectory of actions `[…, T, A]`."""
    states = problem.rollout(state, actions)
    with torch.no_grad():
        cost = worst_if_failed(problem.trajectory_cost(states, actions))
    return Nominal(states, actions, cost)


def increments(
    problem: PlanningProblem, nominal: Nominal, max_step: float | None
) -> tuple[Tensor, Tensor]:
    """Return the least and the largest increments of the actions, `[…, T, A]`.

    Args:
        problem: The problem.
        nominal: What is incremented, inside the bounds.
        max_step: The most in either direction; None leaves it to the bounds.
    """
    box = problem.action_space.aligned(nominal.actions)
    least, most = box.low - nominal.actions, box.high - nominal.actions
    if max_step is None:
        return least, most
    return least.clamp_min(-max_step), most.clamp_max(max_step)


def cheaper(best: Nominal, later: Nominal) -> Nominal:
    """Return the trajectory that costs less; of the same cost, the later one."""
    chosen = no_worse(later.cost, best.cost)
    return Nominal(*select_rows(chosen, later, best))


def trial(
    problem: PlanningProblem, nominal: Nominal, step: PolicyStep, sizes: Tensor
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
    fractions = sizes[..., None, None] * step.feedforward.unsqueeze(-3)
    wanted = nominal.actions.unsqueeze(-3) + fractions
    start = nominal.states[..., :1, :].expand(*wanted.shape[:-2], -1)
    if step.gains is None:  # without feedback a part of a step is no longer than it
        actions = problem.action_space.project(wanted)
        return problem.rollout(start, actions), actions
    states, actions_taken = [start], []
    times = problem.times(0, wanted.shape[-2], wanted)
    for step_number, (before, action, gain, limits) in enumerate(
        zip(
            nominal.states[..., :-1, :].split(1, -2),
            wanted.unbind(-2),
            step.gains.mT.unbind(-3),
            _limits(problem, nominal, wanted, step.max_step),
            strict=True,
        )
    ):
        action = (action + (states[-1] - before) @ gain).clamp(*limits)
        actions_taken.append(action)
        time = None if times is None else times[step_number]
        states.append(problem.step(states[-1], action, time))
    return torch.stack(states, -2), torch.stack(actions_taken, -2)


def _limits(
    problem: PlanningProblem, nominal: Nominal, wanted: Tensor, max_step: float | None
) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper limits of the actions of each step, that `wanted` is cut to."""
    box = problem.action_space.aligned(wanted)
    if max_step is None:
        return box.per_step(wanted.shape[-2])
    actions = nominal.actions.unsqueeze(-3)
    low = torch.maximum(box.low, actions - max_step)
    high = torch.minimum(box.high, actions + max_step)
    return list(zip(low.unbind(-2), high.unbind(-2), strict=True))


def search(
    problem: PlanningProblem,
    nominal: Nominal,
    step: PolicyStep,
    sizes: tuple[float, ...],
    *,
    allowed: Tensor,
    must_fall: bool,
    look: bool,
    attempt: Callable[..., Nominal],
) -> Chosen:
    """Take the longest fraction of a step that lowers the cost enough.

    Enough is a tenth of what the model expects, or up to rounding, below which
    Newton's last steps are.

    Args:
        problem: The problem.
        nominal: The trajectory that the step leaves.
        step: The step.
        sizes: Fractions, the longest first.
        allowed: Which elements may move, `[…]` bool.
        must_fall: Whether an element that no fraction serves stays where it is. If
            not, it takes the one that costs least.
        look: Whether numbers may be looked at from the host: shorter fractions are
            only rolled out then if some element needs them. If not, all are, side by
            side, and the outcome is the same.
        attempt: `try_fractions`, or what it was compiled to.
    """
    # Another layout would be compiled anew.
    nominal = Nominal(*(part.contiguous() for part in nominal))
    with torch.no_grad():
        tried = attempt(problem, nominal, step, sizes[:1] if look else sizes)
        good = _enough(nominal, step, sizes, tried.cost)
        if look and len(sizes) > 1 and not bool((good[..., 0] | ~allowed).all()):
            rest = attempt(problem, nominal, step, sizes[1:])
            tried = Nominal(
                torch.cat((tried.states, rest.states), -3),
                torch.cat((tried.actions, rest.actions), -3),
                torch.cat((tried.cost, rest.cost), -1),
            )
            good = _enough(nominal, step, sizes, tried.cost)
        found = good.any(-1)
        index = torch.where(
            found, good.to(torch.int32).argmax(-1), tried.cost.argmin(-1)
        )
        reached = _at(tried, index)
        moves = allowed & torch.isfinite(reached.cost)
        if must_fall:
            moves = moves & found
        longest = _filled(sizes, nominal.cost)[index]
        whole = moves[..., None, None]
        return Chosen(
            torch.where(moves, longest, 0.0),
            Nominal(
                torch.where(whole, reached.states, nominal.states),
                torch.where(whole, reached.actions, nominal.actions),
                torch.where(moves, reached.cost, nominal.cost),
            ),
        )


def try_fractions(
    problem: PlanningProblem,
    nominal: Nominal,
    step: PolicyStep,
    sizes: tuple[float, ...],
) -> Nominal:
    """Roll out several fractions of a step, `[…, n]` trajectories."""
    states, actions = trial(problem, nominal, step, _filled(sizes, nominal.cost))
    return Nominal(
        states, actions, worst_if_failed(problem.trajectory_cost(states, actions))
    )


def _filled(sizes: tuple[float, ...], like: Tensor) -> Tensor:
    if like.device.type == "cpu":
        return like.new_tensor(sizes)
    # On the device: a copy from the host would be waited for.
    return torch.stack([like.new_full((), size) for size in sizes])


def _enough(
    nominal: Nominal, step: PolicyStep, sizes: tuple[float, ...], costs: Tensor
) -> Tensor:
    """Return where the first fractions lower the cost enough, `[…, n]` bool."""
    fractions = _filled(sizes[: costs.shape[-1]], costs)
    finite = torch.where(torch.isfinite(nominal.cost), nominal.cost.abs(), 0.0)
    slack = ROUNDING * torch.finfo(costs.dtype).eps * finite
    wanted = _SHARE * fractions * step.decrease.unsqueeze(-1)
    return costs <= (nominal.cost + slack).unsqueeze(-1) - wanted


def _at(tried: Nominal, index: Tensor) -> Nominal:
    if tried.cost.shape[-1] == 1:
        return Nominal(
            *(t.squeeze(d) for t, d in zip(tried, (-3, -3, -1), strict=True))
        )
    whole = index[..., None, None, None]
    return Nominal(
        torch.take_along_dim(tried.states, whole, -3).squeeze(-3),
        torch.take_along_dim(tried.actions, whole, -3).squeeze(-3),
        torch.take_along_dim(tried.cost, index.unsqueeze(-1), -1).squeeze(-1),
    )


def follow(
    problem: PlanningProblem, nominal: Nominal, step: PolicyStep, chosen: Chosen
) -> Nominal:
    """Go where a line search went, with a graph.

    A step that is not taken is masked before the rollout and not after it: what a
    failed rollout returns would spoil the gradient of everybody else.
    """
    taken = chosen.size
    moves = (taken > 0)[..., None, None]
    gains = step.gains
    if gains is not None:
        gains = torch.where(moves.unsqueeze(-1), gains, 0.0)
    masked = step._replace(
        feedforward=torch.where(moves, step.feedforward, 0.0), gains=gains
    )
    states, actions = trial(problem, nominal, masked, taken.unsqueeze(-1))
    return Nominal(states.squeeze(-3), actions.squeeze(-3), chosen.nominal.cost)


def gradient_norm(box: Box, nominal: Nominal, slope: Tensor) -> Tensor:
    """Return the largest entry `[…]` of the gradient that the bounds leave to descend.

    `max |u - project(u - slope)|`: zero exactly at a stationary point of the bounded
    problem, and the slope itself where no bound is near.

    Args:
        box: The bounds.
        nominal: Where.
        slope: Derivative of the cost by the actions, `[…, T, A]`. The norm is infinite
            where that is NaN.
    """
    with torch.no_grad():
        downhill = box.project(nominal.actions - slope)
        norm = (nominal.actions - downhill).abs().amax((-1, -2))
        return torch.where(torch.isnan(norm), torch.inf, norm)
