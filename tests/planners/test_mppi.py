"""Path integral control against its limits and a closed form."""

import pytest
import torch
from problems import double_integrator, states_of
from scipy.special import softmax
from torch import nn

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.planners import MPPI
from diffplan.planners._evaluation import candidate_costs
from diffplan.planners.request import PlanRequest


def one_round(temperature: float, **arguments: object) -> tuple[torch.Tensor, ...]:
    """The answer after one iteration, the candidates, their costs and the new std."""
    problem, state = double_integrator(limit=1.0), states_of(2)
    planner = MPPI(
        3, num_samples=30, iterations=1, temperature=temperature, **arguments
    )
    noise = planner.draw_noise(problem, state)
    candidates = noise[:, 0].clamp(-1, 1)
    found = planner.solve(PlanRequest(problem, state, noise))
    cost = candidate_costs(problem, state, candidates)
    return found.actions, candidates, cost, found.memory["std"]


def test_temperature_zero_follows_the_best_candidate() -> None:
    actions, candidates, cost, std = one_round(1e-9)
    best = cost.argmin(dim=-1)
    torch.testing.assert_close(actions, candidates[torch.arange(2), best])
    torch.testing.assert_close(std, torch.zeros_like(std))


def test_temperature_infinity_averages_all_candidates() -> None:
    actions, candidates, _, std = one_round(1e12)
    torch.testing.assert_close(actions, candidates.mean(dim=1))
    torch.testing.assert_close(std, candidates.std(dim=1, correction=0))


def test_weights_are_the_softmax_of_minus_cost_over_temperature() -> None:
    actions, candidates, cost, std = one_round(0.5)
    weights = (-cost / 0.5).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    mean = torch.einsum("bn,bnta->bta", weights, candidates)
    torch.testing.assert_close(actions, mean)
    second = torch.einsum("bn,bnta->bta", weights, candidates.square())
    torch.testing.assert_close(std, (second - mean.square()).sqrt())


def test_adding_a_constant_to_the_cost_changes_nothing() -> None:
    planner = MPPI(1)
    cost = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(planner.weigh(cost), planner.weigh(cost + 100.0))


def test_a_fixed_std_stays() -> None:
    *_, std = one_round(0.5, fixed_std=True, initial_std=0.3)
    assert (std == 0.3).all()


def test_candidates_of_infinite_cost_weigh_nothing() -> None:
    weights = MPPI(1).weigh(torch.tensor([[1.0, torch.inf, 1.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.0, 0.5]]))


@pytest.mark.parametrize("num_elites", [None, 3])
@pytest.mark.parametrize("temperature", [1e-38, 1e-4, 1.0, 1e30, 3e38, torch.inf])
def test_weights_are_right_at_any_scale(
    temperature: float, num_elites: int | None
) -> None:
    most = torch.finfo(torch.float32).max
    cost = torch.tensor([[9.5, 10.0, 9.5, torch.inf], [1e30, most, -1e30, 2e38]])
    learned = nn.Parameter(torch.tensor(temperature))
    planner = MPPI(1, num_samples=4, num_elites=num_elites, temperature=learned)
    weights = planner.weigh(cost.requires_grad_())
    exact = cost.detach().double()
    if num_elites:
        exact[1, 1] = torch.inf
    exact = exact.numpy() - exact.numpy().min(-1, keepdims=True)
    share = exact / min(learned.double().item(), 1e300)
    expected = torch.as_tensor(softmax(-share, axis=-1)).float()
    torch.testing.assert_close(weights, expected)
    for row in range(2):  # whatever the other problems of the batch are
        assert torch.equal(planner.weigh(cost[row : row + 1])[0], weights[row])
    pulled = (weights * torch.arange(4.0)).sum()
    for value in torch.autograd.grad(pulled, (cost, learned)):
        assert not value.isnan().any()


