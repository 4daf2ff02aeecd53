"""Phases 1 and 2 of stage (c): the model, and then the embedded controller too."""

from collections.abc import Sequence
from pathlib import Path

from diffplan._runs.online import (
    action_box,
    new_model,
    planning_agent,
    run_online,
)
from diffplan._runs.settings import Settings
from diffplan.objectives.reward import NegativeReturn
from diffplan.training.episode import Episode
from diffplan.training.online import OnlineConfig
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.seeding import derive_seed
from reproductions.dcem.locomotion_config import EmbeddingSettings, Place
from reproductions.dcem.locomotion_controller import ControllerAgent, DecoderTraining
from reproductions.dcem.locomotion_world import (
    environments,
    load_model,
    new_controller,
    save,
)


def train_initial(
    place: Place,
    seed: int,
    model: Settings,
    search: Settings,
    training: OnlineConfig,
    directory: Path,
) -> None:
    """Phase 1: learn a model online with CEM; resumes from the folder's checkpoint.

    Args:
        place: The task.
        seed: Of weights, episodes, planning and sampling.
        model: The RSSM's settings.
        search: CEM's settings.
        training: Of Algorithm 3 without DCEM.
        directory: Receives episodes, metrics, checkpoints and `model.pt`.
    """
    world = place.world
    device = world.resolve_device()
    with environments(place, world.num_envs) as envs:
        space = envs.single_action_space
        learnt = new_model(model, envs, world, seed)
        box, objective = action_box(space, device), NegativeReturn(learnt.reward)
        agent = planning_agent(learnt, search.build(), objective, box, world)
        if world.compile:
            # On a GPU the launch of small kernels would cost more than their work.
            graphs = "reduce-overhead" if device.type == "cuda" else None
            agent.problem.compile(mode=graphs)
        run_online(learnt, agent, envs, training, seed=seed, directory=directory)
    save(directory, learnt)


def train_embedded(
    place: Place,
    seed: int,
    model: Settings,
    embedding: EmbeddingSettings,
    training: OnlineConfig,
    initial: Path,
    directory: Path,
) -> None:
    """Phase 2: learn decoder and model online with the embedded controller.

    Args:
        place: The task.
        seed: Of the decoder's weights, episodes, planning and sampling.
        model: The RSSM's settings, for a model that starts anew.
        embedding: The controller's settings.
        training: Of Algorithm 3 with DCEM.
        initial: The folder of phase 1.
        directory: Receives episodes, metrics, checkpoints, `model.pt`, `decoder.pt`.
    """
    world, seed = place.world, derive_seed(seed, "embedded")
    device = world.resolve_device()
    with environments(place, world.embedded_envs) as envs:
        learnt = (
            load_model(initial, device)
            if embedding.keep_model
            else new_model(model, envs, world, seed)
        )
        if embedding.kl_scale is not None:
            learnt.kl_scale = embedding.kl_scale
        box = action_box(envs.single_action_space, device)
        controller = new_controller(learnt, embedding, box, seed)
        if world.compile:
            controller.problem.compile()
        deviations = embedding.deviations(world.embedded_envs).to(device)
        agent = ControllerAgent(controller, lambda: deviations, world.posterior)
        run_online(
            learnt,
            agent,
            envs,
            training,
            seed=seed,
            directory=directory,
            # With the episodes of phase 1 at hand, no random ones are needed.
            seed_agent=agent if embedding.keep_replay else None,
            offline_episodes=_episodes(initial) if embedding.keep_replay else (),
            auxiliary=DecoderTraining(controller, embedding, seed),
        )
    save(directory, learnt, controller.decoder)


def _episodes(directory: Path) -> Sequence[Episode]:
    return ReplayBuffer.load(directory / "episodes").episodes
