"""What the phases of stage (c) share: environments, models and controllers on disk."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

import diffplan.envs
from diffplan._files import load_tensors, reading, save_tensors
from diffplan.agents import GaussianNoise, PlanningAgent, UniformAgent
from diffplan.envs.vector import VectorEnv
from diffplan.models.rssm import RSSM
from diffplan.objectives.reward import NegativeReturn
from diffplan.problem import Box
from diffplan.training._interaction import run_episodes
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed, make_generator
from reproductions.dcem.locomotion_config import (
    EmbeddingSettings,
    ModelSettings,
    Place,
    SearchSettings,
    World,
)
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


def action_box(envs: VectorEnv, device: torch.device) -> Box:
    """Return the actions that the environments allow."""
    space = envs.single_action_space
    box = Box(low=space.low.tolist(), high=space.high.tolist())
    return box.to(torch.zeros(1, device=device))


def new_model(
    settings: ModelSettings, envs: VectorEnv, world: World, seed: int
) -> RSSM:
    """Return an untrained model on the device; its weights follow from the seed."""
    device = world.resolve_device()
    box = action_box(envs, torch.device("cpu"))
    model = settings.build(envs.single_observation_space.shape, box.dim, seed)
    if world.scale_episodes:
        numbers = range(world.scale_episodes)
        seeds = [
            derive_seed(seed, "scale episode", number, bits=SIMULATOR_BITS)
            for number in numbers
        ]
        agent_seed = derive_seed(seed, "scale")
        episodes = run_episodes(UniformAgent(box), envs, seeds, agent_seed=agent_seed)
        arrays = [torch.from_numpy(episode.observations) for episode in episodes]
        model.fit_normalizer(torch.cat(arrays))
    return model.to(device)


def planning_agent(
    model: RSSM, search: SearchSettings, box: Box, world: World
) -> PlanningAgent:
    """Return the agent of phase 1: CEM in the space of actions, at every decision."""
    return PlanningAgent(
        model,
        search.build(),
        NegativeReturn(model.reward),
        box,
        warm_start=False,
        exploration=GaussianNoise(world.exploration),
        posterior=world.posterior,
    )


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
        save_tensors(directory / DECODER, DECODER_KIND, decoder.state_dict())
