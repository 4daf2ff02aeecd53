"""The bounded linear-quadratic problem as a convex layer (cvxpylayers)."""

from typing import Any

import cvxpy as cp
from _problems import Problem
from _worker import Contender, serve
from cvxpylayers.torch import CvxpyLayer
from torch import Tensor


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Write the problem down once; dynamics and start are the layer's parameters."""
    steps, size, width = problem.horizon, problem.size, problem.width
    start, offset = cp.Parameter(size), problem.goal.numpy()
    transition, control = cp.Parameter((size, size)), cp.Parameter((size, width))
    states = cp.Variable((steps + 1, size))
    actions = cp.Variable((steps, width))
    root = problem.weight.sqrt().numpy()[None]
    # One cone for all states, and Clarabel: its fastest way to the same optimum.
    away = cp.multiply(root.repeat(steps + 1, 0), states - offset[None])
    cost = cp.sum_squares(away) + problem.effort * cp.sum_squares(actions)
    constraints = [states[0] == start]
    for step in range(steps):
        following = transition @ states[step] + control @ actions[step]
        constraints.append(states[step + 1] == following)
    if problem.limit is not None:
        constraints.append(cp.abs(actions) <= problem.limit)
    threads = {"n_jobs_forward": 1}  # as all contenders
    if case["backward"]:
        threads["n_jobs_backward"] = 1
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(0.5 * cost), constraints),
        parameters=[transition, control, start],
        variables=[actions],
        solver_args={"solve_method": "Clarabel", **threads},
    )
    dynamics = problem.dynamics

    def solve() -> Tensor:
        given = (dynamics.state_matrix, dynamics.action_matrix, problem.state)
        return layer(*given)[0]

    return Contender(solve)


if __name__ == "__main__":
    serve(["cvxpylayers", "cvxpy", "diffcp"], prepare)
