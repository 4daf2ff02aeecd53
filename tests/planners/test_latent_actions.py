"""Planning in a latent space: the same search, one decoder further."""

import pytest
import torch
from problems import cost_of, double_integrator, pendulum, states_of
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    ShapeError,
    UnsupportedGradientError,
    UnsupportedProblemError,
)
from diffplan.functional import rollout
from diffplan.planners import CEM, DCEM, MPPI, GradMPC, LatentActions, ShootingGD

SMALL = {"num_samples": 12, "num_elites": 3, "iterations": 3}


class Decoder(nn.Module):
    """Two smooth layers from d numbers to T x A actions, some of them too large."""

    def __init__(self, latent_dim: int, horizon: int, action_dim: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def drawn(*shape: int) -> nn.Parameter:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(0.8 * values)

        self.first, self.second = drawn(4, latent_dim), drawn(horizon * action_dim, 4)
        self.shape = (horizon, action_dim)

    def forward(self, latent: Tensor) -> Tensor:
        hidden = torch.tanh(latent @ self.first.mT)
        return (hidden @ self.second.mT).unflatten(-1, self.shape)


def unflatten(latent: Tensor) -> Tensor:
    """The decoder that changes nothing: one latent number per action."""
    return latent.unsqueeze(-1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DCEM, {**SMALL, "temperature": 0.3}),
        (CEM, SMALL),
        (MPPI, {"num_samples": 12, "iterations": 3}),
        (GradMPC, {"num_starts": 5, "iterations": 6}),
        (ShootingGD, {"iterations": 5}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_without_a_decoder_it_is_the_inner_planner(kind: type, settings: dict) -> None:
    # One step of four numbers, or four steps of one: the same noise, the same search.
    # (With bounds, gradient planners may differ: decoded actions are projected always.)
    bounded, state = pendulum(), states_of(3)
    problem = dp.PlanningProblem(
        bounded.dynamics, bounded.objective, dp.Box([-torch.inf], [torch.inf])
    )
    plain = kind(4, **settings)(problem, state)
    everywhere = dp.Box([-torch.inf] * 4, [torch.inf] * 4)
    planner = LatentActions(kind(1, **settings), unflatten, everywhere, horizon=4)
    plan = planner(problem, state)
    torch.testing.assert_close(plan.actions, plain.actions)
    torch.testing.assert_close(plan.states, plain.states)
    torch.testing.assert_close(plan.cost, plain.cost)
    torch.testing.assert_close(plan.diagnostics["latent"], plain.actions[..., 0])
    for name, value in plain.diagnostics.items():
        torch.testing.assert_close(plan.diagnostics[name], value)


def test_what_is_evaluated_are_the_projected_actions() -> None:
    problem, state = double_integrator(limit=0.3), states_of(2)
    decoder = Decoder(2, horizon=5)
    planner = LatentActions(DCEM(1, **SMALL), decoder, 2, horizon=5)
    inner = planner.latent_problem(problem)
    latent = torch.tensor([[[0.9, -0.8]], [[-0.2, 0.4]]], dtype=torch.float64)
    actions = decoder(latent[:, 0]).clamp(-0.3, 0.3)
    assert not torch.equal(actions, decoder(latent[:, 0]))
    states = rollout(inner.dynamics, state, latent)
    expected = cost_of(problem, state, actions)
    torch.testing.assert_close(inner.objective(states, latent), expected)
    plan = planner(problem, state)
    decoded = planner.decode(problem, plan.diagnostics["latent"])
    assert torch.equal(plan.actions, decoded)
    assert problem.action_space.contains(plan.actions).all()


@pytest.mark.parametrize("action_dim", [1, 2, 3])
def test_boxes_of_any_width_are_kept(action_dim: int) -> None:
    low = torch.tensor([-0.5, -torch.inf, 0.2], dtype=torch.float64)[:action_dim]
    high = torch.tensor([0.1, 0.4, torch.inf], dtype=torch.float64)[:action_dim]
    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.full((action_dim,), 3.0).double()),
        dp.Box(low, high),
    )
    latent_space = dp.Box([-2.0, 0.0], [0.5, 1.0])
    for inner in (DCEM(1, **SMALL), GradMPC(1, num_starts=3, iterations=3)):
        decoder = Decoder(2, 3, action_dim)
        planner = LatentActions(inner, decoder, latent_space, horizon=3)
        plan = planner(problem, torch.zeros(2, action_dim, dtype=torch.float64))
        assert problem.action_space.contains(plan.actions).all()
        assert latent_space.contains(plan.diagnostics["latent"]).all()
        assert plan.memory["latent"].shape == (2, 1, 2)