def test_costs_that_overflow_leave_the_other_problems_alone() -> None:
    problem = dp.PlanningProblem(
        lambda state, action: torch.cat([state[..., :1] + action, state[..., 1:]], -1),
        lambda states, actions: (
            states[..., -1, 1] * ((states[..., -1, 0] - 1).square() + 1)
        ),
        dp.Box([-1.0], [1.0]),
    )
    state, keys = torch.tensor([[0.0, 1e35], [0.0, 3e38]]), torch.arange(2)
    planner = MPPI(2, temperature=1e-4)
    together = planner(problem, state, keys=keys)
    alone = planner(problem, state[:1], keys=keys[:1])
    assert torch.equal(together.actions[:1], alone.actions)
    assert alone.status.tolist() == [int(dp.Status.COMPLETED)]
    assert alone.cost < 1.01e35  # the cheapest candidates lead to x = 1


def test_a_collapsed_spread_has_a_finite_gradient() -> None:
    # One candidate has all the weight and the std is exactly 0, where the derivative of
    # a square root is infinite; with several and hardly a temperature it is about 0.
    problem, state = double_integrator(limit=1.0), states_of(1).requires_grad_()
    for count in (1, 10):
        planner = MPPI(3, num_samples=count, iterations=4, temperature=1e-9)
        plan = planner(problem, state)
        assert (plan.memory["std"] <= (0 if count == 1 else 1e-6)).any()
        (gradient,) = torch.autograd.grad(plan.cost.sum(), state)
        assert torch.isfinite(gradient).all()


def test_the_temperature_can_be_learned() -> None:
    # With a too high temperature the plan is timid: its cost falls with the
    # temperature, so descent on the cost lowers it.
    problem, state = double_integrator(limit=1.0), states_of(2)
    temperature = nn.Parameter(torch.tensor(1.0))
    planner = MPPI(3, num_samples=50, iterations=3, temperature=temperature)
    before = planner(problem, state).cost.sum()
    before.backward()
    assert temperature.grad > 0
    with torch.no_grad():
        temperature -= 0.1
    assert planner(problem, state).cost.sum() < before


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("temperature", -1.0), ("iterations", -1)]
)
def test_arguments_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=name):
        MPPI(**{"horizon": 3, name: value})


def test_elites_alone_are_weighed() -> None:
    planner = MPPI(3, num_samples=6, num_elites=3, temperature=0.5)
    cost = torch.tensor([[3.0, 1.0, torch.inf, 2.0, 0.5, 9.0]]).double()
    expected = torch.zeros(1, 6).double()
    expected[0, [1, 3, 4]] = torch.softmax(torch.tensor([-2.0, -4.0, -1.0]).double(), 0)
    torch.testing.assert_close(planner.weigh(cost), expected)
    ties = planner.weigh(torch.ones(1, 6).double())
    assert sorted(ties[0].tolist()) == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    none = planner.weigh(torch.full((1, 6), torch.inf).double())
    torch.testing.assert_close(none, torch.full((1, 6), 1 / 6).double())


def test_all_samples_as_elites_are_mppi() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    plans = [
        MPPI(3, num_samples=20, num_elites=count)(problem, state)
        for count in (None, 20)
    ]
    torch.testing.assert_close(plans[0].actions, plans[1].actions)


@pytest.mark.parametrize("num_elites", [None, 3])
def test_weights_have_a_derivative(num_elites: int | None) -> None:
    cost = torch.tensor([[3.0, 1.0, 2.5, 2.0, 0.5]]).double().requires_grad_()
    temperature = torch.tensor(0.7).double().requires_grad_()

    def weights(cost: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        planner = MPPI(3, num_samples=5, num_elites=num_elites, temperature=temperature)
        return planner.weigh(cost)

    assert torch.autograd.gradcheck(weights, (cost, temperature))
    assert torch.autograd.gradgradcheck(weights, (cost, temperature))


def test_more_elites_than_samples_are_refused() -> None:
    with pytest.raises(ArgumentError, match="num_elites"):
        MPPI(3, num_samples=5, num_elites=6)
