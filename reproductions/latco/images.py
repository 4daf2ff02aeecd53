"""Planners on one frozen model of sparse reach that sees images.

Stage (a) from images: the same offline episodes, starts and planners, with a visual
model. It is trained on a GPU, in minutes: the preset `gpu-short`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from diffplan._runs.settings import Settings
from diffplan.models.rssm import RSSM
from reproductions.common.stages import Unit
from reproductions.latco import comparison, pixels
from reproductions.latco.comparison_config import ComparisonConfig, Setup
from reproductions.latco.comparison_model import WEIGHTS
from reproductions.latco.comparison_planners import LATCO_NATIVE
from reproductions.latco.online_config import PlannerConfig
from reproductions.latco.pixels import PixelsConfig

EXPERIMENT = "images"
SHOWN = 10
"""Plans in the film."""
PLANNERS = ("latco", "gd_many", "gd_one", "cem", "mppi", "random", "still")


def visual_rssm(
    observations: Tensor,
    action_dim: int,
    *,
    state_size: int = 30,
    belief_size: int = 64,
    hidden_size: int = 128,
    embedding_size: int = 512,
    image_depth: int = 32,
    reward_layers: int = 3,
    free_nats: float = 1.0,
    kl_scale: float = 0.3,
    reward_scale: float = 400.0,
) -> RSSM:
    """Return an untrained RSSM for images, in the rest as that of stage (a).

    Its weights are drawn from torch's global generator.

    Args:
        observations: `[N, 3, 64, 64]`.
        action_dim: A.
        state_size: Stochastic numbers; LatCo's 30.
        belief_size: Deterministic numbers; LatCo has 200.
        hidden_size: Width of every dense layer; LatCo has 200 and 400.
        embedding_size: Of an image.
        image_depth: Channels of the first convolution; LatCo's 32.
        reward_layers: Hidden layers of the reward head.
        free_nats: Divergence that costs nothing, on the mean.
        kl_scale: Weight of the divergence.
        reward_scale: Of ½ error² of the reward, beside a sum over 12,288 numbers.
    """
    return RSSM(
        observations.shape[1:],
        action_dim,
        belief_size=belief_size,
        state_size=state_size,
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        image_depth=image_depth,
        reward_layers=reward_layers,
        reward_hidden=hidden_size,
        free_nats=free_nats,
        kl_scale=kl_scale,
        reward_scale=reward_scale,
    )


def gpu_short() -> ComparisonConfig:
    """Return what one GPU does in eight minutes, its episodes played by 12 processes.

    LatCo runs in the native engine, which a GPU can record as one graph.
    """
    config = ComparisonConfig(planners=PLANNERS, latco=LATCO_NATIVE)
    return replace(
        config,
        setup=Setup(render_preset="fast", device="auto", num_workers=12),
        model=Settings.full(visual_rssm),
        training=replace(config.training, updates=3000),
    )


def smoke() -> ComparisonConfig:
    """Return settings of seconds; no result counts."""
    config = ComparisonConfig.smoke()
    return replace(
        config,
        planners=("latco", "random"),
        latco=config.latco_native,
        setup=Setup(render_preset="fast"),
        model=Settings.full(visual_rssm).replaced(
            **{
                k: config.model[k] for k in ("state_size", "belief_size", "hidden_size")
            },
            embedding_size=32,
            image_depth=4,
        ),
        training=replace(config.training, updates=4, batch_size=2, updates_per_round=2),
    )


def units(
    config: ComparisonConfig, seeds: Sequence[int], directory: Path
) -> Sequence[Unit]:
    """Return the work of stage (a) from images, and a film of ten plans."""
    made = comparison.units(config, seeds, directory, EXPERIMENT)
    return made + [_film(config, seed, directory / f"seed_{seed}") for seed in seeds]


def _film(config: ComparisonConfig, seed: int, folder: Path) -> Unit:
    assert config.setup.render_preset is not None  # images are what this is about
    shown = PixelsConfig(
        seed=seed,
        starts=min(SHOWN, config.evaluation.starts),
        data=config.data,
        render_preset=config.setup.render_preset,
        planner=PlannerConfig(iterations=config.latco.iterations),
    )
    model, film = folder / "model" / WEIGHTS, folder / "film"
    run = partial(pixels.show, config=shown, model_path=model, directory=film)
    name = f"{EXPERIMENT}/seed_{seed}"
    return Unit(f"{name}/film", run, film, (f"{name}/model",))
