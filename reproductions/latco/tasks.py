"""Planners on frozen models of the sparse tasks beside reach, one model for each task.

The work is that of stage (a); episodes, model and planners differ in what `TasksConfig`
says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffplan.errors import ArgumentError
from reproductions.common.stages import Unit
from reproductions.latco import comparison
from reproductions.latco.comparison_config import (
    MODEL,
    ComparisonConfig,
    DataConfig,
    EvaluationConfig,
)
from reproductions.latco.comparison_planners import LATCO_NATIVE

EXPERIMENT = "tasks"
FAR = {"button-press": 0.24, "window-close": 0.08, "drawer-close": 0.05, "push": 0.2}
"""Starts that far from solved, metres, are counted apart: the median of others."""
PLANNERS = (
    "latco",
    "latco_duals",
    "latco_no_constraints",
    "latco_least",
    "latco_doubt",
    "gd_many",
    "gd_one",
    "cem_coloured",
    "cem",
    "mppi",
    "random",
    "still",
)


@dataclass(frozen=True)
class TasksConfig(ComparisonConfig):
    """Settings of stage (a) for other tasks.

    Attributes:
        tasks: Of sparse Meta-World, each with data and a model of its own.
    """

    tasks: tuple[str, ...] = tuple(FAR)

    @classmethod
    def small(cls) -> "TasksConfig":
        """Return settings for a CPU.

        A grasp, which push needs, survives little noise, so the expert has less of it
        too. What is to be moved moves by centimetres here; on reach it is a puck that
        does not matter, and is kept small on purpose.
        """
        return cls(
            planners=PLANNERS,
            latco=LATCO_NATIVE,
            data=DataConfig(expert_noise=(0.1, 0.3, 0.6)),
            model=MODEL.replaced(minimum_std=0.02),
        )

    @classmethod
    def tiny(cls) -> "TasksConfig":
        """Return settings of seconds; no result counts."""
        made = replace(cls.smoke(), planners=("latco", "random"))
        assert isinstance(made, cls)  # `smoke` makes one of its own class
        return replace(made, latco=made.latco_native, tasks=("button-press",))


def units(config: TasksConfig, seeds: Sequence[int], directory: Path) -> Sequence[Unit]:
    """Return the work of stage (a) for each task.

    Args:
        config: The settings.
        seeds: One model is trained for each, of each task.
        directory: Receives `<task>/seed_<n>/{data,model,<planner>}`.

    Raises:
        ArgumentError: a setting is given that each task has of its own.
    """
    for key, given, own in (
        ("data.task", config.data.task, DataConfig().task),
        ("evaluation.far", config.evaluation.far, EvaluationConfig().far),
    ):
        if given != own:
            raise ArgumentError(
                f"{EXPERIMENT}.{key}: each task has its own; choose by task=NAME"
            )
    return [
        unit
        for task in config.tasks
        for unit in comparison.units(
            of_task(config, task), seeds, directory / task, f"{EXPERIMENT}/{task}"
        )
        if not unit.name.endswith("/trace")  # no figure is made of it
    ]


def of_task(config: TasksConfig, task: str) -> TasksConfig:
    """Return the settings of one task."""
    return replace(
        config,
        data=replace(config.data, task=f"metaworld/{task}"),
        evaluation=replace(config.evaluation, far=FAR[task]),
    )
