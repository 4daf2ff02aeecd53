"""What a policy would do: candidates for planners that improve on them."""

from collections.abc import Callable

import torch
from torch import Tensor

import diffplan as dp


def follow(
    policy: Callable[[Tensor], Tensor],
    problem: dp.PlanningProblem,
    state: Tensor,
    extra: Tensor,
) -> Tensor:
    """Return what a policy does in the model, as candidates `[B, N, T, A]`.

    Args:
        policy: `(state […, S]) → action […, A]`.
        problem: Its dynamics are followed, without a graph.
        state: `[B, S]`.
        extra: Added to the policy's actions `[B, N, T, A]`, such as noise.
    """
    box, actions = problem.action_space.to(state), []
    state = state.unsqueeze(1).expand(-1, extra.shape[1], -1)
    times = problem.times(0, extra.shape[2], state)  # None but for timed dynamics
    with torch.no_grad():
        for step in range(extra.shape[2]):
            actions.append(box.project(policy(state) + extra[..., step, :], step))
            time = None if times is None else times[step]
            state = problem.step(state, actions[-1], time)
    return torch.stack(actions, dim=-2)
