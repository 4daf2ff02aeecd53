"""The settings of a run on any task, and the file that keeps them in its folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from diffplan._checks import require_count, require_known
from diffplan._files import reading
from diffplan._runs.config import apply_overrides, resolved
from diffplan._runs.online import SMALL_MODEL, OnlineRun, planning_agent
from diffplan._runs.settings import Settings, parameters
from diffplan._runs.tasks import SUITES
from diffplan.agents import PlanningAgent
from diffplan.errors import ArgumentError
from diffplan.gradients import Detach
from diffplan.models.rssm import RSSM
from diffplan.objectives import NegativeReturn, SoftplusReward
from diffplan.planners import (
    CEM,
    DCEM,
    ILQR,
    MPPI,
    FirstOrderLatCo,
    GaussianLatCo,
    GradMPC,
    LatCo,
    Planner,
    ShootingGD,
    ShootingGN,
)
from diffplan.problem import Box, Objective
from diffplan.training._description import changes
from diffplan.training._files import read_json, write_json
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.online import OnlineConfig

SETTINGS = "settings.json"
_EXPECTED = "settings of `diffplan train`"


def _settings(kind: Callable[..., Planner], **values: Any) -> Settings:
    """Return settings of a planner that nobody differentiates through."""
    own = {"gradient": Detach()} if "gradient" in parameters(kind) else {}
    return Settings(partial(kind, **own), **values)


PLANNERS = {
    "cem": _settings(CEM, num_samples=100, num_elites=10, iterations=3),
    "dcem": _settings(DCEM),
    "first_order_latco": _settings(FirstOrderLatCo),
    "gaussian_latco": _settings(GaussianLatCo),
    "grad_mpc": _settings(GradMPC),
    "ilqr": _settings(ILQR),
    "latco": _settings(LatCo, iterations=30, dynamics_tolerance=1e-2),
    "mppi": _settings(MPPI),
    "shooting_gd": _settings(ShootingGD),
    "shooting_gn": _settings(ShootingGN),
}
"""Planners by name, with what a run sets of each."""

_MODEL = Settings(RSSM, **SMALL_MODEL)
_OF_RESIDUALS = ("first_order_latco", "gaussian_latco", "latco", "shooting_gn")
"""They minimise softplus(-reward)² (LatCo), the others minus the sum of rewards."""


@dataclass(frozen=True)
class TaskRun(OnlineRun):
    """One online run on any task: collect with the planner, train, measure.

    Attributes:
        task: Of `diffplan.envs.make`, or an id of Gymnasium.
        model: The RSSM.
        planner: See its page in the reference; `planner=NAME` takes another one.
        horizon: Actions of a plan.
        execute: Actions that are executed before the next plan.
        warm_start: Whether a plan begins with the one before.
    """

    num_envs: int = 2
    scale_episodes: int = 2
    posterior: Literal["sample", "mean"] = "mean"
    model: Settings = _MODEL
    training: OnlineConfig = field(
        default_factory=lambda: OnlineConfig(
            rounds=10,
            seed_episodes=6,
            episodes_per_round=2,
            pretrain_updates=300,
            updates_per_round=200,
            batch_size=16,
            sequence_length=30,
            action_repeat=2,
            evaluate_every=5,
            evaluation_episodes=4,
            keep_best=True,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        )
    )
    planner: Settings = PLANNERS["cem"]
    horizon: int = 15
    execute: int = 1
    warm_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("horizon", self.horizon)
        require_count("execute", self.execute)
        if self.training.skip_last_step:
            raise ArgumentError(
                "training.skip_last_step: expected False, for windows of a run go on "
                "behind the last transition, got True"
            )

    @property
    def planner_name(self) -> str:
        """Of `PLANNERS`."""
        target = self.planner.target
        return next(name for name, each in PLANNERS.items() if each.target is target)

    def agent(self, model: RSSM, box: Box) -> PlanningAgent:
        """Return the agent that plans with a model."""
        planner = self.planner.build(self.horizon)
        residuals = self.planner_name in _OF_RESIDUALS
        kind: Callable[..., Objective] = SoftplusReward if residuals else NegativeReturn
        objective, warm = kind(model.reward), self.warm_start
        return planning_agent(model, planner, objective, box, self, self.execute, warm)

    def content(self) -> dict[str, Any]:
        """Return all settings as JSON knows them, the planner's with its name."""
        found = resolved(self)
        found["planner"] = {"name": self.planner_name, **found["planner"]}
        return found


