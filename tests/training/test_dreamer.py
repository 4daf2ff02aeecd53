"""Dreamer's returns, losses and gradients by hand, and that it learns."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import diffplan as dp
from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.functional import lambda_returns
from diffplan.models import RSSM, Actor, Critic, SequenceBatch
from diffplan.training import Dreamer, DreamerConfig
from diffplan.training.online import AuxiliaryUpdate

BOX = dp.Box([-1.0], [1.0])


class Slide(nn.Module):
    """A point that actions move, best at 0.8; without randomness."""

    state_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3).double())

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.gain * action

    def reward(self, state: Tensor) -> Tensor:
        return -(state[..., 0] - 0.8).square()

    def observe_sequence(self, batch: SequenceBatch, _: torch.Generator) -> Tensor:
        return batch.observations


def learner(
    config: DreamerConfig | None = None, model: nn.Module | None = None
) -> Dreamer:
    torch.manual_seed(0)
    actor = Actor(1, BOX, hidden_size=8, layers=1, initial_std=0.5).double()
    critic = Critic(1, hidden_size=8, layers=1).double()
    return Dreamer(model or Slide(), actor, critic, config, seed=0)


def batch_of(size: int = 4) -> SequenceBatch:
    observations = torch.linspace(-1, 1, 3 * size).double().reshape(size, 3, 1)
    return SequenceBatch(
        observations, torch.zeros(size, 2, 1).double(), torch.zeros(size, 2).double()
    )


def by_definition(
    rewards: list[float], values: list[float], discount: float, lam: float
) -> list[float]:
    """Equations 4 to 6: a mixture of n-step returns. `values[t]` is that of t + 1."""
    found = []
    for start in range(len(rewards)):
        most = len(rewards) - start
        returns = []
        for steps in range(1, most + 1):
            total = sum(discount**k * rewards[start + k] for k in range(steps))
            returns.append(total + discount**steps * values[start + steps - 1])
        weights = [(1 - lam) * lam**n for n in range(most - 1)] + [lam ** (most - 1)]
        found.append(sum(w * r for w, r in zip(weights, returns, strict=True)))
    return found


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_lambda_returns_mix_returns_of_n_steps(lam: float) -> None:
    draw = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 6, generator=draw).double()
    found = lambda_returns(rewards, values, torch.full_like(rewards, 0.9), lam)
    expected = by_definition(rewards.tolist(), values.tolist(), 0.9, lam)
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_lambda_returns_end_where_the_task_does() -> None:
    rewards, values = torch.ones(4), torch.full((4,), 9.0)
    discounts = torch.tensor([1.0, 0.0, 1.0, 1.0])
    found = lambda_returns(rewards, values, discounts, 1.0)
    assert found.tolist() == [2.0, 1.0, 11.0, 10.0]
    with pytest.raises(ShapeError, match="next_values: expected"):
        lambda_returns(rewards, values[1:], discounts, 1.0)


CONVENTIONS = [
    # first state that counts, how many returns, whether the last bootstraps itself
    (DreamerConfig(horizon=5), 1, 4, False),
    (DreamerConfig.paper(horizon=5), 0, 5, False),
    (DreamerConfig.pytorch(horizon=5), 1, 5, True),
]


@pytest.mark.parametrize(("config", "first", "count", "itself"), CONVENTIONS)
def test_losses_are_those_of_a_plain_loop(
    config: DreamerConfig, first: int, count: int, itself: bool
) -> None:
    dreamer = learner(config)
    start = torch.tensor([[0.1], [-0.4]]).double()
    before = dreamer.generator.get_state()
    actor_loss, critic_loss, metrics = dreamer.losses(start)
    dreamer.generator.set_state(before)
    # The same noise, one element and one step after the other.
    state, states = start, [start]
    for _ in range(5):
        noise = torch.randn(2, 1, generator=dreamer.generator, dtype=torch.float64)
        state = state + 0.3 * dreamer.actor.sample(state, noise)
        states.append(state)
    totals, errors, weights = [], [], []
    for element in range(2):
        path = torch.stack(states)[first:, element].detach()
        value = dreamer.critic(path).tolist()
        reward = dreamer.model.reward(path).tolist()
        following = [*value[1:], value[-1]] if itself else value[1:]
        found = by_definition(
            reward[:count], following[:count], config.discount, config.lambda_
        )
        for index, one in enumerate(found):
            weight = config.discount**index if config.weigh else 1.0
            totals.append(weight * one)
            errors.append(weight * 0.5 * (value[index] - one) ** 2)
            weights.append(weight)
    assert len(totals) == 2 * count
    assert float(actor_loss.detach()) == pytest.approx(-sum(totals) / len(totals))
    assert float(critic_loss.detach()) == pytest.approx(sum(errors) / len(errors))
    assert set(metrics) >= {"actor_loss", "critic_loss", "imagined_return"}


def test_the_actors_gradient_is_that_of_finite_differences() -> None:
    dreamer = learner(DreamerConfig(horizon=4))
    start = torch.tensor([[0.1], [-0.4], [0.3]]).double()
    seed = dreamer.generator.get_state()
    frozen: list[Tensor] = []

    def loss(inputs: list[Tensor] | None = None) -> Tensor:
        """The states that the policy sees are held, as its gradient is told to."""
        dreamer.generator.set_state(seed)
        normal, calls = dreamer.actor.normal, iter(inputs or [])

        def seen(state: Tensor) -> tuple[Tensor, Tensor]:
            given = next(calls, state) if inputs is not None else state
            if inputs is None:
                frozen.append(state.detach())
            return normal(given)

        dreamer.actor.normal = seen
        try:
            return dreamer.losses(start)[0]
        finally:
            del dreamer.actor.normal

    value = loss()
    weight = dreamer.actor.network.layers[-1].bias
    (slope,) = torch.autograd.grad(value, weight)
    held = list(frozen)
    for index in range(len(weight)):
        with torch.no_grad():
            weight[index] += 1e-6
            high = float(loss(held).detach())
            weight[index] -= 2e-6
            low = float(loss(held).detach())
            weight[index] += 1e-6
        assert float(slope[index]) == pytest.approx((high - low) / 2e-6, rel=1e-5)


def test_the_model_gets_no_gradient_and_does_not_change() -> None:
    dreamer = learner()
    before = dreamer.model.gain.clone()
    weights = [p.detach().clone() for p in dreamer.actor.parameters()]
    dreamer.update(batch_of())
    assert dreamer.model.gain.grad is None
    assert torch.equal(dreamer.model.gain, before)
    after = list(dreamer.actor.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


def test_it_learns_where_to_go() -> None:
    rates = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
    dreamer = learner(DreamerConfig(horizon=8, **rates))
    for _ in range(400):
        metrics = dreamer.update(batch_of())
    state = torch.tensor([[-1.0], [0.0], [0.8]]).double()
    with torch.no_grad():
        for _ in range(12):
            state = dreamer.model.step(state, dreamer.actor(state))
    assert float((state - 0.8).abs().max()) < 0.5  # untrained: 1.8 from the first
    # What the critic expects at rest in the goal is about nothing.
    assert abs(float(dreamer.critic(torch.tensor([0.8]).double()).detach())) < 1.0
    assert float(metrics["actor_std"]) > 0


def with_others() -> Dreamer:
    one = learner(DreamerConfig(gradient_clip=1e6))  # no clipping, which is of all
    torch.manual_seed(1)
    others = [Critic(1, hidden_size=8, layers=1).double() for _ in range(2)]
    parts = one.model, one.actor, one.critic, one.config
    return Dreamer(*parts, seed=0, others=others)


def test_other_critics_learn_the_same_returns_and_teach_nobody() -> None:
    alone, joined = learner(DreamerConfig(gradient_clip=1e6)), with_others()
    start = batch_of().observations.flatten(0, 1)
    before, critics = joined.generator.get_state(), joined.critics
    actor_loss, whole, _ = joined.losses(start)
    assert torch.equal(actor_loss, alone.losses(start)[0])
    parts = []
    for critic in critics:
        joined.critics = nn.ModuleList([critic])
        joined.generator.set_state(before)
        parts.append(joined.losses(start)[1])
    torch.testing.assert_close(whole, torch.stack(parts).sum())
    joined.critics = critics
    first = [weight.clone() for weight in critics[1].parameters()]
    for each in (alone, joined):
        each.generator.set_state(before)
        each.update(batch_of())
    for name in ("actor", "critic"):
        networks = getattr(alone, name), getattr(joined, name)
        pairs = zip(*(each.parameters() for each in networks), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    moved = zip(first, critics[1].parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in moved)


def test_an_ensemble_goes_on_from_a_checkpoint() -> None:
    one, two = with_others(), with_others()
    one.update(batch_of())
    two.load_state_dict(one.state_dict())
    found = [each.update(batch_of()) for each in (one, two)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_it_goes_on_from_a_checkpoint() -> None:
    whole, first = learner(), learner()
    for _ in range(4):
        whole.update(batch_of())
    for _ in range(2):
        first.update(batch_of())
    second = learner()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.update(batch_of())
    for a, b in zip(whole.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(second, AuxiliaryUpdate)


def test_returns_end_where_the_model_says_so() -> None:
    class Ends(Slide):
        def continues(self, state: Tensor) -> Tensor:
            return torch.zeros_like(state[..., 0])

    dreamer = learner(model=Ends())
    start = torch.tensor([[0.1]]).double()
    before = dreamer.generator.get_state()
    _, _, metrics = dreamer.losses(start)
    dreamer.generator.set_state(before)
    states = dreamer.imagine(start)[:, :-1]
    expected = dreamer.model.reward(states).mean()
    torch.testing.assert_close(metrics["imagined_return"], expected.detach())


def test_an_rssm_is_imagined_with_its_own_noise() -> None:
    torch.manual_seed(0)
    model = RSSM((5,), action_dim=1, belief_size=8, state_size=4, hidden_size=8)
    actor = Actor(12, BOX, hidden_size=8, layers=1)
    dreamer = Dreamer(model, actor, Critic(12, hidden_size=8, layers=1), seed=0)
    batch = SequenceBatch(torch.randn(2, 4, 5), torch.zeros(2, 3, 1), torch.ones(2, 3))
    metrics = dreamer.update(batch)
    assert all(torch.isfinite(value) for value in metrics.values())
    assert dreamer.imagine(torch.zeros(3, 12)).shape == (3, 15, 12)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="horizon: expected at least 2"):
        DreamerConfig(horizon=1)
    assert replace(DreamerConfig.pytorch(), horizon=1).horizon == 1
    with pytest.raises(ArgumentError, match="lambda_"):
        DreamerConfig(lambda_=1.5)
    actor, critic = Actor(1, BOX, hidden_size=4), Critic(1, hidden_size=4)
    with pytest.raises(TensorTypeError, match="observe_sequence"):
        Dreamer(nn.Linear(1, 1), actor, critic, seed=0)

    class Sees(Slide):
        def reward(self, state: Tensor, action: Tensor) -> Tensor:
            return state[..., 0] + action[..., 0]

    with pytest.raises(ArgumentError, match="reward on arrival"):
        Dreamer(Sees(), actor, critic, seed=0)
