"""CasADi in a control loop: multiple shooting, solved by IPOPT or Fatrop.

The usual way to write model predictive control in Python. Warm-started by the states
and actions of the plan before, shifted by a step, and by its multipliers.
"""

from typing import Any

import casadi as ca
import numpy as np
from _loop import Controller, Numbers, Task, serve

QUIET = {
    "ipopt": {"print_level": 0, "sb": "yes", "warm_start_init_point": "yes"},
    "fatrop": {"print_level": 0},
}


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Write the nonlinear program down once; the given state is its parameter.

    Args:
        task: What it is for.
        settings: With the "solver" of CasADi, and "iterations", at most.
    """
    # Variables go stage by stage, x_0 u_0 x_1 …, as Fatrop wants them.
    size, width, steps = task.size, task.width, task.horizon
    state, action = ca.SX.sym("x", size), ca.SX.sym("u", width)
    given = ca.vertsplit(state), ca.vertsplit(action)
    following = ca.vertcat(*task.following(ca, *given))
    step = ca.Function("step", [state, action], [following])
    solver = program(task, step, settings)
    limit = np.full(width, task.limit)
    free = np.full(size, np.inf)
    bounds = {
        "lbx": np.concatenate([*[np.concatenate([-free, -limit])] * steps, -free]),
        "ubx": np.concatenate([*[np.concatenate([free, limit])] * steps, free]),
        "lbg": 0.0,
        "ubg": 0.0,
    }
    before: dict[str, Any] = {}

    def act(now: Numbers) -> Numbers:
        if before:
            values = np.asarray(before["x"]).ravel()
            tail = values[-(2 * size + width) :]  # the last stage, once more
            guess = np.concatenate([values[size + width : -size], tail])
            multipliers = {"lam_x0": before["lam_x"], "lam_g0": before["lam_g"]}
        else:
            stage = np.concatenate([now, np.zeros(width)])
            guess, multipliers = np.concatenate([*[stage] * steps, now]), {}
        found = solver(x0=guess, p=now, **bounds, **multipliers)
        before.update(found)
        actions = np.asarray(found["x"]).ravel()[size : size + width]
        return np.clip(actions, -task.limit, task.limit).tolist()

    def model(now: Numbers, force: Numbers) -> Numbers:
        return np.asarray(step(now, force)).ravel().tolist()

    return Controller(act, before.clear, model)


def program(task: Task, step: ca.Function, settings: dict[str, Any]) -> ca.Function:
    """Return the solver of the nonlinear program."""
    size, width, steps = task.size, task.width, task.horizon
    start = ca.SX.sym("start", size)
    states = [ca.SX.sym(f"x{t}", size) for t in range(steps + 1)]
    actions = [ca.SX.sym(f"u{t}", width) for t in range(steps)]
    weight, goal = np.array(task.weight), np.array(task.goal)

    def distance(state: ca.SX) -> ca.SX:
        return ca.dot(weight, (state - goal) ** 2)

    cost = task.terminal * distance(states[-1])
    variables, constraints = [], []
    for t in range(steps):
        cost += distance(states[t]) + task.effort * ca.sumsqr(actions[t])
        variables += [states[t], actions[t]]
        constraints.append(states[t + 1] - step(states[t], actions[t]))
        if t == 0:
            constraints.append(states[0] - start)
    nonlinear = {
        "x": ca.vertcat(*variables, states[-1]),
        "p": start,
        "f": 0.5 * cost,
        "g": ca.vertcat(*constraints),
    }
    name = settings["solver"]
    options: dict[str, Any] = {
        name: {**QUIET[name], "max_iter": settings["iterations"]},
        "print_time": False,
        "error_on_fail": False,
    }
    if name == "fatrop":
        equality = [True] * nonlinear["g"].numel()
        options |= {"structure_detection": "auto", "equality": equality}
    return ca.nlpsol("plan", name, nonlinear, options)


if __name__ == "__main__":
    serve(["casadi", "numpy"], build)
