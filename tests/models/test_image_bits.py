"""Images of few bits with noise in the gaps, as PlaNet sees them."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from toy import BOX, PointEnv

from diffplan.agents import GaussianNoise, PolicyAgent
from diffplan.agents._base import POSTERIOR
from diffplan.envs.vector import VectorEnv
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional import fold, uniform
from diffplan.models import RSSM
from diffplan.models.base import SequenceBatch
from diffplan.training import OnlineConfig, OnlineTrainer

IMAGE = (3, 64, 64)
ALL_LEVELS = torch.arange(256, dtype=torch.uint8)


def small(**settings: Any) -> RSSM:
    torch.manual_seed(0)
    sizes = {"belief_size": 5, "state_size": 3, "hidden_size": 6, "embedding_size": 8}
    return RSSM(IMAGE, 1, image_depth=1, **sizes, **settings)


def images(*batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (*batch, *IMAGE), dtype=torch.uint8, generator=generator)


def batch_of(size: int = 2) -> SequenceBatch:
    actions = torch.linspace(-1, 1, size * 3).reshape(size, 3, 1)
    return SequenceBatch(images(size, 4), actions, actions[..., 0])


def planet(image: np.ndarray, bits: int, noise: np.ndarray) -> np.ndarray:
    """Its `preprocess_observation_`, in double precision; noise is U(0, 1)."""
    image = np.floor(image.astype(np.float64) / 2 ** (8 - bits)) / 2**bits - 0.5
    return image + noise / 2**bits


def network_input(model: RSSM) -> list[Tensor]:
    """Return a list that what the encoder sees will be appended to."""
    seen: list[Tensor] = []
    model.observations.encoder.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach())
    )
    return seen


@pytest.mark.parametrize("bits", [1, 3, 5, 7])
def test_images_are_those_of_planet(bits: int) -> None:
    model, image = small(image_bits=bits).double(), images(2)
    noise = uniform(torch.arange(2), IMAGE, torch.zeros(()).double())
    expected = planet(image.numpy(), bits, noise.numpy())
    seen = model.observations.scale(model.dequantize(image, noise))
    np.testing.assert_allclose(seen.numpy(), expected, rtol=0, atol=1e-15)
    # without noise, by its mean; decoded images are in the same units
    middle = model.observations.scale(image)
    expected = planet(image.numpy(), bits, np.full((), 0.5))
    np.testing.assert_allclose(middle.numpy(), expected, rtol=0, atol=1e-15)
    again = model.observations.unscale(middle)
    torch.testing.assert_close(again, model.dequantize(image, None))
    assert (again - image / 256).abs().max() <= 0.5 / 2**bits  # [0, 1], not shifted


def test_eight_bits_are_what_they_were() -> None:
    model, image = small(), images(2)
    assert torch.equal(model.observations.scale(image), image.float() / 255 - 0.5)
    noise = torch.ones(2, *IMAGE)
    assert torch.equal(model.dequantize(image, noise), image.float() / 255)
    seen, batch = network_input(model), batch_of()
    generator = torch.Generator().manual_seed(1)
    model.loss(batch, generator)
    assert torch.equal(seen[0], batch.observations.float() / 255 - 0.5)
    # nothing but the posterior's noise was drawn
    drawn = torch.Generator().manual_seed(1)
    torch.randn(2, 4, 3, generator=drawn)
    assert torch.equal(generator.get_state(), drawn.get_state())


def test_floating_point_images_are_seen_as_they_are() -> None:
    model, image = small(image_bits=5), torch.rand(2, *IMAGE)
    assert torch.equal(model.dequantize(image, torch.ones(2, *IMAGE)), image)


def in_training(model: RSSM, batch: SequenceBatch, seed: int) -> Tensor:
    """Return what the encoder sees in a loss, in levels of 5 bits above the image's."""
    seen = network_input(model)
    model.loss(batch, torch.Generator().manual_seed(seed))
    return (seen[-1] + 0.5) * 32 - batch.observations.div(8, rounding_mode="floor")


