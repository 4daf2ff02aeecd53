"""PPO: its objective by hand, its gradient by finite differences, what it may touch."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from diffplan.errors import ArgumentError, NonFiniteError, ShapeError
from diffplan.training.ppo import (
    PPO,
    Experience,
    PPOConfig,
    RewardScale,
    _clipped_surrogate,
    _value_error,
)


class Linear(nn.Module):
    """Mean and value are linear in the state; the deviation is one number."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        self.mean = nn.Parameter(rows[:1].clone())
        self.critic = nn.Parameter(rows[1].clone())
        self.log_std = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

    def forward(self, state: Tensor) -> tuple[Independent, Tensor]:
        mean = state @ self.mean.T
        normal = Normal(mean, self.log_std.exp().expand_as(mean))
        return Independent(normal, 1), state @ self.critic


def experience(policy: Linear, count: int = 40, moved: float = 0.0) -> Experience:
    """Return experience of the policy, whose probabilities were others by `moved`."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = draw(count, 3)
    with torch.no_grad():
        distribution, values = policy(state)
    actions = distribution.mean + distribution.stddev * draw(count, 1)
    log_probs = distribution.log_prob(actions) + moved * draw(count)
    old_values = values + moved * draw(count)
    return Experience((state,), actions, log_probs, old_values, draw(count))


def written_out(
    parameters: np.ndarray, data: Experience, advantages: np.ndarray, config: PPOConfig
) -> float:
    """The whole objective, once more, in NumPy."""
    mean_rows, critic, log_std = parameters[:3], parameters[3:6], parameters[6]
    state, action = data.inputs[0].numpy(), data.actions.numpy()[:, 0]
    error = (action - state @ mean_rows) / math.exp(log_std)
    log_prob = -0.5 * error**2 - log_std - 0.5 * math.log(2 * math.pi)
    policy_loss = value_loss = 0.0
    for i, (new, old) in enumerate(zip(log_prob, data.log_probs.numpy(), strict=True)):
        ratio, gain = math.exp(new - old), advantages[i]
        bounded = min(max(ratio, 1 - config.clip), 1 + config.clip)
        policy_loss -= min(ratio * gain, bounded * gain)
        value, before = float(state[i] @ critic), float(data.values[i])
        target = before + float(data.advantages[i])
        near = before + min(max(value - before, -config.clip), config.clip)
        value_loss += 0.5 * max((value - target) ** 2, (near - target) ** 2)
    entropy = log_std + 0.5 * math.log(2 * math.pi * math.e)
    total = (policy_loss + config.value_scale * value_loss) / len(state)
    return total - config.entropy_scale * entropy


def flat(policy: Linear) -> np.ndarray:
    parts = (policy.mean, policy.critic, policy.log_std)
    return np.concatenate([part.detach().numpy().ravel() for part in parts])


def test_the_gradient_is_that_of_the_objective_by_finite_differences() -> None:
    config = PPOConfig(
        passes=1, minibatches=1, entropy_scale=0.03, gradient_clip=1e9, clip=0.2
    )
    policy = Linear()
    data = experience(policy, moved=0.3)
    advantages = data.advantages.numpy()
    advantages = advantages - advantages.mean()
    advantages = advantages / (advantages.std(ddof=1) + config.epsilon)
    place, step = flat(policy), 1e-6
    expected = np.zeros_like(place)
    for i in range(len(place)):
        ends = []
        for sign in (1, -1):
            there = place.copy()
            there[i] += sign * step
            ends.append(written_out(there, data, advantages, config))
        expected[i] = (ends[0] - ends[1]) / (2 * step)
    parameters = [policy.mean, policy.critic, policy.log_std]
    ppo = PPO(policy, config, parameters)
    metrics = ppo.update(data, torch.Generator().manual_seed(0))
    # After one step Adam's first moment is a tenth of the gradient.
    found = [ppo.optimizer.state[p]["exp_avg"].numpy().ravel() * 10 for p in parameters]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6, atol=1e-8)
    norm = float(np.linalg.norm(expected))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    # … and its first step is lr · g / (|g| + ε).
    moved = place - config.learning_rate * expected / (np.abs(expected) + 1e-5)
    np.testing.assert_allclose(flat(policy), moved, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.5, 1.0, -1.2, 0.0),  # better, and already likelier than the bound
        (1.5, -1.0, 1.5, 1.5),  # worse, though likelier: all the way back
        (0.5, 1.0, -0.5, -0.5),  # better, though less likely: all the way back
        (0.5, -1.0, 0.8, 0.0),  # worse, and already less likely than the bound
        (1.1, 2.0, -2.2, -2.2),  # inside
    ],
)
def test_the_clipped_objective_by_hand(
    ratio: float, advantage: float, expected: float, slope: float
) -> None:
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    loss = _clipped_surrogate(log_ratio, torch.tensor([advantage]), clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert float(log_ratio.grad) == pytest.approx(slope)


def test_the_value_error_by_hand() -> None:
    values, returns = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])
    before = torch.tensor([0.0, 2.9])
    assert float(_value_error(values, returns, before)) == pytest.approx(1.25)
    # Bounded, the first is 0.2 (error 1.8) and the second stays 3.
    clipped = _value_error(values, returns, before, clip=0.2)
    assert float(clipped) == pytest.approx(0.5 * (1.8**2 + 2.0**2) / 2)


def test_only_what_is_given_is_changed() -> None:
    policy = Linear()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    groups = [{"params": [policy.mean]}, {"params": [policy.critic], "lr": 1e-2}]
    ppo = PPO(policy, PPOConfig(passes=2, minibatches=3), groups)
    ppo.update(experience(policy), torch.Generator().manual_seed(0))
    assert torch.equal(policy.log_std, before["log_std"])
    assert all(parameter.grad is None for parameter in policy.parameters())
    # Adam's step is about its learning rate, six times.
    assert (policy.mean - before["mean"]).abs().max() < 6 * 3.1e-4
    assert (policy.critic - before["critic"]).abs().max() > 1e-2


def test_gradients_are_clipped_together() -> None:
    policy = Linear()
    ppo = PPO(policy, PPOConfig(passes=1, minibatches=1, gradient_clip=0.25))
    metrics = ppo.update(experience(policy), torch.Generator().manual_seed(0))
    assert metrics["gradient_norm"] > 0.25
    moments = [ppo.optimizer.state[p]["exp_avg"].flatten() for p in ppo.learnt]
    assert float(torch.cat(moments).norm() * 10) == pytest.approx(0.25, rel=1e-4)


def test_every_decision_is_seen_once_in_every_pass() -> None:
    policy, seen = Linear(), []
    policy.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = experience(policy, count=10)
    seen.clear()
    PPO(policy, PPOConfig(passes=2, minibatches=3)).update(
        data, torch.Generator().manual_seed(0)
    )
    assert [len(part) for part in seen] == [4, 3, 3, 4, 3, 3]
    for half in (seen[:3], seen[3:]):
        found = torch.cat(half)
        order = found[:, 0].argsort()
        expected = data.inputs[0][data.inputs[0][:, 0].argsort()]
        torch.testing.assert_close(found[order], expected, rtol=0, atol=0)


@pytest.mark.parametrize(("count", "wanted"), [(33, 32), (5, 8)])
def test_a_pass_has_as_many_minibatches_as_were_asked_for(
    count: int, wanted: int
) -> None:
    policy, seen = Linear(), []
    data = experience(policy, count=count)
    policy.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    config = PPOConfig(passes=1, minibatches=wanted)
    PPO(policy, config).update(data, torch.Generator().manual_seed(0))
    assert len(seen) == min(count, wanted)
    assert sum(seen) == count


def test_it_finds_the_best_action() -> None:
    """One state, reward -(a - 0.7)²: the best mean is 0.7."""
    policy, generator = Linear(), torch.Generator().manual_seed(0)
    policy.log_std.requires_grad_(False)
    state = torch.ones(128, 3, dtype=torch.float64)
    ppo = PPO(
        policy,
        PPOConfig(passes=4, minibatches=4, learning_rate=1e-2),
        [policy.mean, policy.critic],
    )
    with torch.no_grad():
        policy.mean.fill_(-0.2)
    for _ in range(40):
        with torch.no_grad():
            distribution, values = policy(state)
        white = torch.randn(128, 1, generator=generator, dtype=torch.float64)
        actions = distribution.mean + distribution.stddev * white
        rewards = -(actions[:, 0] - 0.7).square()
        data = Experience(
            (state,), actions, distribution.log_prob(actions), values, rewards - values
        )
        ppo.update(data, generator)
    assert policy.mean.sum().item() == pytest.approx(0.7, abs=0.1)
    # E -(a - 0.7)² is minus the variance, exp(-1).
    assert policy.critic.sum().item() == pytest.approx(-math.exp(-1), abs=0.1)


def test_going_on_from_its_state() -> None:
    config = PPOConfig(passes=1, minibatches=2)
    policy, other = Linear(), Linear()
    data = experience(policy)
    ppo = PPO(policy, config)
    ppo.update(data, torch.Generator().manual_seed(0))
    resumed = PPO(other, config)
    other.load_state_dict(policy.state_dict())
    resumed.load_state_dict(ppo.state_dict())
    for each in (ppo, resumed):
        each.update(data, torch.Generator().manual_seed(1))
    assert np.array_equal(flat(policy), flat(other))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    policy = Linear()
    data, before = experience(policy), flat(policy)
    data.advantages[3] = torch.nan
    with pytest.raises(NonFiniteError, match="expected finite gradients"):
        PPO(policy, PPOConfig()).update(data, torch.Generator().manual_seed(0))
    assert np.array_equal(flat(policy), before)


def test_rewards_are_scaled_by_the_spread_of_discounted_returns() -> None:
    generator = np.random.default_rng(0)
    episodes = [generator.normal(2.0, 3.0, size) for size in (5, 9)]
    scale = RewardScale(0.9)
    rewards = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(scale.apply(rewards), rewards)
    running = []
    for episode in episodes:
        scale.observe(torch.from_numpy(episode))
        for end in range(len(episode)):
            powers = 0.9 ** np.arange(end, -1, -1)
            running.append(float(powers @ episode[: end + 1]))
    expected = rewards / float(np.std(running))
    torch.testing.assert_close(scale.apply(rewards), expected)
    again = RewardScale(0.9)
    again.load_state_dict(scale.state_dict())
    assert torch.equal(again.apply(rewards), scale.apply(rewards))


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="clip: expected"):
        PPOConfig(clip=0.0)
    with pytest.raises(ArgumentError, match=r"discount: expected 0 … 1, got 1.1"):
        PPOConfig(discount=1.1)
    one = torch.zeros(3)
    with pytest.raises(ShapeError, match=r"values: expected \[3, …\]"):
        Experience((one,), one[:, None], one, one[:2], one)
    with pytest.raises(ShapeError, match=r"log_probs: expected \[3\]"):
        Experience((one,), one[:, None], one[:, None], one, one)
    with pytest.raises(ArgumentError, match="pieces: expected at least one"):
        Experience.cat([])
