"""Generalised advantages against the sums that define them."""

import pytest
import torch
from torch import Tensor

from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional import generalized_advantages, lambda_returns


def brute_force(
    rewards: Tensor, values: Tensor, ended: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """The weighted mean of all n-step advantages (Schulman et al. 2016, eq. 16).

    Σ_n (1 - λ) λ^(n-1) A^(n), of which the last one keeps all the weight that is left.
    """
    advantages = torch.zeros_like(rewards)
    length = len(rewards)
    for start in range(length):
        last = next((t for t in range(start, length) if ended[t]), length - 1)
        total = torch.zeros((), dtype=rewards.dtype)
        for steps in range(1, last - start + 2):
            end = start + steps
            found = sum(discount**k * rewards[start + k] for k in range(steps))
            if not ended[end - 1]:
                found = found + discount**steps * values[end]
            share = gae_lambda ** (steps - 1)
            if end - 1 < last:
                share *= 1 - gae_lambda
            total = total + share * (found - values[start])
        advantages[start] = total
    return advantages


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.99, 0.95), (0.8, 0.3)])
def test_against_the_mean_of_all_n_step_advantages(
    discount: float, gae_lambda: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 9)
    rewards = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = torch.randn(2, 3, 10, generator=generator, dtype=torch.float64)
    ended = torch.rand(shape, generator=generator) < 0.3
    found = generalized_advantages(
        rewards, values, discount=discount, gae_lambda=gae_lambda, terminated=ended
    )
    for i in range(2):
        for j in range(3):
            expected = brute_force(
                rewards[i, j], values[i, j], ended[i, j], discount, gae_lambda
            )
            torch.testing.assert_close(found[i, j], expected)


def test_lambda_one_is_the_discounted_return_less_the_value() -> None:
    # Σ 0.9^k = (1 - 0.9^n) / 0.1, plus what the last value promises.
    values = torch.arange(6, dtype=torch.float64)
    found = generalized_advantages(
        torch.ones(5, dtype=torch.float64), values, discount=0.9, gae_lambda=1.0
    )
    left = torch.arange(5, 0, -1, dtype=torch.float64)
    expected = (1 - 0.9**left) / 0.1 + 0.9**left * 5.0 - values[:-1]
    torch.testing.assert_close(found, expected)


def test_lambda_zero_is_the_error_of_one_step() -> None:
    found = generalized_advantages(
        torch.tensor([1.0, 2.0]),
        torch.tensor([3.0, 5.0, 7.0]),
        discount=0.5,
        gae_lambda=0.0,
    )
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]))


def test_nothing_gives_nothing() -> None:
    assert generalized_advantages(torch.zeros(2, 0), torch.ones(2, 1)).shape == (2, 0)


def test_wrong_arguments() -> None:
    with pytest.raises(ShapeError, match=r"values: .* \[2, 3\]: T is 3"):
        generalized_advantages(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match="gae_lambda: expected 0 … 1"):
        generalized_advantages(torch.zeros(3), torch.zeros(4), gae_lambda=1.5)


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_nothing_behind_an_end_reaches_the_episode_before(strange: float) -> None:
    rewards = torch.tensor([1.0, 1.0, strange])
    values = torch.tensor([0.0, 0.0, strange, 0.0])
    ended = torch.tensor([False, True, False])
    found = generalized_advantages(
        rewards, values, discount=0.5, gae_lambda=0.5, terminated=ended
    )
    torch.testing.assert_close(found[:2], torch.tensor([1.25, 1.0]))


def test_a_discount_of_zero_takes_nothing_from_infinity() -> None:
    next_values = torch.tensor([2.0, torch.inf])
    discounts = torch.tensor([0.5, 0.0], requires_grad=True)
    found = lambda_returns(torch.ones(2), next_values, discounts, 0.5)
    # 1 + 0.5 (0.5 · 2 + 0.5 · 1)
    torch.testing.assert_close(found, torch.tensor([1.75, 1.0]))


def test_a_discount_of_zero_keeps_its_derivative() -> None:
    discounts = torch.zeros(1, requires_grad=True)
    lambda_returns(torch.ones(1), torch.tensor([3.0]), discounts, 0.5).sum().backward()
    torch.testing.assert_close(discounts.grad, torch.tensor([3.0]))
