import numpy as np
import pytest
import torch

import diffplan as dp
from diffplan.agents import Agent, GaussianNoise, RandomChoice, UniformAgent
from diffplan.errors import ArgumentError
from diffplan.problem import Box


def test_uniform_actions_fill_the_box_evenly() -> None:
    box = Box([-1.0, 0.0], [1.0, 4.0])
    agent = UniformAgent(box)
    assert isinstance(agent, Agent)
    count = 30000
    action, _ = agent.act(torch.zeros(count, 3), agent.initial_state(count, seed=0))
    share = ((action - box.low) / (box.high - box.low)).double()
    # A uniform variable has mean 1/2 and variance 1/12; five standard errors.
    assert (share.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / count) ** 0.5
    assert (share.var(0) - 1 / 12).abs().max() < 5 * (1 / 180 / count) ** 0.5
    assert box.contains(action).all()


def test_uniform_agent_goes_on_with_its_randomness_and_repeats_by_seed() -> None:
    agent = UniformAgent(Box([-1.0], [1.0]))
    memory = agent.initial_state(2, seed=4)
    first, memory = agent.act(torch.zeros(2, 1), memory)
    second, _ = agent.act(torch.zeros(2, 1), memory)
    again, _ = agent.act(torch.zeros(2, 1), agent.initial_state(2, seed=4))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    numpy = agent.initial_state(np.int32(2), seed=np.int64(4))
    assert torch.equal(agent.act(torch.zeros(2, 1), numpy)[0], first)


def test_uniform_agent_needs_bounds() -> None:
    with pytest.raises(ArgumentError, match="expected finite bounds"):
        UniformAgent(Box([-1.0], [float("inf")]))


def test_noise_is_projected_on_an_uneven_box() -> None:
    box = Box([-0.1, 0.5], [0.1, float("inf")])
    noisy = GaussianNoise(2.0)(torch.zeros(500, 2), box, torch.arange(500))
    assert box.contains(noisy).all()
    at_bound = box.to(noisy).high[0]  # 0.1 is no number of float32
    assert (noisy[:, 0].abs() == at_bound).any()
    assert noisy[:, 1].max() > 2.0


def test_a_generator_gives_noise_that_goes_on_and_repeats() -> None:
    box, action = Box([-9.0], [9.0]), torch.zeros(500, 1)

    def draw(generator: torch.Generator) -> torch.Tensor:
        return GaussianNoise(1.0)(action, box, generator)

    generator = torch.Generator().manual_seed(3)
    first, second = draw(generator), draw(generator)
    assert torch.equal(draw(torch.Generator().manual_seed(3)), first)
    assert abs(torch.corrcoef(torch.cat([first, second], 1).T)[0, 1]) < 0.2
    assert abs(first.std() - 1) < 0.2


def test_negative_deviation_is_refused() -> None:
    with pytest.raises(ArgumentError, match="std: expected at least 0"):
        GaussianNoise(-0.1)


def test_random_choices_are_as_frequent_as_they_should_be() -> None:
    count, space = 30000, dp.Categorical(3)
    action = torch.eye(3)[[1] * count]
    explored = RandomChoice(0.3)(action, space, torch.arange(count))
    assert space.contains(explored).all()
    for option, share in enumerate((0.1, 0.8, 0.1)):
        found = explored[:, option].double().mean()
        assert abs(found - share) < 5 * (share * (1 - share) / count) ** 0.5
    assert RandomChoice(0.0)(action, space, torch.arange(count)).equal(action)
    again = RandomChoice(0.3)(action[:7], space, torch.arange(7))
    assert again.equal(explored[:7])
    with pytest.raises(ArgumentError, match="probability: expected"):
        RandomChoice(1.5)
