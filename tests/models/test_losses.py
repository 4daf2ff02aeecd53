"""Terms of the evidence lower bound against torch.distributions and by hand."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffplan.errors import ArgumentError
from diffplan.models._losses import floored_kl, gaussian_kl, unit_gaussian_nll


def test_kl_equals_torch_distributions() -> None:
    mean, prior_mean = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    std, prior_std = torch.rand(2, 5, 4, 3, dtype=torch.float64) + 0.1
    expected = kl_divergence(Normal(mean, std), Normal(prior_mean, prior_std)).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, std, prior_mean, prior_std), expected)


def test_free_nats_on_the_mean_and_on_every_step() -> None:
    kl = torch.tensor([[1.0, 5.0], [2.0, 8.0]])  # mean 4
    assert floored_kl(kl, 3.0, "mean") == 4.0
    assert floored_kl(kl, 6.0, "mean") == 6.0
    assert floored_kl(kl, 3.0, "step") == (3 + 5 + 3 + 8) / 4
    with pytest.raises(ArgumentError, match="free_nats_on"):
        floored_kl(kl, 3.0, "batch")


def test_free_nats_stop_the_gradient_below_the_floor() -> None:
    kl = torch.tensor([1.0, 5.0], requires_grad=True)
    (below,) = torch.autograd.grad(floored_kl(kl, 4.0, "mean"), kl)
    (step,) = torch.autograd.grad(floored_kl(kl, 4.0, "step"), kl)
    assert below.tolist() == [0.0, 0.0]
    assert step.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("event_dims", [0, 1, 3])
def test_unit_gaussian_is_the_log_density_less_its_constant(event_dims: int) -> None:
    mean, target = torch.randn(2, 5, 4, 3, 2, dtype=torch.float64)
    normal = Normal(mean, torch.ones_like(mean))
    density = normal.log_prob(mean) - normal.log_prob(target)
    for _ in range(event_dims):
        density = density.sum(-1)
    torch.testing.assert_close(unit_gaussian_nll(mean, target, event_dims), density)
