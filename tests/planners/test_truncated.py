"""`Truncated(k)`: the gradient of the last k iterations, nothing else."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from gradient_problems import HORIZON, QUICK, linear_quadratic, settings
from planner_cases import PlannerCase, each_planner_that
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.planners import LatCo
from diffplan.planners.second_order.loop import SecondOrderShooting
from diffplan.solvers import ChainBlocks, ChainStep, RiccatiSolver

each_truncated = each_planner_that(lambda case: dp.Truncated in case.gradients)
# … whose iterate is the actions alone.
each_loop = each_planner_that(
    lambda case: (
        dp.Truncated in case.gradients
        and not isinstance(case.build(), LatCo | SecondOrderShooting)
    )
)
ITERATIONS = 4


def build(case: PlannerCase, gradient: dp.GradientStrategy) -> dp.Planner:
    changes = {**settings(QUICK, case), "iterations": ITERATIONS}
    return case.build(HORIZON, gradient=gradient, **changes)


def gradients(planner: dp.Planner, wrt: tuple[str, ...]) -> tuple[Tensor, ...]:
    problem = linear_quadratic(0.7)
    leaves = {k: v.clone().requires_grad_() for k, v in problem.values.items()}
    leaves["state"] = problem.state.clone().requires_grad_()
    given = {k: v for k, v in leaves.items() if k != "state"}
    actions = planner(problem.with_values(**given), leaves["state"]).actions
    loss = weighted(actions)
    return torch.autograd.grad(loss, [leaves[name] for name in wrt])


def weighted(actions: Tensor) -> Tensor:
    weights = torch.arange(1.0, 1 + actions.numel(), dtype=torch.float64).cos()
    return (weights.reshape(actions.shape) * actions).sum()


@each_truncated
def test_keeping_all_iterations_is_unrolling(case: PlannerCase) -> None:
    wrt = ("state", "dynamics", "objective")
    everything = gradients(build(case, dp.Truncated(ITERATIONS + 3)), wrt)
    unrolled = gradients(build(case, dp.Unroll()), wrt)
    for got, expected in zip(everything, unrolled, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


@each_loop
@pytest.mark.parametrize("kept", [1, 2])
def test_only_the_last_iterations_count(
    case: PlannerCase, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = gradients(build(case, dp.Truncated(kept)), ("dynamics",))
    # The oracle unrolls everything, with dynamics that only become the leaf (of the
    # same value) where the kept iterations begin.
    problem = linear_quadratic(0.7)
    leaf = problem.values["dynamics"].clone().requires_grad_()
    values = dict(problem.values)
    current = problem.make(values)

    def switch(
        gradient: dp.GradientStrategy,
        iteration: int,
        iterations: int,
    ) -> AbstractContextManager[object]:
        if iteration == iterations - kept:
            values["dynamics"] = leaf
        return nullcontext()

    for module in each_module_with("tracked"):
        monkeypatch.setattr(module, "tracked", switch)
    actions = build(case, dp.Unroll())(current, problem.state).actions
    (expected,) = torch.autograd.grad(weighted(actions), leaf)
    assert values["dynamics"] is leaf
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def each_module_with(name: str) -> list:
    return [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("diffplan.planners") and hasattr(module, name)
    ]


@pytest.mark.parametrize("engine", ["native", "theseus"])
def test_latco_goes_on_from_a_constant(engine: str) -> None:
    # Its iterate is (states, actions, multipliers), all of which a warm start can hold.
    def latco(iterations: int, gradient: dp.GradientStrategy) -> dp.LatCo:
        return dp.LatCo(
            HORIZON,
            iterations=iterations,
            engine=engine,
            damping=1e-2,
            keep_multipliers=True,
            gradient=gradient,
        )

    if engine == "theseus":
        pytest.importorskip("theseus")
    problem = linear_quadratic(50.0)  # no limit is met: raw actions are the actions
    leaf = problem.values["dynamics"].clone().requires_grad_()
    given = problem.with_values(dynamics=leaf)

    def slope(plan: dp.Plan) -> Tensor:
        return torch.autograd.grad(weighted(plan.actions), leaf)[0]

    found = slope(latco(6, dp.Truncated(2))(given, problem.state))
    before = latco(4, dp.Detach())(given, problem.state).detach()
    after = latco(2, dp.Unroll())(given, problem.state, warm_start=before)
    torch.testing.assert_close(found, slope(after), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["native", "theseus"])
@pytest.mark.parametrize("iterations", [20, 21])
def test_the_status_does_not_depend_on_the_cut(engine: str, iterations: int) -> None:
    if engine == "theseus":
        pytest.importorskip("theseus")

    def step(state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([state[..., :1] + action[..., :1], state[..., 1:]], dim=-1)

    # Nothing decides the second action: every other system, without the damping of a
    # retry, is singular.
    goal = torch.tensor([1.0, 0.0], dtype=torch.float64)
    problem = dp.PlanningProblem(
        step,
        dp.objectives.GoalDistance(goal, running_weight=0.0),
        dp.Box([-1.0, -1.0], [1.0, 1.0]),
    )
    state = torch.zeros(2, 2, dtype=torch.float64)

    def plan(gradient: dp.GradientStrategy) -> dp.Plan:
        options = {"damping": 0.0, "fall_back": False, "engine": engine}
        planner = LatCo(3, iterations=iterations, gradient=gradient, **options)
        return planner(problem, state)

    whole = plan(dp.Unroll())
    failed = iterations == 21
    assert ((whole.status == dp.Status.FACTORIZATION_FAILED) == failed).all()
    for kept in (2, 3, 30):
        cut = plan(dp.Truncated(kept))
        assert torch.equal(cut.status, whole.status)
        torch.testing.assert_close(cut.actions, whole.actions)


@pytest.mark.parametrize("gradient", [dp.Unroll(), dp.Truncated(2)], ids=str)
def test_a_step_that_was_refused_is_told_of(gradient: dp.GradientStrategy) -> None:
    class Overflowing:
        """Its first step leaves the finite numbers."""

        calls = 0

        def __call__(self, blocks: ChainBlocks) -> ChainStep:
            self.calls += 1
            found = RiccatiSolver()(blocks)
            scale = torch.inf if self.calls == 1 else 1.0
            return found._replace(actions=found.actions * scale)

    problem = linear_quadratic(0.7)
    planner = LatCo(HORIZON, iterations=4, solver=Overflowing(), gradient=gradient)
    plan = planner(problem.with_values(), problem.state)
    assert (plan.status == dp.Status.NON_FINITE).all()


def test_a_damping_is_learned_through_a_cut_that_cuts_nothing() -> None:
    problem = linear_quadratic(0.7)

    def slope(gradient: dp.GradientStrategy) -> Tensor:
        damping = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        planner = LatCo(HORIZON, iterations=3, damping=damping, gradient=gradient)
        loss = weighted(planner(problem.with_values(), problem.state).actions)
        return torch.autograd.grad(loss, damping)[0]

    torch.testing.assert_close(slope(dp.Truncated(3)), slope(dp.Unroll()))


@pytest.mark.parametrize("kind", [dp.ILQR, dp.ShootingGN])
def test_second_order_shooting_goes_on_from_a_constant(
    kind: type[SecondOrderShooting],
) -> None:
    # Its iterate is (actions, damping), and states that follow from the actions.
    problem = linear_quadratic(0.7)
    leaf = problem.values["dynamics"].clone().requires_grad_()
    given = problem.with_values(dynamics=leaf)

    def slope(plan: dp.Plan) -> Tensor:
        return torch.autograd.grad(weighted(plan.actions), leaf)[0]

    found = slope(
        kind(HORIZON, iterations=3, gradient=dp.Truncated(2))(given, problem.state)
    )
    before = kind(HORIZON, iterations=1, gradient=dp.Detach())(
        given, problem.state
    ).detach()
    after = kind(HORIZON, iterations=2)(given, problem.state, warm_start=before)
    torch.testing.assert_close(found, slope(after), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_count_below_one_is_refused(wrong: int) -> None:
    with pytest.raises(ArgumentError, match="iterations"):
        dp.Truncated(wrong)


def test_the_early_iterations_hold_no_graph() -> None:
    problem = linear_quadratic(0.7)
    state = problem.state.requires_grad_()

    def saved(gradient: dp.GradientStrategy) -> int:
        planner = dp.MPPI(5, iterations=20, num_samples=30, gradient=gradient)
        return saved_bytes(lambda: planner(problem.with_values(), state).actions)

    assert 0 < saved(dp.Truncated(2)) < saved(dp.Unroll()) / 5


def saved_bytes(function: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a result holds."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return total
