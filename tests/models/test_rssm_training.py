"""The RSSM's loss against a slow reference, and its learning."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffplan.errors import ShapeError, TensorTypeError
from diffplan.models import RSSM, LinearDynamics, SequenceBatch

DOUBLE = torch.float64


def make_batch(
    batch: int = 3, length: int = 4, dtype: torch.dtype = DOUBLE
) -> SequenceBatch:
    """Draw noise in the shape of episodes."""
    return SequenceBatch(
        observations=3 + 2 * torch.randn(batch, length + 1, 5, dtype=dtype),
        actions=torch.randn(batch, length, 2, dtype=dtype),
        rewards=torch.randn(batch, length, dtype=dtype),
    )


def make_model(belief_size: int, **options: object) -> RSSM:
    """Make a tiny model in double precision."""
    sizes = {"state_size": 4, "embedding_size": 8, "hidden_size": 7}
    model = RSSM((5,), 2, belief_size=belief_size, **sizes, **options).double()
    model.fit_normalizer(3 + 2 * torch.randn(40, 5, dtype=DOUBLE))
    return model


def reference_terms(
    model: RSSM, batch: SequenceBatch, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observation and reward terms, KL `[B, L + 1]` and states, one step at a time.

    Only the public methods of a world model and torch.distributions are used.
    """
    size, count = model.state_size, batch.length + 1
    state = model.initial_state((batch.size,))
    observation, reward, kl, states = [], [], [], []
    ones = torch.ones(batch.size, size, dtype=DOUBLE)
    for time in range(count):
        first = time == 0
        action = batch.actions[:, 0] * 0 if first else batch.actions[:, time - 1]
        seen = batch.observations[:, time]
        mean = model.observe(state, action, seen)[:, :size]
        std = model.observe(state, action, seen, ones)[:, :size] - mean
        prior = model.predict(state, action)
        prior = Normal(prior.loc[:, :size], prior.scale[:, :size])
        kl.append(kl_divergence(Normal(mean, std), prior).sum(-1))
        state = model.observe(state, action, seen, noise[:, time])
        states.append(state)
        # Densities per network unit, less the constant of a unit Gaussian.
        units = model.observations.std
        likelihood = Normal(model.decode(state) / units, 1.0)
        constant = Normal(0.0, 1.0).log_prob(torch.zeros(5, dtype=DOUBLE))
        observation.append((constant - likelihood.log_prob(seen / units)).sum(-1))
        if not first:
            likelihood = Normal(model.reward(state), 1.0)
            reward.append(constant[0] - likelihood.log_prob(batch.rewards[:, time - 1]))
    terms = (torch.stack(term, dim=1) for term in (observation, reward, kl, states))
    return tuple(terms)


@pytest.mark.parametrize("belief_size", [6, 0], ids=["belief", "no_belief"])
@pytest.mark.parametrize("free_nats_on", ["mean", "step"])
def test_loss_equals_the_step_by_step_reference(
    belief_size: int, free_nats_on: str
) -> None:
    options = {"kl_scale": 0.7, "observation_scale": 1.3, "reward_scale": 2.1}
    model = make_model(belief_size, free_nats_on=free_nats_on, **options)
    batch = make_batch()
    noise = torch.randn(
        3, 5, 4, generator=torch.Generator().manual_seed(3), dtype=DOUBLE
    )
    observation, reward, kl, states = reference_terms(model, batch, noise)
    # A floor in the middle of the divergences, so that the two forms differ.
    model.free_nats = kl.median().item()
    floor = torch.full_like(kl, model.free_nats)
    floored = (
        torch.maximum(kl, floor).mean()
        if free_nats_on == "step"
        else max(kl.mean(), floor[0, 0])
    )
    total = 1.3 * observation.mean() + 2.1 * reward.mean() + 0.7 * floored
    record = model.loss(batch, torch.Generator().manual_seed(3))
    torch.testing.assert_close(record.total, total)
    torch.testing.assert_close(record.metrics["kl"], kl.mean().detach())
    torch.testing.assert_close(record.metrics["reward_loss"], reward.mean().detach())
    torch.testing.assert_close(
        record.metrics["observation_loss"], observation.mean().detach()
    )
    assert not any(metric.requires_grad for metric in record.metrics.values())
    filtered = model.observe_sequence(batch, torch.Generator().manual_seed(3))
    torch.testing.assert_close(filtered, states)


def test_filtering_without_a_generator_gives_posterior_means() -> None:
    model, batch = make_model(6), make_batch()
    zero = torch.zeros(3, 5, 4, dtype=DOUBLE)
    _, _, _, states = reference_terms(model, batch, zero)
    torch.testing.assert_close(model.observe_sequence(batch), states)


