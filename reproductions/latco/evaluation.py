"""A trained online run, planned with as in its training and with other settings.

In Table 2 the paper plans from several initialisations at once with agents that were
trained without: `num_starts` here, but any setting of the planner will do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from diffplan._checks import require_at_least
from diffplan._runs.online import action_box, build_model, planning_agent
from diffplan._runs.stopwatch import Stopwatch, planner_watch
from diffplan._runs.tables import write_csv
from diffplan.errors import FileError
from diffplan.training._interaction import run_episodes
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.common import idle
from reproductions.common.stages import Unit
from reproductions.latco import online
from reproductions.latco.online_config import (
    CHEETAH,
    OnlineRun,
    PlannerConfig,
    paper_run,
    small_run,
    smoke_cheetah,
)

EXPERIMENT = "evaluation"
AS_TRAINED = "as trained"
RESULTS = "results.csv"
RESTARTED = ("latco", "gaussian_latco", "gd")
"""Planners that the paper starts several times; CEM and MPPI sample as they are."""
RESTARTS = 8
"""Neither paper nor code says how many."""


@dataclass(frozen=True)
class TrialConfig:
    """A trained run, and how else it plans.

    Attributes:
        run: As it was trained; it is trained now if it was not.
        planner: The other settings; equal ones add nothing.
        stage: Of the run, whose folder is beside that of the evaluation.
        starts: Episodes, the same with all settings and training seeds.
        start_seed: Of the starts.
    """

    run: OnlineRun
    planner: PlannerConfig
    stage: Literal["online", "paper"] = "online"
    starts: int = 10
    start_seed: int = 0

    def __post_init__(self) -> None:
        require_at_least("starts", self.starts, 1)


def small(run: str = CHEETAH) -> TrialConfig:
    """Return the evaluation of a run of preset `cpu`."""
    trained = small_run(run)
    return TrialConfig(trained, restarted(trained.planner), starts=4)


def smoke(run: str = CHEETAH) -> TrialConfig:
    """Return the evaluation of a run of preset `smoke`."""
    trained = smoke_cheetah(run)
    return TrialConfig(trained, restarted(trained.planner, 2), starts=1)


def paper(run: str = "thermos/latco") -> TrialConfig:
    """Return the evaluation of a run with the paper's protocol."""
    task, _, planner = run.partition("/")
    trained = paper_run(task, planner)
    return TrialConfig(trained, restarted(trained.planner), "paper")


def restarted(planner: PlannerConfig, starts: int = RESTARTS) -> PlannerConfig:
    """Return a planner with restarts, where the paper has some."""
    return replace(planner, num_starts=starts if planner.name in RESTARTED else 1)


def units(config: TrialConfig, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return the runs, and each one's evaluation as trained and otherwise.

    Args:
        config: The settings.
        seeds: Of the runs.
        directory: Receives `<task>/<planner>/seed_<n>/<settings that differ>`.
    """
    run, made = config.run, list[Unit]()
    trained = online.units(run, seeds, directory.with_name(config.stage))
    for seed, need in zip(seeds, trained, strict=False):  # what is idle has no seed
        made.append(need)
        for planner in dict.fromkeys((run.planner, config.planner)):
            what = difference(asdict(run.planner), asdict(planner))
            place = f"{online.name_of(run)}/seed_{seed}/{what.replace(' ', '_')}"
            work = partial(
                evaluate,
                run=run,
                planner=planner,
                starts=config.starts,
                start_seed=config.start_seed,
                seed=seed,
                trained=need.directory,
                directory=directory / place,
            )
            name = f"{EXPERIMENT}/{place}"
            made.append(Unit(name, work, directory / place, (need.name,)))
    return made


def difference(trained: Mapping[str, Any], planner: Mapping[str, Any]) -> str:
    """Return the settings of a planner that are others than in training.

    Example:
        >>> difference({"iterations": 5, "num_starts": 1}, {"num_starts": 8})
        'num_starts=8'
    """
    pairs = [f"{k}={v}" for k, v in planner.items() if v != trained.get(k)]
    return ",".join(pairs) or AS_TRAINED


def evaluate(
    directory: Path,
    trained: Path,
    run: OnlineRun,
    planner: PlannerConfig,
    starts: int,
    start_seed: int,
    seed: int,
) -> None:
    """Let the model of a run act from every start, without noise; write `RESULTS`."""
    watch = planner_watch()
    with run.environments(Stopwatch(), starts) as environments:
        box = action_box(environments.single_action_space, run.resolve_device())
        shape = environments.single_observation_space.shape
        model = build_model(run.model, shape, box.dim, seed)
        model.load_state_dict(weights(trained))
        built, objective = planner.build(model.eval().to(run.resolve_device()))
        watch.watch(built)
        episodes = run_episodes(
            planning_agent(model, built, objective, box, run, planner.execute),
            environments,
            [
                derive_seed(start_seed, EXPERIMENT, index, bits=SIMULATOR_BITS)
                for index in range(starts)
            ],
            agent_seed=derive_seed(seed, EXPERIMENT),
        )
    milliseconds = round(1000 * watch.wall / watch.calls, 2)
    rows = idle.episode_rows(episodes)
    write_csv(directory / RESULTS, [{**r, "milliseconds": milliseconds} for r in rows])


def weights(trained: Path) -> dict[str, Tensor]:
    """Return what a run ended with: the last weights, or with `keep_best` the best.

    Raises:
        FileError: there is no checkpoint.
    """
    latest = Checkpoints(trained / "checkpoints").load_latest()
    if latest is None:
        raise FileError(f"{trained}: expected a checkpoint of the run, found none")
    job = latest[1]["job"]
    found: dict[str, Tensor] = job.get("best", job["trainer"])["model"]
    return found
