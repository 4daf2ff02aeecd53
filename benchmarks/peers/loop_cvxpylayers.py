"""cvxpylayers in a control loop, for a linear plant: a quadratic program a step.

The layer takes no warm start. Only its forward pass is asked for.
"""

from typing import Any

import cvxpy as cp
import numpy as np
import torch
from _loop import Controller, Numbers, Task, serve
from cvxpylayers.torch import CvxpyLayer

FLOAT = torch.float64


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Write the program down once; the given state is the layer's parameter."""
    del settings
    start = cp.Parameter(task.size)
    states = cp.Variable((task.horizon + 1, task.size))
    actions = cp.Variable((task.horizon, task.width))
    root, goal = np.sqrt(task.weight), np.array(task.goal)
    cost = task.effort * cp.sum_squares(actions)
    constraints = [states[0] == start, cp.abs(actions) <= task.limit]
    for t in range(task.horizon):
        cost += cp.sum_squares(cp.multiply(root, states[t] - goal))
        given = (list(states[t]), list(actions[t]))
        # Equations of a linear plant need no functions.
        constraints.append(states[t + 1] == cp.hstack(task.following(None, *given)))
    last = cp.multiply(root, states[task.horizon] - goal)
    cost += task.terminal * cp.sum_squares(last)
    program = cp.Problem(cp.Minimize(0.5 * cost), constraints)
    layer = CvxpyLayer(program, parameters=[start], variables=[actions])

    def act(state: Numbers) -> Numbers:
        with torch.no_grad():
            (plan,) = layer(torch.tensor(state, dtype=FLOAT))
        return plan[0].clamp(-task.limit, task.limit).tolist()

    def model(state: Numbers, action: Numbers) -> Numbers:
        return task.following(None, state, action)

    return Controller(act, lambda: None, model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(["cvxpylayers", "cvxpy", "diffcp", "torch"], build)
