"""One LatCo iteration at the size of the paper's RSSM, against stock Theseus.

    python benchmarks/latco_iteration.py [--horizon 30] [--repeats 5] [--quick]

Everything is measured in one process on one thread, the contenders in turn, and the
medians are compared: stock Theseus (one autodiff cost per step, its dense Cholesky),
Theseus with our block-tridiagonal plug-in on the same costs, LatCo through Theseus (one
variable that knows its blocks), and LatCo's native engine.
"""

import statistics
import warnings
from collections.abc import Callable

import theseus as th
import torch
from _measuring import Parser, per_iteration, positive, settings, write_results
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.objectives import SoftplusReward
from diffplan.solvers import BlockCholeskySolver
from diffplan.solvers.theseus_chain import (
    BlockTridiagonalLinearization,
    BlockTridiagonalSolver,
)

ACTIONS = 4


def chain_objective(
    model: RSSM, state: Tensor, horizon: int
) -> tuple[th.Objective, dict[str, Tensor]]:
    """Return LatCo's residuals as a Theseus user writes them: one cost per step."""
    objective = th.Objective()
    size = state.shape[-1]
    given = th.Vector(tensor=state.clone(), name="x0")
    states = [th.Vector(size, name=f"x{t + 1}") for t in range(horizon)]
    actions = [th.Vector(ACTIONS, name=f"u{t}") for t in range(horizon)]
    weight = th.ScaleCostWeight(1.0)

    def first(optim_vars: tuple, aux_vars: tuple) -> Tensor:
        action, following = (variable.tensor for variable in optim_vars)
        return following - model.step(aux_vars[0].tensor, action)

    def dynamics(optim_vars: tuple, aux_vars: tuple) -> Tensor:  # noqa: ARG001
        before, action, following = (variable.tensor for variable in optim_vars)
        return following - model.step(before, action)

    def limit(optim_vars: tuple, aux_vars: tuple) -> Tensor:  # noqa: ARG001
        return (optim_vars[0].tensor.abs() - 1).clamp_min(0)

    def reward(optim_vars: tuple, aux_vars: tuple) -> Tensor:  # noqa: ARG001
        value = model.reward(optim_vars[0].tensor)
        return torch.nn.functional.softplus(-value).unsqueeze(-1)

    def add(
        name: str, function: Callable, variables: list, dim: int, aux: tuple = ()
    ) -> None:
        objective.add(
            th.AutoDiffCostFunction(
                variables,
                function,
                dim,
                cost_weight=weight,
                aux_vars=aux,
                name=name,
                autograd_mode="vmap",
            )
        )

    add("dynamics0", first, [actions[0], states[0]], size, (given,))
    for t in range(1, horizon):
        add(f"dynamics{t}", dynamics, [states[t - 1], actions[t], states[t]], size)
    for t in range(horizon):
        add(f"limit{t}", limit, [actions[t]], ACTIONS)
        add(f"reward{t}", reward, [states[t]], 1)
    generator = torch.Generator().manual_seed(1)
    values = {
        variable.name: torch.randn(1, variable.dof(), generator=generator)
        for variable in (*states, *actions)
    }
    return objective, values


def theseus_iterations(
    model: RSSM, state: Tensor, horizon: int, plug_in: bool
) -> Callable[[int], None]:
    """Return a function that runs so many Levenberg-Marquardt iterations."""
    objective, values = chain_objective(model, state, horizon)
    chosen = {}
    if plug_in:
        chosen = {
            "linear_solver_cls": BlockTridiagonalSolver,
            "linearization_cls": BlockTridiagonalLinearization,
        }
    optimizer = th.LevenbergMarquardt(
        objective,
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
        **chosen,
    )
    layer = th.TheseusLayer(optimizer)

    def run(iterations: int) -> None:
        optimizer.set_params(max_iterations=iterations)
        with torch.no_grad():
            layer.forward(dict(values), optimizer_kwargs={"damping": 5e-4})

    return run


def latco_iterations(
    model: RSSM, state: Tensor, horizon: int, **settings: object
) -> Callable[[int], None]:
    """Return a function that runs so many LatCo iterations."""
    box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
    problem = dp.PlanningProblem(model.step, SoftplusReward(model.reward), box)

    def run(iterations: int) -> None:
        planner = dp.LatCo(
            horizon, iterations=iterations, gradient=dp.Detach(), **settings
        )
        planner(problem, state)

    return run


def measure(
    contenders: dict[str, tuple[Callable[[int], None], int, int]], repeats: int
) -> dict[str, list[float]]:
    """Return seconds per iteration, the contenders measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name, (run, _, _) in contenders.items():
        if "stock" not in name:
            run(2)  # warm up
    for _ in range(repeats):
        for name, (run, short, long) in contenders.items():
            seconds[name].append(per_iteration(run, short, long))
    return seconds


def contenders(
    model: RSSM, state: Tensor, horizon: int, *, stock: bool
) -> dict[str, tuple[Callable[[int], None], int, int]]:
    """Return what is measured, by name: what runs, and its two counts of iterations."""
    size = (model, state, horizon)
    cholesky = BlockCholeskySolver()
    found = {
        "native, Riccati float32": (latco_iterations(*size), 5, 25),
        "Theseus, one variable, Riccati float32": (
            latco_iterations(*size, engine="theseus"),
            5,
            25,
        ),
        "native, block Cholesky float64": (
            latco_iterations(*size, solver=cholesky),
            5,
            15,
        ),
        "Theseus, one variable, block Cholesky float64": (
            latco_iterations(*size, solver=cholesky, engine="theseus"),
            5,
            15,
        ),
        "Theseus, cost per step, our plug-in": (
            theseus_iterations(*size, plug_in=True),
            1,
            6,
        ),
    }
    for longer in (50, 100):
        found[f"native, Riccati float32, horizon {longer}"] = (
            latco_iterations(model, state, longer),
            3,
            13,
        )
    if stock:
        found["Theseus, cost per step, stock dense Cholesky"] = (
            theseus_iterations(*size, plug_in=False),
            1,
            2,
        )
    return found


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="leave stock Theseus out")
    parser.add_argument("--horizon", type=positive, default=30)
    parser.add_argument("--repeats", type=positive, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    model = RSSM(observation_shape=(18,), action_dim=ACTIONS)
    model.requires_grad_(False)
    state = 0.1 * torch.randn(1, model.state_dim, generator=torch.Generator())
    named = contenders(model, state, arguments.horizon, stock=not arguments.quick)
    seconds = measure(named, arguments.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    stock = median.get("Theseus, cost per step, stock dense Cholesky")
    print("| one iteration, state 230, action 4, batch 1 | ms | stock / this |")
    print("|---|---|---|")
    for name, value in median.items():
        ratio = f"{stock / value:.1f}" if stock else "-"
        print(f"| {name} | {1e3 * value:.1f} | {ratio} |")
    write_results(
        arguments.output / "latco_iteration.json",
        config=settings(arguments),
        results={
            "seconds_per_iteration": seconds,
            "median_ms": {name: 1e3 * value for name, value in median.items()},
            "ratio_to_stock": {
                name: stock / value if stock else None for name, value in median.items()
            },
            "horizon_100_over_50": median["native, Riccati float32, horizon 100"]
            / median["native, Riccati float32, horizon 50"],
            "theseus_over_native": median["Theseus, one variable, Riccati float32"]
            / median["native, Riccati float32"],
        },
    )


if __name__ == "__main__":
    main()
