"""The plug-in for Theseus gives the iterates of Theseus' own dense solver."""

import pytest
import torch
from torch import Tensor

th = pytest.importorskip("theseus")

from diffplan.errors import ArgumentError, SingularSystemError  # noqa: E402
from diffplan.solvers.theseus_chain import (  # noqa: E402
    BlockTridiagonalLinearization,
    BlockTridiagonalSolver,
    ChainLevenbergMarquardt,
    _find_levels,
)

LENGTH = 6


def chain(batch: int) -> tuple["th.Objective", dict[str, Tensor]]:
    """A nonlinear chain: states of size 3, actions of size 2, names in no order."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    objective = th.Objective(dtype=torch.float64)
    names = [f"x{(7 * t) % 11}" for t in range(LENGTH)]
    states = [th.Vector(3, name=name, dtype=torch.float64) for name in names]
    actions = [
        th.Vector(2, name=f"u{t}", dtype=torch.float64) for t in range(LENGTH - 1)
    ]
    goal = th.Vector(3, name="goal", dtype=torch.float64)
    weight = th.ScaleCostWeight(torch.tensor([[2.0]], dtype=torch.float64))

    def dynamics(optim_vars: tuple, aux_vars: tuple) -> Tensor:
        before, action, after = (variable.tensor for variable in optim_vars)
        both = torch.cat([before, action], dim=-1)
        return after - before - torch.tanh(both @ mixing.T)

    def distance(optim_vars: tuple, aux_vars: tuple) -> Tensor:
        return (optim_vars[0].tensor - aux_vars[0].tensor).tanh()

    def effort(optim_vars: tuple, aux_vars: tuple) -> Tensor:
        return 0.3 * optim_vars[0].tensor

    def add(
        name: str, function: object, over: list, size: int, aux: tuple = ()
    ) -> None:
        objective.add(
            th.AutoDiffCostFunction(
                over, function, size, cost_weight=weight, aux_vars=aux, name=name
            )
        )

    for t in (3, 0, 4, 1, 2):
        over = [states[t], actions[t], states[t + 1]]
        add(f"dynamics{t}", dynamics, over, 3)
        add(f"effort{t}", effort, [actions[t]], 2)
    for t in range(LENGTH):
        add(f"goal{t}", distance, [states[t]], 3, (goal,))
    values = {
        variable.name: torch.randn(
            batch, variable.dof(), generator=generator, dtype=torch.float64
        )
        for variable in (*states, *actions, goal)
    }
    return objective, values


def solve(
    batch: int,
    ours: bool,
    iterations: int = 4,
    vectorize: bool = True,
    **settings: object,
) -> tuple[dict[str, Tensor], Tensor]:
    """Run Levenberg-Marquardt; return the solution and its gradient in the goal."""
    objective, values = chain(batch)
    values["goal"].requires_grad_()
    kind = ChainLevenbergMarquardt if ours else th.LevenbergMarquardt
    optimizer = kind(
        objective,
        max_iterations=iterations,
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
    )
    layer = th.TheseusLayer(optimizer, vectorize=vectorize)
    solution, _ = layer.forward(
        dict(values), optimizer_kwargs={"backward_mode": "unroll", **settings}
    )
    total = sum(
        value.square().sum() for name, value in solution.items() if name != "goal"
    )
    (gradient,) = torch.autograd.grad(total, values["goal"])
    return solution, gradient


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"damping": 0.01},
        {"damping": 0.01, "adaptive_damping": True},
        {"damping": 0.01, "ellipsoidal_damping": True, "damping_eps": 1e-3},
    ],
    ids=["fixed", "adaptive", "ellipsoidal"],
)
def test_iterates_and_gradients_are_those_of_the_dense_solver(
    batch: int, settings: dict[str, object]
) -> None:
    dense, dense_gradient = solve(batch, ours=False, **settings)
    found, gradient = solve(batch, ours=True, **settings)
    assert dense_gradient.abs().max() > 1e-3
    for name, value in dense.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, dense_gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_normal_equations_are_those_of_the_dense_linearisation() -> None:
    objective, values = chain(2)
    objective.update(values)
    dense = th.optimizer.DenseLinearization(objective)
    blocks = BlockTridiagonalLinearization(objective)
    for linearization in (dense, blocks):
        linearization.linearize()
    torch.testing.assert_close(blocks.AtA, dense.AtA, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(blocks.Atb, dense.Atb, rtol=1e-12, atol=1e-12)
    vector = torch.randn(2, dense.num_cols, dtype=torch.float64)
    torch.testing.assert_close(
        blocks.diagonal_scaling(vector), dense.diagonal_scaling(vector)
    )
    torch.testing.assert_close(blocks.Av(vector), dense.Av(vector))
    assert blocks.num_levels == LENGTH
    assert blocks.width == 5


def test_plain_levenberg_marquardt_takes_the_plug_in() -> None:
    objective, _ = chain(1)
    optimizer = th.LevenbergMarquardt(
        objective,
        linear_solver_cls=BlockTridiagonalSolver,
        linearization_cls=BlockTridiagonalLinearization,
    )
    assert isinstance(optimizer.linear_solver, BlockTridiagonalSolver)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dogleg_takes_the_steps_of_the_dense_solver() -> None:
    found = []
    for settings in (
        {},
        {
            "linear_solver_cls": BlockTridiagonalSolver,
            "linearization_cls": BlockTridiagonalLinearization,
        },
    ):
        objective, values = chain(3)
        optimizer = th.Dogleg(objective, max_iterations=4, **settings)
        layer = th.TheseusLayer(optimizer)
        with torch.no_grad():
            # so small a region that steps along the gradient are taken
            given = {"trust_region_init": 0.3}
            found.append(layer.forward(dict(values), optimizer_kwargs=given)[0])
    dense, ours = found
    for name, value in dense.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:There was an error while running:RuntimeWarning")
@pytest.mark.parametrize("mode", ["unroll", "implicit"])
def test_a_singular_system_raises_instead_of_converging(mode: str) -> None:
    # x + y - target alone does not say where x is.
    objective = th.Objective(dtype=torch.float64)
    x, y = (th.Vector(1, name=name, dtype=torch.float64) for name in "xy")
    target = th.Vector(1, name="target", dtype=torch.float64)
    objective.add(
        th.AutoDiffCostFunction(
            [x, y],
            lambda optim_vars, aux_vars: (
                optim_vars[0].tensor + optim_vars[1].tensor - aux_vars[0].tensor
            ),
            1,
            cost_weight=th.ScaleCostWeight(torch.ones(1, 1, dtype=torch.float64)),
            aux_vars=[target],
        )
    )
    optimizer = th.GaussNewton(
        objective,
        linear_solver_cls=BlockTridiagonalSolver,
        linearization_cls=BlockTridiagonalLinearization,
    )
    given = {name: torch.zeros(2, 1, dtype=torch.float64) for name in ("x", "y")}
    given["target"] = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    # Theseus passes the message on: with a graph as an error, else as a warning.
    layer, settings = th.TheseusLayer(optimizer), {"backward_mode": mode}
    with pytest.raises(RuntimeError, match=r"batch elements \[0, 1\]"):
        layer.forward(given, optimizer_kwargs=settings)
    objective.update(given)
    optimizer.linear_solver.linearization.linearize()
    with pytest.raises(SingularSystemError, match="not determined by the costs"):
        optimizer.linear_solver.solve()
    assert optimizer.linear_solver.ok.tolist() == [False, False]


def test_another_linearisation_is_refused() -> None:
    objective, _ = chain(1)
    with pytest.raises(ArgumentError, match="linearization_cls"):
        BlockTridiagonalSolver(objective, th.optimizer.DenseLinearization)


@pytest.mark.parametrize(
    ("size", "costs"),
    [
        (1, [[0]]),
        (5, [[3, 1], [1, 4], [4, 0], [0, 2]]),
        (4, [[0, 1], [2, 3]]),
        (6, [[0, 1, 2], [2, 3], [3, 4, 5], [5, 0]]),
        (3, []),
    ],
)
def test_costs_touch_at_most_two_neighbouring_levels(
    size: int, costs: list[list[int]]
) -> None:
    levels = _find_levels([1] * size, costs)
    assert sorted(set(levels)) == list(range(max(levels) + 1))
    for cost in costs:
        touched = [levels[variable] for variable in cost]
        assert max(touched) - min(touched) <= 1