def test_loss_is_a_function_of_its_generator() -> None:
    model, batch = make_model(6), make_batch()
    before = torch.get_rng_state()
    losses = [
        model.loss(batch, torch.Generator().manual_seed(seed)).total
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("belief_size", [6, 0], ids=["belief", "no_belief"])
def test_every_weight_learns(belief_size: int, generator: torch.Generator) -> None:
    model = make_model(belief_size, free_nats=0.0)
    model.loss(make_batch(), generator).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_image_model_learns_with_every_weight(generator: torch.Generator) -> None:
    model = RSSM(
        (3, 64, 64),
        2,
        belief_size=6,
        state_size=4,
        hidden_size=7,
        embedding_size=32,
        image_depth=1,
        free_nats=0.0,
    )
    batch = SequenceBatch(
        torch.randint(256, (2, 4, 3, 64, 64), dtype=torch.uint8, generator=generator),
        torch.randn(2, 3, 2, generator=generator),
        torch.randn(2, 3, generator=generator),
    )
    record = model.loss(batch, generator)
    record.total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.transition.parameters())
    # The loss sums over pixels: 3·64·64 · ½ · E(x - ½)² with x uniform is 512.
    assert 400 < record.metrics["observation_loss"].item() < 800


def test_loss_refuses_wrong_batches() -> None:
    model, batch = make_model(6), make_batch()
    generator = torch.Generator()
    wrong = SequenceBatch(batch.observations, batch.actions[..., :1], batch.rewards)
    with pytest.raises(ShapeError, match="actions"):
        model.loss(wrong, generator)
    wrong = SequenceBatch(batch.observations[..., :4], batch.actions, batch.rewards)
    with pytest.raises(ShapeError, match="observation"):
        model.loss(wrong, generator)
    with pytest.raises(ShapeError, match=r"observations.*one more than the 4 actions"):
        SequenceBatch(batch.observations[:, :-1], batch.actions, batch.rewards)
    with pytest.raises(ShapeError, match="rewards"):
        SequenceBatch(batch.observations, batch.actions, batch.rewards[:, :-1])
    whole = (batch.observations, batch.actions, batch.rewards)
    assert SequenceBatch(*whole).terminated.equal(batch.rewards > torch.inf)
    with pytest.raises(ShapeError, match="terminated: expected"):
        SequenceBatch(*whole, torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(TensorTypeError, match="terminated: expected bool"):
        SequenceBatch(*whole, torch.zeros_like(batch.rewards))


def swinging(number: int, length: int, generator: torch.Generator) -> SequenceBatch:
    """Simulate a pushed oscillator seen through its position and a noisy copy."""
    system = LinearDynamics(
        torch.tensor([[0.95, 0.3], [-0.3, 0.95]]), torch.tensor([[0.0], [0.5]])
    )
    actions = torch.randn(number, length, 1, generator=generator)
    states = [torch.randn(number, 2, generator=generator)]
    for time in range(length):
        states.append(system(states[-1], actions[:, time]))
    trajectory = torch.stack(states, dim=1)
    reward = torch.tanh(trajectory[:, 1:, 0])
    return SequenceBatch(trajectory, actions, reward)


@pytest.mark.parametrize("belief_size", [32, 0], ids=["belief", "no_belief"])
def test_learns_a_linear_system(belief_size: int, generator: torch.Generator) -> None:
    """Open-loop predictions on new data beat the best constant by far."""
    model = RSSM(
        (2,),
        1,
        belief_size=belief_size,
        state_size=6,
        hidden_size=48,
        embedding_size=48,
        reward_hidden=48,
        vector_hidden=48,
        free_nats=0.1,
        observation_scale=30.0,
        reward_scale=30.0,
    )
    data = swinging(256, 12, generator)
    model.fit_normalizer(data.observations)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        rows = torch.randint(256, (32,), generator=generator)
        batch = SequenceBatch(
            data.observations[rows], data.actions[rows], data.rewards[rows]
        )
        loss = model.loss(batch, generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    test = swinging(64, 12, generator)
    with torch.no_grad():
        state = model.observe_sequence(test)[:, 6]
        for time in range(6, 12):
            state = model.step(state, test.actions[:, time])
        position = model.decode(state)
        reward = model.reward(state)
    truth = test.observations[:, 12]
    variance = (truth - truth.mean(0)).square().mean()
    assert (position - truth).square().mean() < 0.15 * variance
    gap = test.rewards[:, 11] - test.rewards[:, 11].mean()
    assert (reward - test.rewards[:, 11]).square().mean() < 0.15 * gap.square().mean()


def test_training_in_bfloat16_is_close_to_float32() -> None:
    model = RSSM((5,), 2, belief_size=8, state_size=3, hidden_size=8, embedding_size=8)
    generator = torch.Generator().manual_seed(0)
    batch = SequenceBatch(
        torch.randn(2, 5, 5, generator=generator),
        torch.randn(2, 4, 2, generator=generator),
        torch.randn(2, 4, generator=generator),
    )
    full = model.loss(batch, torch.Generator().manual_seed(1)).total
    with torch.autocast("cpu", torch.bfloat16):
        low = model.loss(batch, torch.Generator().manual_seed(1)).total
    assert low.item() == pytest.approx(full.item(), rel=0.02)
    low.backward()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters())
