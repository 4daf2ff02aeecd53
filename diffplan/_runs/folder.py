"""Runs on any task: trained from their settings, rebuilt from their folders."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path

from diffplan._files import reading
from diffplan._runs.online import Acting, action_box, build_model, new_model, run_online
from diffplan._runs.run import TaskRun, configured, read_settings, save_settings
from diffplan._runs.stopwatch import Stopwatch
from diffplan.agents import PlanningAgent
from diffplan.envs.vector import VectorEnv
from diffplan.errors import ArgumentError, FileError
from diffplan.models import save
from diffplan.models.rssm import RSSM
from diffplan.problem import Box
from diffplan.training._lock import exclusive
from diffplan.training.checkpoint import Checkpoints
from diffplan.training.logging import Tracker

MODEL = "model.safetensors"
_OF_PLANS = (
    *("planner", "horizon", "execute", "warm_start"),
    *(each.name for each in fields(Acting) if each.name != "scale_episodes"),
)
"""What may be another with a trained model."""


def train(
    run: TaskRun,
    seed: int,
    directory: Path,
    *,
    tracker: str = "",
    quiet: bool = False,
) -> None:
    """Train to the end, from the folder's last checkpoint if there is one.

    The folder then holds the model in a file that `diffplan.models.load` reads.

    Args:
        run: The settings, which the folder then holds.
        seed: Of weights, episodes, planning and sampling.
        directory: Of the run.
        tracker: wandb or trackio, which is told the metrics too.
        quiet: Whether to show no progress.

    Raises:
        ArgumentError: the folder holds a run with other settings, or one of more
            rounds, or another process is in it; or the planner has no iterations.
    """
    if run.planner.get("iterations") == 0:
        raise ArgumentError(
            "planner.iterations: expected at least 1 to train with, got 0, which "
            "acts without planning"
        )
    rendering = Stopwatch()
    run.resolve_device()
    with run.environments(rendering) as envs:
        model = new_model(run.model, envs, run, seed)
        box = action_box(envs.single_action_space, run.resolve_device())
        agent = run.agent(model, box)
        # A worker has a stopwatch of its own.
        watches = {} if run.num_workers else {"rendering": rendering}
        watches["plan"] = Stopwatch().watch(agent.planner)
        with exclusive(directory):  # What is refused has left none behind.
            save_settings(run, seed, directory)
            writers = []
            if tracker:
                about = {"config": run.content(), "name": directory.name}
                writers.append(Tracker(tracker, project="diffplan", **about))
            run_online(
                model,
                agent,
                envs,
                run.training,
                seed=seed,
                directory=directory,
                watches=watches,
                tensorboard=True,
                quiet=quiet,
                writers=writers,
                # As far as any window reaches.
                absorbing_steps=run.training.sequence_length,
            )
            card = {"task": run.task, "seed": seed, "settings": run.content()}
            save(model, directory / MODEL, card=card)


@dataclass(frozen=True)
class LoadedRun:
    """A run as its last checkpoint has it: its model, and the agent that plans with it.

    Attributes:
        directory: Of the run.
        settings: All of them, by the names that the command line has, such as
            `settings.training.rounds`.
        seed: Of the run.
        rounds: That were complete.
        model: An `RSSM` with its trained weights, of the best evaluation if
            `training.keep_best`; frozen, until you say `requires_grad_(True)`.
        agent: Plans with the model; `agent.planner` and `agent.problem` are its parts.
    """

    directory: Path
    settings: TaskRun
    seed: int
    rounds: int
    model: RSSM
    agent: PlanningAgent

    def environments(self, count: int | None = None) -> VectorEnv:
        """Make environments of the task, `num_envs` by default; the caller closes."""
        return self.settings.environments(Stopwatch(), count)

    def with_settings(self, words: Sequence[str]) -> "LoadedRun":
        """Return this run with another agent; model and weights are the same.

        Args:
            words: Such as `planner=latco`, `planner.iterations=5`, `horizon=20`.

        Raises:
            ArgumentError: what was trained with cannot be another one.
        """
        return _with_settings(self, words, self.agent.action_space)


def load_run(directory: PathLike[str] | str, words: Sequence[str] = ()) -> LoadedRun:
    """Rebuild what a run has learnt from its folder.

    Args:
        directory: That `diffplan train` wrote; the run may be unfinished.
        words: Other settings of planning: `planner=cem`, `planner.iterations=5`.

    Raises:
        ArgumentError: there is no such run, or a word sets what belongs to the trained
            model.
        FileError: the run has no checkpoint yet, or it is damaged.

    Example:
        >>> loaded = load_run("runs/pendulum", ["planner=latco"])  # doctest: +SKIP
        >>> loaded.model.reward(loaded.model.initial_state())  # doctest: +SKIP
    """
    directory = Path(directory)
    run, seed = read_settings(directory)
    found = Checkpoints(directory / "checkpoints").load_latest()
    if found is None:
        raise FileError(
            f"directory: expected a checkpoint in {directory}, got none yet: training "
            "writes one after each round"
        )
    rounds, content = found
    with run.environments(Stopwatch(), 1) as envs:
        shape = envs.single_observation_space.shape
        box = action_box(envs.single_action_space)
    model = build_model(run.model, shape, box.dim, seed)
    with reading(directory / "checkpoints", "a checkpoint of this run"):
        job = content["job"]
        # The best evaluation is kept where the settings ask for it.
        best = job.get("best")
        model.load_state_dict(best["model"] if best else job["trainer"]["model"])
    model = model.eval().requires_grad_(False)
    loaded = LoadedRun(directory, run, seed, rounds, model, run.agent(model, box))
    return _with_settings(loaded, words, box)


def _with_settings(loaded: LoadedRun, words: Sequence[str], box: Box) -> LoadedRun:
    known = [each.name for each in fields(loaded.settings)]
    for word in words:
        name = word.partition("=")[0].partition(".")[0]
        if name not in _OF_PLANS and name in known:
            raise ArgumentError(
                f"{word}: {loaded.directory} was trained with its own {name}; expected "
                f"settings of {', '.join(_OF_PLANS)}"
            )
    run = configured(loaded.settings, words)
    device = run.resolve_device()
    model = loaded.model.to(device)
    moved = box.to(next(model.parameters()))
    return replace(loaded, settings=run, model=model, agent=run.agent(model, moved))
