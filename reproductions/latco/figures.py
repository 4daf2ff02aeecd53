"""What the paper's Figures 1, 11 and 12 show: plans as they improve, a reward head.

The plans are those of stage (a)'s models, from its first starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffplan.envs
from diffplan._checks import require_at_least
from diffplan._files import write_atomically
from diffplan._runs.settings import Settings
from diffplan.models.base import WorldModel
from diffplan.models.rssm import RSSM
from reproductions.common.stages import Unit
from reproductions.latco.comparison import (
    model_units,
    objective_of,
    of_seed,
)
from reproductions.latco.comparison_config import ComparisonConfig, EvaluationConfig
from reproductions.latco.comparison_model import WEIGHTS
from reproductions.latco.comparison_result import EXPERIMENT as MODELS
from reproductions.latco.iterates import first_plans

EXPERIMENT = "figures"
PLAN, MAP = "plan.npz", "map.npz"
SHARES = (0.0, 0.02, 0.05, 0.1, 0.3, 1.0)
"""Of the iterations after which a plan is shown."""
HAND = 3
"""The first numbers of an observation say where the hand is, metres."""
ABOVE_FINGERS = 0.045
"""Metres from the middle of the fingers, which a goal is for, to the hand."""
SIDES = (-0.5, 0.5), (0.4, 1.0)
"""The table that the hand can be above, metres: x and y."""


@dataclass(frozen=True)
class FiguresConfig:
    """What the figures are made with.

    Attributes:
        comparison: Of stage (a): its `planners` are followed, with its models.
        points: Of the reward's map along each side.
        looks: How often the hand is seen at a point, without moving, before the model
            is asked for the reward there: a belief needs more than one look.
    """

    comparison: ComparisonConfig = field(default_factory=ComparisonConfig.followed)
    points: int = 61
    looks: int = 5

    def __post_init__(self) -> None:
        require_at_least("points", self.points, 2)
        require_at_least("looks", self.looks, 1)

    @classmethod
    def smoke(cls) -> "FiguresConfig":
        """Return settings of seconds; the figures show nothing."""
        return cls(ComparisonConfig.smoke_followed(), points=5, looks=2)


def units(config: FiguresConfig, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return the work: plans that are followed, and a map, of each model.

    Args:
        config: The settings.
        seeds: Of the models of stage (a).
        directory: Receives `seed_<n>/{<planner>,map}`.
    """
    its = config.comparison
    made = model_units(its, seeds, directory)
    for seed in seeds:
        unit, model = (
            of_seed(EXPERIMENT, seed, directory),
            f"{MODELS}/seed_{seed}/model",
        )
        given = {
            "model_path": directory.parent / model / WEIGHTS,
            "task": its.data.task,
        }
        for name in its.planners:
            run = partial(
                plan,
                **given,
                settings=its.settings(name),
                evaluation=its.evaluation,
            )
            made.append(unit(name, run, model))
        run = partial(draw_map, **given, points=config.points, looks=config.looks)
        made.append(unit("map", run, model))
    return made


def plan(
    directory: Path,
    model_path: Path,
    task: str,
    settings: Settings,
    evaluation: EvaluationConfig,
    seed: int,
) -> None:
    """Follow a planner's first plans through their iterations; write `plan.npz`.

    For each start and iteration `[B, I]`: `reward`, predicted, of the planned states
    (their sum), `violation` of the dynamics and `multiplier` of collocation. Of one
    start, the first that is far away, the plans after some `iterations`: `hands`
    `[K, T + 1, 3]`, decoded, and `rewards` `[K, T]`; and the `goal` of the hand.
    """
    model = RSSM.load(model_path).eval()
    planner = settings.build(evaluation.horizon)
    objective = objective_of(model.reward, planner)
    given = (model, planner, objective, task, evaluation, seed)
    states, made, infos = first_plans(*given)
    with torch.no_grad():
        rewards = model.reward(states[:, :, 1:])
        # Which start was decided before any plan was seen.
        start = int((infos["initial_distance"] >= evaluation.far).argmax())
        chosen = shown(states.shape[1])
        hands = model.decode(states[start, chosen])[..., :HAND]
    traces = {
        name: made.diagnostics[f"dynamics_{name}"]
        for name in ("violation", "multiplier")
        if f"dynamics_{name}" in made.diagnostics
    }
    save(
        directory / PLAN,
        reward=rewards[:, 1:].sum(dim=-1),
        **traces,
        iterations=torch.tensor(chosen),
        hands=hands,
        rewards=rewards[start, chosen],
        goal=goal_of(infos["raw_observation"][start]),
    )


def shown(count: int) -> list[int]:
    """Return the iterations that are shown, of a planner's first plan and the others.

    Example:
        >>> shown(201)
        [0, 4, 10, 20, 60, 200]
    """
    return sorted({round(share * (count - 1)) for share in SHARES})


def draw_map(
    directory: Path, model_path: Path, task: str, points: int, looks: int, seed: int
) -> None:
    """Ask the model for the reward at each place of the hand; write `map.npz`.

    `x` and `y` of a plane at the goal's height, the `reward` there `[Y, X]`, and the
    `goal`, where the hand should be. All else is as it is at an episode's first step.
    """
    del seed  # A map is no matter of chance; the model has the seed.
    env = diffplan.envs.make(task)
    observation, info = env.reset(seed=0)
    env.close()
    goal = goal_of(info["raw_observation"])
    x, y = (torch.linspace(*side, points) for side in SIDES)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    hands = torch.cat([places, goal[2].expand(points, points, 1)], dim=-1)
    rest = torch.from_numpy(observation)[HAND:].expand(points, points, -1)
    model = RSSM.load(model_path).eval()
    reward = resting_reward(model, torch.cat([hands, rest], dim=-1), looks)
    save(directory / MAP, x=x, y=y, reward=reward, goal=goal)


def goal_of(raw: np.ndarray) -> Tensor:
    """Return where the hand should be, `[3]`, from Meta-World's own observation."""
    fingers = torch.from_numpy(raw[-HAND:]).float()
    return fingers + torch.tensor([0.0, 0.0, ABOVE_FINGERS])


@torch.no_grad()
def resting_reward(model: WorldModel, observation: Tensor, looks: int) -> Tensor:
    """Return the reward `[…]` of what was seen several times `[…, D]`, unmoved."""
    state = model.initial_state(observation.shape[:-1])
    still = observation.new_zeros(*observation.shape[:-1], model.action_dim)
    for _ in range(looks):
        state = model.observe(state, still, observation)
    return model.reward(state)


def save(path: Path, **arrays: Tensor) -> None:
    """Write arrays, compressed, replaced as a whole."""
    found = {name: value.numpy() for name, value in arrays.items()}
    write_atomically(path, lambda file: np.savez_compressed(file, **found))