def test_noise_of_training_fills_the_gap_and_is_fresh_at_each_look() -> None:
    model, batch = small(image_bits=5), batch_of()
    noise = in_training(model, batch, seed=0)
    assert noise.min() >= 0
    assert noise.max() <= 1
    # 98,304 numbers: the deviation of their mean is √(1/12) / 314 = 0.00092.
    assert abs(float(noise.mean()) - 0.5) < 0.0037
    assert abs(float(noise.std()) - 12**-0.5) < 0.003
    assert torch.equal(noise, in_training(model, batch, seed=0))
    assert (noise - in_training(model, batch, seed=1)).abs().mean() > 0.3
    # every pixel of every image has its own
    assert len(noise.mul(2**19).round().unique()) > 80_000


def test_the_decoder_learns_the_images_that_the_encoder_saw() -> None:
    model, batch = small(image_bits=3), batch_of()
    seen, answers = network_input(model), []
    model.observations.decoder.register_forward_hook(
        lambda module, given, answer: answers.append(answer.detach())
    )
    record = model.loss(batch, torch.Generator().manual_seed(0))
    error = 0.5 * (answers[0] - seen[0]).double().square().sum((-3, -2, -1)).mean()
    assert record.metrics["observation_loss"].item() == pytest.approx(error.item())


def agent_of(model: RSSM) -> PolicyAgent:
    return PolicyAgent(
        model, lambda state: state[:, :1].tanh(), BOX, exploration=GaussianNoise(0.5)
    )


def test_agents_draw_the_noise_of_an_image_from_its_keys() -> None:
    model = small(image_bits=5)
    agent, seen = agent_of(model), network_input(model)
    keys, looks = torch.tensor([5, 2**61, -3]), images(1, 3).expand(2, -1, -1, -1, -1)
    memory = agent.initial_state(3, seed=4, keys=keys)
    for image in looks:
        noise_keys = fold(fold(memory.noise_keys(), POSTERIOR), 0)
        noise = uniform(noise_keys, IMAGE, torch.zeros(()))
        _, memory = agent.act(image, memory)
        expected = planet(image.numpy(), 5, noise.double().numpy())
        np.testing.assert_allclose(seen[-1].numpy(), expected, rtol=0, atol=1e-7)
    # fresh at the next look at the same image; nothing else acts on it
    assert (seen[1] - seen[0]).abs().mean() > 0.3 / 32
    agent.act(looks[0, 1:2], agent.initial_state(1, seed=4, keys=keys[1:2]))
    assert torch.equal(seen[2], seen[0][1:2])


class Drawn(PointEnv):
    """The point is seen as a picture whose brightness is its position."""

    def __init__(self) -> None:
        super().__init__(length=4)
        self.observation_space = gymnasium.spaces.Box(0, 255, IMAGE, np.uint8)

    def _observation(self) -> np.ndarray:
        return np.full(IMAGE, int(60 * self.position + 128), np.uint8)


def make_run(directory: Path, rounds: int) -> OnlineTrainer:
    model = small(image_bits=5)
    config = OnlineConfig(
        rounds=rounds,
        seed_episodes=1,
        episodes_per_round=1,
        pretrain_updates=1,
        updates_per_round=1,
        batch_size=1,
        sequence_length=2,
        evaluate_every=2,
        evaluation_episodes=1,
    )
    envs = VectorEnv([Drawn])
    return OnlineTrainer(
        model, agent_of(model), envs, config, seed=3, directory=directory
    )


def test_a_run_that_goes_on_sees_the_noise_that_it_would_have_seen(
    tmp_path: Path,
) -> None:
    (whole := make_run(tmp_path / "whole", 2)).run(tensorboard=False, quiet=True)
    make_run(tmp_path / "parts", 1).run(tensorboard=False, quiet=True)
    (parts := make_run(tmp_path / "parts", 2)).run(tensorboard=False, quiet=True)
    learnt, again = whole.model.state_dict(), parts.model.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in learnt.items())
    first = small(image_bits=5).state_dict()
    assert not all(torch.equal(weight, first[name]) for name, weight in learnt.items())


def test_a_model_that_is_loaded_sees_as_many_bits(tmp_path: Path) -> None:
    small(image_bits=5).save(tmp_path / "coarse.safetensors")
    assert RSSM.load(tmp_path / "coarse.safetensors").observations.bits == 5


def test_wrong_bits_and_images_are_refused() -> None:
    for bits in (0, 9):
        with pytest.raises(ArgumentError, match="image_bits: expected one of"):
            small(image_bits=bits)
    with pytest.raises(ShapeError, match="observation"):
        small(image_bits=5).dequantize(torch.zeros(2, 3, dtype=torch.uint8), None)