class Drift:
    def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(state + action, 0.1 + action.square())


def drifting() -> dp.StochasticProblem:
    return dp.StochasticProblem(
        Drift(),
        dp.objectives.GoalDistance(torch.ones(1).double()),
        dp.Box([-torch.inf], [torch.inf]),
        num_particles=8,
        risk=dp.CVaR(0.5),
    )


@pytest.mark.parametrize("inference", [False, True])
def test_planners_by_derivatives_plan_for_particles(inference: bool) -> None:
    problem, state = drifting(), torch.zeros(2, 1, dtype=torch.float64)
    everywhere = dp.Box([-torch.inf] * 3, [torch.inf] * 3)
    for inner, plain in (
        (
            GradMPC(1, num_starts=2, iterations=4),
            GradMPC(3, num_starts=2, iterations=4),
        ),
        (ShootingGD(1, iterations=4), ShootingGD(3, iterations=4)),
    ):
        planner = LatentActions(inner, unflatten, everywhere, horizon=3)
        with torch.inference_mode(inference):
            plan, expected = planner(problem, state), plain(problem, state)
        torch.testing.assert_close(plan.actions, expected.actions)
        torch.testing.assert_close(plan.cost, expected.cost)


@pytest.mark.parametrize(
    "inner",
    [dp.ILQR(1), dp.FirstOrderLatCo(1), dp.AugmentedLagrangian(dp.ILQR(1))],
    ids=lambda inner: type(inner).__name__,
)
def test_planners_of_one_trajectory_refuse_particles(inner: dp.Planner) -> None:
    planner = LatentActions(inner, unflatten, 3, horizon=3)
    name = type(inner).__name__
    with pytest.raises(UnsupportedProblemError, match=f"{name} plans one trajectory"):
        planner(drifting(), torch.zeros(2, 1, dtype=torch.float64))


def test_particles_and_constraints_of_the_problem_are_kept() -> None:
    ball = dp.constraints.Ball(0.25)
    problem = dp.StochasticProblem(
        Drift(),
        dp.objectives.GoalDistance(torch.ones(2).double()),
        dp.Box([-1.0, -1.0], [1.0, 1.0]),
        num_particles=8,
        constraints=[ball],
    )
    state = torch.zeros(3, 2, dtype=torch.float64)
    planner = LatentActions(DCEM(1, **SMALL), Decoder(2, 3, 2), 2, horizon=3)
    plan = planner(problem, state)
    assert (plan.actions.norm(dim=-1) <= 0.25 + 1e-9).all()
    realized = problem.realize(state, 3)
    torch.testing.assert_close(plan.cost, realized.cost(state, plan.actions))


# --- derivatives ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner",
    [
        DCEM(1, temperature=0.5, initial_std=0.3, **SMALL),
        GradMPC(1, num_starts=2, iterations=2, step_size=0.02),
    ],
    ids=["DCEM", "GradMPC"],
)
def test_first_and_second_derivatives(inner: dp.Planner) -> None:
    planner = LatentActions(
        inner, Decoder(2, 3), dp.Box([-9.0] * 2, [9.0] * 2), horizon=3
    )
    names = ("decoder.first", "decoder.second")
    parameters = dict(planner.named_parameters())
    leaves = (
        states_of(2).requires_grad_(),
        torch.tensor(0.7, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.6, dtype=torch.float64, requires_grad=True),
        *(parameters[name].detach().clone().requires_grad_() for name in names),
    )

    def actions(state: Tensor, push: Tensor, goal: Tensor, *weights: Tensor) -> Tensor:
        problem = dp.PlanningProblem(
            lambda x, u: x + push * u + 0.1 * x.sin(),
            lambda states, u: (states - goal).square().sum((-1, -2)),
            dp.Box([-5.0], [5.0]),
        )
        swapped = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(planner, swapped, (problem, state)).actions

    assert torch.autograd.gradcheck(actions, leaves)
    assert torch.autograd.gradgradcheck(actions, leaves, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    ("strategy", "order"), [(dp.Unroll(), 1), (dp.Implicit(order=2), 2)]
)
def test_a_second_order_planner_inside(
    strategy: dp.GradientStrategy, order: int
) -> None:
    # Newton's method on the latent point; its implicit gradient reaches the decoder.
    bounded, state = pendulum(), states_of(1)
    wide = dp.Box([-3.0], [3.0])
    problem = dp.PlanningProblem(bounded.dynamics, bounded.objective, wide)
    inner = dp.ILQR(1, gradient=strategy, iterations=4)
    planner = LatentActions(inner, Decoder(2, 2), 2, horizon=2)
    leaves = {
        "decoder": planner.decoder.first,
        "gravity": problem.dynamics.gravity,
    }
    report = dp.testing.check_gradients(
        planner, problem, state, leaves, order=order, directions=1, verbose=False
    )
    assert len(report.rows) == 3 * order + 1  # the state too, also in forward mode