def configured(run: TaskRun, words: Sequence[str]) -> TaskRun:
    """Return a run with other settings.

    Args:
        run: The run.
        words: `planner=NAME`, which begins with that planner's defaults, and
            `path=value` such as `training.rounds=5`.

    Raises:
        UnknownNameError: there is no such planner or setting; lists close matches.
        ArgumentError: a word is no setting, or its value does not fit.
    """
    named = [word for word in words if word.startswith("planner=")]
    for word in named:
        name = require_known("planner", word.removeprefix("planner="), tuple(PLANNERS))
        run = replace(run, planner=PLANNERS[name])
    return apply_overrides(run, [word for word in words if word not in named])


def defaults(task: str) -> TaskRun:
    """Return the settings of a task where nothing else is said.

    Rewards of the suites are at most 1, and would count little beside observations.
    """
    run = TaskRun(task=task)
    if task.partition("/")[0] in SUITES:
        run = replace(run, model=run.model.replaced(reward_scale=20.0))
    return run


def save_settings(run: TaskRun, seed: int, directory: Path) -> None:
    """Write the settings of a run to its folder, or find the same ones there.

    Raises:
        ArgumentError: the folder holds a run with others; other rounds alone are fine,
            if they are not fewer than it has done. Without a checkpoint nothing goes
            on, and any are.
    """
    path, now = directory / SETTINGS, {"seed": seed, "run": run.content()}
    done, _ = Checkpoints(directory / "checkpoints").latest() or (0, None)
    if done and path.exists():
        before = read_json(path, _EXPECTED)
        with reading(path, _EXPECTED):
            changed = _changed(before, now)
        if changed:
            raise ArgumentError(
                f"directory: {directory} holds a run with other settings "
                f"({', '.join(changed)}); choose another folder"
            )
        if done > 1 + run.training.rounds:
            raise ArgumentError(
                f"training.rounds: expected at least {done - 1}, which the run in "
                f"{directory} has done, got {run.training.rounds}"
            )
    write_json(path, now)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return each setting that is another one now, by the word that sets it."""
    old, new = ({"seed": each["seed"], **each["run"]} for each in (before, now))
    if old["planner"]["name"] != new["planner"]["name"]:  # which has other settings
        old, new = ({**each, "planner": each["planner"]["name"]} for each in (old, new))
    return changes(old, new, extensible=("training.rounds",))


def read_settings(directory: Path) -> tuple[TaskRun, int]:
    """Return settings and seed of a run.

    Raises:
        ArgumentError: the folder holds no run of `diffplan train`.
        FileError: its settings are damaged.
    """
    path = directory / SETTINGS
    if not path.exists():
        there = "a folder without one" if directory.is_dir() else "no such folder"
        raise ArgumentError(
            f"directory: expected a folder of `diffplan train`, with {SETTINGS}, got "
            f"{directory}: {there}"
        )
    content = read_json(path, _EXPECTED)
    with reading(path, _EXPECTED):
        planner = dict(content["run"]["planner"])
        words = [f"planner={planner.pop('name')}"]
        words += _words({**content["run"], "planner": planner})
        return configured(TaskRun(), words), int(content["seed"])


def _words(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield each setting as the word that sets it."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _words(value, f"{prefix}{name}.")
        else:
            listed = value if isinstance(value, list) else [value]
            yield f"{prefix}{name}={','.join(map(str, listed))}"
