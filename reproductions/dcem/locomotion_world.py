"""What the phases of stage (c) share: environments, models and controllers on disk."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

import diffplan.envs
from diffplan._files import load_tensors, reading, seal_tensors, write_atomically
from diffplan.envs.vector import VectorEnv
from diffplan.models.rssm import RSSM
from diffplan.problem import Box
from diffplan.training.seeding import make_generator
from reproductions.dcem.locomotion_config import EmbeddingSettings, Place
from reproductions.dcem.locomotion_controller import (
    EmbeddedController,
    SequenceDecoder,
)

MODEL, DECODER = "model.pt", "decoder.pt"
DECODER_KIND = "reproductions.dcem.decoder/1"


def environments(place: Place, count: int) -> VectorEnv:
    """Return copies of a task that step together."""
    factory = partial(
        diffplan.envs.make,
        f"dm_control/{place.task}",
        action_repeat=place.action_repeat,
        time_limit=place.world.time_limit,
    )
    return VectorEnv([factory] * count, num_workers=place.world.num_workers)


def new_controller(
    model: RSSM, settings: EmbeddingSettings, box: Box, seed: int
) -> EmbeddedController:
    """Return a controller on a model, with an untrained decoder."""
    decoder = SequenceDecoder(
        settings.latent,
        settings.hidden,
        settings.horizon,
        box.dim,
        make_generator(seed, "decoder weights"),
        settings.initial_std,
    )
    device = next(model.parameters()).device
    return EmbeddedController(model, decoder.to(device), settings, box)


def load_model(directory: Path, device: torch.device) -> RSSM:
    """Return the model of a finished phase."""
    return RSSM.load(directory / MODEL, device)


def load_controller(
    directory: Path, settings: EmbeddingSettings, box: Box
) -> EmbeddedController:
    """Return the controller of a finished phase, on the device of the box."""
    device = box.low.device
    controller = new_controller(load_model(directory, device), settings, box, seed=0)
    path, expected = directory / DECODER, "a decoder of phase 2 or 3"
    weights = load_tensors(path, DECODER_KIND, expected, device)
    with reading(path, expected):
        controller.decoder.load_state_dict(weights)
    return controller


def save(directory: Path, model: RSSM, decoder: nn.Module | None = None) -> None:
    """Write what the next phase goes on with, once a phase is over."""
    model.save(directory / MODEL)
    if decoder is not None:
        data, _ = seal_tensors(decoder.state_dict(), DECODER_KIND)
        write_atomically(directory / DECODER, lambda file: file.write(data))