def test_training_the_decoder_through_the_search_lowers_the_cost() -> None:
    # Algorithm 2 of the paper, a few steps of it.
    problem, state = pendulum(), states_of(4)
    planner = LatentActions(DCEM(1, **SMALL), Decoder(2, 6), 2, horizon=6)
    before = planner(problem, state).cost.mean()
    optimizer = torch.optim.Adam(planner.decoder.parameters(), lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        planner(problem, state).cost.mean().backward()
        optimizer.step()
    assert planner(problem, state).cost.mean() < 0.8 * before


def test_detached_actions_are_constants_until_they_are_decoded_again() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = LatentActions(CEM(1, **SMALL), Decoder(2, 4), 2, horizon=4)
    plan = planner(problem, state)
    assert isinstance(planner.gradient, dp.Detach)
    assert not plan.actions.requires_grad
    actions = planner.decode(problem, plan.diagnostics["latent"])
    assert torch.equal(actions, plan.actions)
    cost = problem.cost(state, actions)
    torch.testing.assert_close(cost, plan.cost)
    cost.sum().backward()
    assert (planner.decoder.first.grad != 0).any()


def test_a_planner_that_detaches_inside_is_detached() -> None:
    hard = LatentActions(CEM(1), unflatten, 4, horizon=4)
    assert hard.gradient == dp.Detach()
    assert set(hard.supported_gradients) == {dp.Detach}
    with pytest.raises(UnsupportedGradientError, match=r"supports Detach\(\)"):
        LatentActions(CEM(1), unflatten, 4, horizon=4, gradient=dp.Unroll())
    soft = LatentActions(DCEM(1), unflatten, 4, horizon=4)
    assert soft.gradient == dp.Unroll()
    detached = LatentActions(DCEM(1), Decoder(2, 4), 2, horizon=4, gradient=dp.Detach())
    state = states_of(1).requires_grad_()
    plan = detached(pendulum(), state)
    assert not plan.actions.requires_grad


def test_the_inner_strategy_decides_how_the_search_is_differentiated() -> None:
    problem, state = pendulum(), states_of(2).requires_grad_()
    gradients = []
    for strategy in (dp.Unroll(), dp.Truncated(3), dp.Truncated(1)):
        inner = DCEM(1, gradient=strategy, **SMALL)
        planner = LatentActions(inner, Decoder(2, 4), 2, horizon=4)
        plan = planner(problem, state)
        gradients.append(torch.autograd.grad(plan.actions.sum(), state)[0])
    torch.testing.assert_close(gradients[1], gradients[0])  # there are three iterations
    assert not torch.allclose(gradients[2], gradients[0])


# --- warm start -----------------------------------------------------------------------


def test_a_warm_start_begins_at_the_latent_point() -> None:
    problem, state = pendulum(), states_of(2)
    inner = DCEM(1, iterations=1, initial_std=1e-9)
    planner = LatentActions(inner, Decoder(2, 4), 2, horizon=4)
    plan = planner(problem, state).detach()
    point = torch.tensor([[[0.3, -0.9]], [[0.1, 0.8]]], dtype=torch.float64)
    moved = dp.Plan(
        plan.actions, plan.states, plan.cost, memory={**plan.memory, "latent": point}
    )
    again = planner(problem, state, warm_start=moved.shifted(1))
    torch.testing.assert_close(again.memory["latent"], point, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        again.actions, planner.decode(problem, point[:, 0]), rtol=0, atol=1e-6
    )


def test_warm_starts_chain_over_any_leading_dimensions() -> None:
    problem, state = pendulum(), states_of(6).reshape(2, 3, 2)
    planner = LatentActions(DCEM(1, **SMALL), Decoder(2, 4), 2, horizon=4)
    plan = planner(problem, state)
    for _ in range(3):
        plan = planner(problem, state, warm_start=plan.detach().shifted())
    assert plan.memory["latent"].shape == (2, 3, 1, 2)
    assert plan.cost.mean() < planner(problem, state).cost.mean()


def test_a_warm_start_of_another_planner_is_refused() -> None:
    problem, state = pendulum(), states_of(2)
    planner = LatentActions(DCEM(1, **SMALL), Decoder(2, 4), 2, horizon=4)
    foreign = CEM(4, **SMALL)(problem, state)
    with pytest.raises(ArgumentError, match=r"warm_start.*memory\['latent'\]"):
        planner(problem, state, warm_start=foreign)
    other = LatentActions(DCEM(1, **SMALL), Decoder(3, 4), 3, horizon=4)
    with pytest.raises(ShapeError, match="warm_start"):
        planner(problem, state, warm_start=other(problem, state))


# --- refusals -------------------------------------------------------------------------


def test_a_decoder_of_another_shape_is_refused() -> None:
    problem, state = pendulum(), states_of(2)
    planner = LatentActions(DCEM(1, **SMALL), Decoder(2, 4), 2, horizon=5)
    with pytest.raises(ShapeError, match=r"decoder.*\[2, 12, 5, 1\].*\[2, 12, 4, 1\]"):
        planner(problem, state)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"planner": DCEM(2)}, ArgumentError, "planner: .*horizon 2"),
        ({"latent_space": 0}, ArgumentError, "latent_space"),
        ({"horizon": 0}, ArgumentError, "horizon"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(
    arguments: dict, error: type[Exception], name: str
) -> None:
    good = {
        "planner": DCEM(1),
        "decoder": unflatten,
        "latent_space": 4,
        "horizon": 4,
    }
    LatentActions(**good)
    with pytest.raises(error, match=name):
        LatentActions(**{**good, **arguments})


def test_needs_of_the_inner_planner_are_checked() -> None:
    inner = dp.LatCo(1, iterations=2)
    with pytest.raises(dp.errors.DiffplanError):
        LatentActions(inner, unflatten, 4, horizon=4)(pendulum(), states_of(1))


@pytest.mark.parametrize("inner", [GradMPC(1), dp.ILQR(1)], ids=["GradMPC", "ILQR"])
def test_choices_in_the_latent_space_need_a_planner_of_choices(
    inner: dp.Planner,
) -> None:
    moves = torch.tensor([0.0, 0.3, 1.0])

    def chosen(latent: Tensor) -> Tensor:
        return (latent @ moves)[..., None, None]

    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.ones(1), running_weight=0.0),
        dp.Box([-1.0], [1.0]),
    )
    state, choices = torch.zeros(2, 1), dp.Categorical(3)
    plan = LatentActions(CEM(1), chosen, choices, horizon=1)(problem, state)
    assert (plan.cost == 0).all()  # one of the three moves reaches the goal
    name = type(inner).__name__
    with pytest.raises(UnsupportedProblemError, match=rf"{name} .*Categorical\(3\)"):
        LatentActions(inner, chosen, choices, horizon=1)(problem, state)


@pytest.mark.parametrize(("goal", "best"), [(0.5, 0.5), (-3.0, -1.0)])
def test_the_decoder_sees_nothing_outside_of_the_latent_space(
    goal: float, best: float
) -> None:
    def inside_only(latent: Tensor) -> Tensor:
        return torch.where(latent.abs() <= 1, latent, torch.nan).unsqueeze(-1)

    problem = dp.PlanningProblem(
        lambda state, action: state + action,
        dp.objectives.GoalDistance(torch.tensor([goal]), running_weight=0.0),
        dp.Box([-5.0], [5.0]),
    )
    inner = dp.FirstOrderLatCo(1, iterations=200, fall_back=False)
    planner = LatentActions(inner, inside_only, 1, horizon=1)
    plan = planner(problem, torch.zeros(8, 1))
    assert (plan.status == dp.Status.CONVERGED).all()
    # Starts are drawn on both sides of the limits.
    reached = torch.full((8,), best)
    torch.testing.assert_close(plan.actions.flatten(), reached, rtol=0, atol=0.05)
