"""JAX in a control loop, compiled, on the CPU: optimisers of its libraries on shooting.

"lbfgsb" is jaxopt's L-BFGS-B on the actions, which knows the bounds.
"levenberg_marquardt" is optimistix', which knows none: its actions are limit · tanh of
its variables. Both start at the plan before, shifted by a step.
"""

import os

# One thread, as all contenders have; to be said before jax is imported.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import optimistix as optx
from _loop import Controller, Numbers, Task, serve

jax.config.update("jax_enable_x64", True)

Plan = Callable[[jax.Array, jax.Array], jax.Array]
INSIDE = 0.999
"""tanh reaches its limits nowhere: how near a start may be."""


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Set an optimiser up; settings are its "method" and "iterations"."""

    def model(state: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.stack(task.following(jnp, tuple(state), tuple(action)))

    root, goal = jnp.sqrt(jnp.array(task.weight)), jnp.array(task.goal)

    def residuals(actions: jax.Array, start: jax.Array) -> tuple[jax.Array, ...]:
        def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
            return model(state, action), root * (state - goal)

        last, running = jax.lax.scan(step, start, actions)
        return (
            running,
            task.effort**0.5 * actions,
            task.terminal**0.5 * root * (last - goal),
        )

    method = {"lbfgsb": lbfgsb, "levenberg_marquardt": levenberg_marquardt}
    plan = method[settings["method"]](task, residuals, settings["iterations"])

    @jax.jit
    def planned(actions: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = plan(actions, state)
        return found[0], jnp.concatenate([found[1:], found[-1:]])

    nothing = jnp.zeros((task.horizon, task.width))
    following, start = jax.jit(model), nothing

    def act(state: Numbers) -> Numbers:
        nonlocal start
        action, start = planned(start, jnp.array(state))
        return action.tolist()

    def reset() -> None:
        nonlocal start
        start = nothing

    def expected(state: Numbers, action: Numbers) -> Numbers:
        return following(jnp.array(state), jnp.array(action)).tolist()

    return Controller(act, reset, expected)


def lbfgsb(task: Task, residuals: Callable[..., Any], iterations: int) -> Plan:
    """Return jaxopt's L-BFGS-B on the actions."""

    def cost(actions: jax.Array, state: jax.Array) -> jax.Array:
        return 0.5 * sum(jnp.sum(r**2) for r in residuals(actions, state))

    solver = jaxopt.LBFGSB(cost, maxiter=iterations, implicit_diff=False, jit=True)

    def plan(actions: jax.Array, state: jax.Array) -> jax.Array:
        limit = jnp.full_like(actions, task.limit)
        return solver.run(actions, (-limit, limit), state).params

    return plan


def levenberg_marquardt(
    task: Task, residuals: Callable[..., Any], iterations: int
) -> Plan:
    """Return optimistix' Levenberg-Marquardt on squashed actions."""
    solver = optx.LevenbergMarquardt(rtol=1e-4, atol=1e-4)

    def plan(actions: jax.Array, state: jax.Array) -> jax.Array:
        def squashed(variables: jax.Array, state: jax.Array) -> tuple[jax.Array, ...]:
            return residuals(task.limit * jnp.tanh(variables), state)

        start = jnp.arctanh(jnp.clip(actions / task.limit, -INSIDE, INSIDE))
        found = optx.least_squares(
            squashed, solver, start, args=state, max_steps=iterations, throw=False
        )
        return task.limit * jnp.tanh(found.value)

    return plan


if __name__ == "__main__":
    serve(["jax", "jaxopt", "optimistix"], build)
