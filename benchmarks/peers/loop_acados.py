"""acados in a control loop: generated and compiled C, real-time SQP iterations.

One Gauss-Newton quadratic program a step, solved by HPIPM (partial condensing), about
the plan before, shifted by a step. The wheel `comma-deps-acados` holds acados, the
renderer of its templates and a CasADi; a C compiler has to be there.
"""

import ctypes
import os
import tempfile
from pathlib import Path
from typing import Any

import acados
import casadi as ca
import numpy as np
from _loop import Controller, Numbers, Task, serve

# acados looks for its parts where a checkout has them; the wheel lays them otherwise.
SOURCE = tempfile.TemporaryDirectory(prefix="acados-")
INTERFACE = Path(SOURCE.name, "interfaces", "acados_template")
INTERFACE.mkdir(parents=True)
INTERFACE.joinpath("acados_template").symlink_to(acados.TEMPLATE_DIR)
for part in ("lib", "include"):
    Path(SOURCE.name, part).symlink_to(Path(acados.DIR, part))
os.environ["ACADOS_SOURCE_DIR"] = SOURCE.name
os.environ["TERA_PATH"] = acados.TERA_PATH
for library in ("qpOASES_e.so.3.1", "blasfeo.so", "hpipm.so"):
    # Loaded now, they are found when libacados.so and the generated code ask for them.
    ctypes.CDLL(str(Path(acados.DIR, "lib", f"lib{library}")), mode=ctypes.RTLD_GLOBAL)

from acados.acados_template import (  # noqa: E402
    AcadosModel,
    AcadosOcp,
    AcadosOcpSolver,
)


def problem(task: Task, step: ca.Function) -> AcadosOcp:
    """Return the optimal control problem."""
    ocp, state, action = AcadosOcp(), *(step.sx_in(0), step.sx_in(1))
    ocp.model = AcadosModel()
    ocp.model.name = task.plant
    ocp.model.x, ocp.model.u = state, action
    ocp.model.disc_dyn_expr = step(state, action)
    size, width, both = task.size, task.width, task.size + task.width
    ocp.dims.N = task.horizon
    ocp.cost.cost_type = ocp.cost.cost_type_e = "LINEAR_LS"
    ocp.cost.W = np.diag([*task.weight, *[task.effort] * width])
    ocp.cost.Vx, ocp.cost.Vu = np.eye(both, size), np.eye(both, width, -size)
    ocp.cost.yref = np.array([*task.goal, *[0.0] * width])
    ocp.cost.W_e = task.terminal * np.diag(task.weight)
    ocp.cost.Vx_e, ocp.cost.yref_e = np.eye(size), np.array(task.goal)
    ocp.constraints.lbu = np.full(width, -task.limit)
    ocp.constraints.ubu = np.full(width, task.limit)
    ocp.constraints.idxbu = np.arange(width)
    ocp.constraints.x0 = np.zeros(size)
    options = ocp.solver_options
    # acados weighs the cost of a stage by its length: here 1.
    options.tf = float(task.horizon)
    options.integrator_type = "DISCRETE"
    options.hessian_approx = "GAUSS_NEWTON"
    options.qp_solver = "PARTIAL_CONDENSING_HPIPM"
    return ocp


def build(task: Task, settings: dict[str, Any]) -> Controller:
    """Generate and compile the solver; settings are its "nlp_solver_type"."""
    state, action = ca.SX.sym("x", task.size), ca.SX.sym("u", task.width)
    given = ca.vertsplit(state), ca.vertsplit(action)
    following = ca.vertcat(*task.following(ca, *given))
    step = ca.Function("step", [state, action], [following])
    ocp = problem(task, step)
    ocp.solver_options.nlp_solver_type = settings["nlp_solver_type"]
    folder = Path(SOURCE.name, "generated", task.plant, settings["nlp_solver_type"])
    folder.mkdir(parents=True)
    ocp.code_export_directory = str(folder / "code")
    solver = AcadosOcpSolver(ocp, json_file=str(folder / "ocp.json"), verbose=False)
    steps, cold = task.horizon, True

    def act(now: Numbers) -> Numbers:
        nonlocal cold
        if cold:
            for t in range(steps + 1):
                solver.set(t, "x", np.array(now))
        else:
            for t in range(steps):
                solver.set(t, "x", solver.get(t + 1, "x"))
                if t < steps - 1:
                    solver.set(t, "u", solver.get(t + 1, "u"))
        cold = False
        solver.set(0, "lbx", np.array(now))
        solver.set(0, "ubx", np.array(now))
        solver.solve()
        return np.clip(solver.get(0, "u"), -task.limit, task.limit).tolist()

    def reset() -> None:
        nonlocal cold
        solver.reset()
        cold = True

    def model(now: Numbers, force: Numbers) -> Numbers:
        return np.asarray(step(now, force)).ravel().tolist()

    return Controller(act, reset, model)


if __name__ == "__main__":
    serve(["comma-deps-acados", "numpy"], build)
