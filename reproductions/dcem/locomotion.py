"""Stage (c): cheetah run and walker walk from sensor values (section 5.2.2, Alg. 3).

Phase 1 learns a model with CEM in the space of actions. Phase 2 goes on with an
embedded controller: DCEM in the latent space of a decoder, which is trained inside the
training of the model. Phase 3 fine-tunes parts of that controller with PPO. After each
phase its controller is tested on episodes of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from diffplan.training.online import OnlineConfig
from reproductions.common.stages import Unit
from reproductions.dcem.locomotion_config import LocomotionConfig, TaskSettings
from reproductions.dcem.locomotion_evaluation import (
    measure_phase,
    measure_random,
    measure_still,
)
from reproductions.dcem.locomotion_policy import train_policy
from reproductions.dcem.locomotion_training import train_embedded, train_initial

PHASES = ("initial", "embedded", "policy")
IDLE = ("random", "still")
"""In place of a phase: episodes of who knows nothing."""


def units(
    config: LocomotionConfig, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return the work of stage (c): for each task and seed, a chain of three phases.

    Args:
        config: The settings.
        seeds: A model is trained for each.
        directory: Receives `<task>/seed_<n>/<phase>`, `<phase>_tests` beside it, and
            `<task>/random` and `<task>/still`.
    """
    made: list[Unit] = []
    for seed in seeds:
        for task in config.tasks:
            made += _phases(config, task, seed, directory / task / f"seed_{seed}")
    for task in config.tasks:
        common = {"place": config.place(task), "episodes": config.test_episodes}
        for name, measure in {"random": measure_random, "still": measure_still}.items():
            folder = directory / task / name
            work = partial(measure, **common, directory=folder)
            made.append(Unit(f"locomotion/{task}/{name}", work, folder))
    return made


def _phases(config: LocomotionConfig, task: str, seed: int, folder: Path) -> list[Unit]:
    """Return the phases of one task and seed, each followed by its test."""
    trainings = _trainings(config, config.lengths(task), folder)
    planners = (config.search, config.embedding, config.embedding)
    made: list[Unit] = []
    needs: tuple[str, ...] = ()
    for phase, training, planner in zip(PHASES, trainings, planners, strict=True):
        name, common = f"locomotion/{task}/seed_{seed}/{phase}", {"seed": seed}
        source, tests = folder / phase, folder / f"{phase}_tests"
        place = config.place(task)
        work = partial(training, place=place, **common, directory=source)
        test = partial(
            measure_phase,
            place=place,
            **common,
            planner=planner,
            episodes=config.test_episodes,
            source=source,
            directory=tests,
        )
        made.append(Unit(name, work, source, needs))
        made.append(Unit(f"{name}_tests", test, tests, (name,)))
        needs = (name,)
    # What others wait for comes first.
    return sorted(made, key=lambda unit: unit.name.endswith("_tests"))


def _trainings(
    config: LocomotionConfig, lengths: TaskSettings, folder: Path
) -> tuple[Callable[..., None], ...]:
    """Return the trainings of the three phases, but for task, seed and folder."""

    def online(training: OnlineConfig, rounds: int) -> OnlineConfig:
        repeat = lengths.action_repeat
        return replace(training, rounds=rounds, action_repeat=repeat)

    return (
        partial(
            train_initial,
            model=config.model,
            search=config.search,
            training=online(config.initial, lengths.initial_rounds),
        ),
        partial(
            train_embedded,
            model=config.model,
            embedding=config.embedding,
            training=online(config.embedded, lengths.embedded_rounds),
            initial=folder / "initial",
        ),
        partial(
            train_policy,
            embedding=config.embedding,
            policy=config.policy,
            steps=lengths.policy_steps,
            embedded=folder / "embedded",
        ),
    )
