"""The tanh-normal actor against torch's distributions; the critic's shapes."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, TanhTransform

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.models import Actor, Critic

BOX = dp.Box([-1.0, 0.5], [1.0, 3.5])


def actor_of(**options: object) -> Actor:
    torch.manual_seed(0)
    return Actor(4, BOX, hidden_size=8, layers=1, **options).double()


def reference(actor: Actor, state: torch.Tensor) -> Independent:
    mean, std = actor.normal(state)
    squash = [TanhTransform(), AffineTransform(actor.center, actor.half_width)]
    return Independent(TransformedDistribution(Normal(mean, std), squash), 1)


def test_density_is_that_of_torch_distributions() -> None:
    actor, state = actor_of(initial_std=0.7), torch.randn(5, 3, 4).double()
    action = actor.sample(state, torch.randn(5, 3, 2).double())
    expected = reference(actor, state).log_prob(action)
    torch.testing.assert_close(actor.log_prob(state, action), expected)


def test_the_density_integrates_to_one() -> None:
    box = dp.Box([-2.0], [1.0])
    actor = Actor(1, box, hidden_size=4, layers=1, initial_std=0.5).double()
    points = torch.linspace(-2, 1, 20_001).double()[1:-1, None]
    density = actor.log_prob(torch.zeros(len(points), 1).double(), points).exp()
    assert float(density.detach().sum() * 3 / 20_000) == pytest.approx(1, abs=1e-6)


def test_density_is_finite_on_the_bounds() -> None:
    actor, state = actor_of(), torch.zeros(2, 4).double()
    bounds = torch.stack([BOX.low, BOX.high]).double()
    assert torch.isfinite(actor.log_prob(state, bounds)).all()


def test_samples_have_the_distribution_and_its_derivative() -> None:
    actor, state = actor_of(initial_std=0.5), torch.randn(4).double()
    noise = torch.randn(1, 2).double()
    mean, std = actor.normal(state)
    expected = actor.center + actor.half_width * torch.tanh(mean + std * noise)
    torch.testing.assert_close(actor.sample(state[None], noise), expected)
    weight = actor.network.layers[-1].weight
    arguments = (state[None].requires_grad_(), noise.requires_grad_())
    assert torch.autograd.gradcheck(actor.sample, arguments)
    (slope,) = torch.autograd.grad(actor.sample(*arguments).sum(), weight)
    with torch.no_grad():
        moved = []
        for step in (1e-6, -2e-6):
            weight[0, 0] += step
            moved.append(actor.sample(*arguments).sum())
    assert float(slope[0, 0]) == pytest.approx(float(moved[0] - moved[1]) / 2e-6)


def test_initial_spread_is_what_is_asked_for() -> None:
    actor = actor_of(initial_std=0.3)
    for layer in actor.network.layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    mean, std = actor.normal(torch.randn(6, 4).double())
    assert float(mean.detach().abs().max()) == 0
    torch.testing.assert_close(std, torch.full_like(std, 0.3 + Actor.MIN_STD))


def test_the_densest_sample_is_at_least_as_dense_as_the_mean_of_few() -> None:
    wide = actor_of(mode="densest", initial_std=3.0)
    state = torch.randn(7, 4).double()
    action = wide(state)
    tried = [wide.sample(state, torch.randn(7, 2).double()) for _ in range(20)]
    density = torch.stack([wide.log_prob(state, one) for one in tried])
    assert (wide.log_prob(state, action) >= density.median(0).values).all()
    assert torch.equal(wide(state[2:3]), action[2:3])  # whatever stands beside it


def test_the_mean_is_the_middle_of_symmetric_samples() -> None:
    actor, state = actor_of(), torch.randn(3, 4).double()
    still = torch.zeros(3, 2).double()
    torch.testing.assert_close(actor(state), actor.sample(state, still))
    assert BOX.contains(actor(state).float()).all()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="action_space: expected finite bounds"):
        Actor(4, dp.Box([-math.inf], [1.0]))
    # TypeError: the type checker of the tests may come first.
    with pytest.raises((ArgumentError, TypeError), match="mode"):
        Actor(4, BOX, mode="median")
    with pytest.raises(ArgumentError, match="state_dim"):
        Critic(0)
    with pytest.raises(dp.errors.ShapeError, match="state: expected"):
        Critic(3, hidden_size=4)(torch.zeros(2, 4))
