"""Stage (c): real images, a small visual model, plans that can be looked at.

Short on purpose. It shows that rendering, the convolutional world model, LatCo and the
decoder work together, as in LatCo's Fig. 5 (plans "visualized by passing the latent
states through the convolutional decoder"); it is no measurement of success.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import diffplan.envs
from diffplan._checks import require_at_least
from diffplan._files import write_atomically
from diffplan._runs.online import action_box, build_model
from diffplan._runs.settings import Settings
from diffplan._runs.tables import write_csv
from diffplan.envs.base import SimulatorEnv
from diffplan.models.rssm import RSSM
from diffplan.problem import PlanningProblem
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.offline import OfflineConfig, OfflineTrainer
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed, make_generator
from reproductions.common.stages import Unit
from reproductions.latco.comparison_config import DataConfig
from reproductions.latco.data import complete
from reproductions.latco.online import scripted_episode
from reproductions.latco.online_config import PAPER_MODEL, PlannerConfig

MODEL = PAPER_MODEL.replaced(
    belief_size=64,
    hidden_size=128,
    embedding_size=512,
    reward_hidden=128,
    image_depth=16,
    free_nats=1.0,
    kl_scale=0.1,
    reward_scale=50.0,
)


def _training() -> OfflineConfig:
    return OfflineConfig(
        updates=400,
        batch_size=8,
        sequence_length=20,
        initial_fraction=0.2,
        updates_per_round=50,
        checkpoint_every=1,
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )


@dataclass(frozen=True)
class PixelsConfig:
    """Settings of stage (c).

    Attributes:
        seed: Of everything.
        starts: Plans that are shown, from the first starts; none is picked.
        data: As in stage (a), with images.
        render_preset: How they are drawn, see `OnlineRun`.
        model: Half of the paper's width in the convolutions.
        training: Of the model.
        planner: LatCo with the released settings.
    """

    seed: int = 0
    starts: int = 3
    data: DataConfig = field(default_factory=lambda: DataConfig(episodes=40))
    render_preset: Literal["faithful", "fast"] = "fast"
    model: Settings = MODEL
    training: OfflineConfig = field(default_factory=_training)
    planner: PlannerConfig = field(
        default_factory=lambda: PlannerConfig(engine="theseus")
    )

    def __post_init__(self) -> None:
        require_at_least("starts", self.starts, 1)

    @classmethod
    def smoke(cls) -> "PixelsConfig":
        """Return settings of seconds; the pictures show nothing."""
        config = cls()
        return replace(
            config,
            starts=1,
            data=replace(config.data, episodes=5),
            model=config.model.replaced(image_depth=4, embedding_size=128),
            training=replace(
                config.training, updates=4, batch_size=2, updates_per_round=2
            ),
            planner=replace(config.planner, iterations=3),
        )


def units(config: PixelsConfig, directory: Path) -> list[Unit]:
    """Return the work of stage (c): data, model, plans.

    Args:
        config: The settings.
        directory: Receives `data`, `model` and `plans`.
    """
    data, model, plans = (directory / name for name in ("data", "model", "plans"))
    works: list[tuple[Path, Callable[[], object], tuple[str, ...]]] = [
        (data, partial(collect, config=config, directory=data), ()),
        (
            model,
            partial(train, config=config, data_directory=data, directory=model),
            ("pixels/data",),
        ),
        (
            plans,
            partial(
                show, config=config, model_path=model / "model.pt", directory=plans
            ),
            ("pixels/model",),
        ),
    ]
    return [
        Unit(f"pixels/{folder.name}", work, folder, needs)
        for folder, work, needs in works
    ]


def collect(config: PixelsConfig, directory: Path) -> None:
    """Render the episodes that are not there yet."""
    env = _make(config)
    complete(
        directory,
        config.data.episodes,
        partial(map, partial(scripted_episode, env, config.data, config.seed)),
    )
    env.close()


def _make(config: PixelsConfig) -> SimulatorEnv:
    return diffplan.envs.make(
        config.data.task,
        observation="pixels",
        render_preset=config.render_preset,
    )


def train(config: PixelsConfig, data_directory: Path, directory: Path) -> None:
    """Fit the visual model; write `model.pt`. Resumes by itself."""
    buffer = ReplayBuffer.load(data_directory)
    first = buffer.episodes[0]
    shape, action_dim = first.observations.shape[1:], first.actions.shape[1]
    model = build_model(config.model, shape, action_dim, config.seed)
    OfflineTrainer(
        model, buffer, config.training, seed=config.seed, directory=directory
    ).run(tensorboard=False)
    model.save(directory / "model.pt")


@torch.no_grad()
def show(config: PixelsConfig, model_path: Path, directory: Path) -> None:
    """Plan from the first starts and execute; write `plan_<n>.npz`, `plans.csv`."""
    model = RSSM.load(model_path).eval()
    env = _make(config)
    rows = [
        _show_start(config, model, env, index, directory)
        for index in range(config.starts)
    ]
    env.close()
    write_csv(directory / "plans.csv", rows)


def _show_start(
    config: PixelsConfig,
    model: RSSM,
    env: SimulatorEnv,
    index: int,
    directory: Path,
) -> dict[str, object]:
    """Plan once and execute the whole plan, then write what was seen and imagined."""
    seed = derive_seed(config.seed, "shown start", index, bits=SIMULATOR_BITS)
    observation, info = env.reset(seed=seed)
    state = model.observe(
        model.initial_state((1,)),
        torch.zeros(1, model.action_dim),
        torch.from_numpy(observation)[None],
    )
    planner, objective = config.planner.build(model)
    problem = PlanningProblem(model.step, objective, action_box(env.action_space))
    plan = planner(problem, state, generator=make_generator(config.seed, "plan", index))
    images, distances = [observation], [info["distance"]]
    for action in plan.actions[0].numpy():
        observation, _, _, _, info = env.step(action)
        images.append(observation)
        distances.append(info["distance"])
    planned = torch.cat([state, plan.diagnostics["planned_states"][0][-plan.horizon :]])
    arrays: dict[str, Any] = {
        "executed": np.stack(images),
        "planned": _images(model, planned),
        "predicted": _images(model, plan.states[0]),
        "distances": np.array(distances),
    }
    path = directory / f"plan_{index}.npz"
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
    return {
        "start": index,
        "initial_distance": distances[0],
        "least_distance": min(distances),
        "planned_return": float(model.reward(planned[1:]).sum()),
        "predicted_return": float(model.reward(plan.states[0, 1:]).sum()),
        "dynamics_violation": float(plan.diagnostics["dynamics_violation"][0, -1]),
    }


def _images(model: RSSM, states: Tensor) -> np.ndarray:
    """Return decoded states as uint8 `[T, 3, 64, 64]`."""
    decoded = model.decode(states).clamp(0, 1).mul(255).round()
    return decoded.to(torch.uint8).numpy()
