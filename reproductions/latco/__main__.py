"""The command line: `python -m reproductions.latco --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffplan.envs._rendering import select_backend
from diffplan.errors import ArgumentError
from reproductions.common.command import Reproduction, Work
from reproductions.common.publishing import Units
from reproductions.common.stages import Unit
from reproductions.latco import report
from reproductions.latco.config import (
    DEFAULT_SEEDS,
    PRESETS,
    STAGES,
    paper_config,
    stages_config,
)
from reproductions.latco.online import paper_unit
from reproductions.latco.online_config import PLANNERS, TASKS

ABOUT = f"""\
Reproduce "Model-Based Reinforcement Learning via Latent-Space Collocation" (LatCo).

presets
  cpu    (default) three stages:
         comparison  planners on one frozen model of sparse Meta-World reach, from
                     state vectors
         online      LatCo collects its own data on cheetah-run, from state vectors
         pixels      images: a small visual model, one plan decoded beside what happened
  smoke  the same stages, so small that their numbers mean nothing
  paper  the paper's protocol, from images, for a GPU. One task and planner per call, a
         run for each of --seeds; there are no stages:
         task=TASK planner=PLANNER
           tasks    {" ".join(TASKS[:7])}
                    {" ".join(TASKS[7:])}
           planners {" ".join(PLANNERS)}

settings
  key=value replaces one setting, such as comparison.evaluation.starts=10; with the
  paper preset, keys begin inside the run: training.rounds=100 planner.iterations=50
  --settings lists all keys of a preset with their values and meaning.
"""


UNCHOSEN = (
    f"task: expected task=NAME with --preset paper, whose runs take days on a GPU; one "
    f"of {', '.join(TASKS)}"
)


def work(preset: str, overrides: Sequence[str]) -> Work:
    """Return the units of a preset; the paper's are one run for each seed."""
    if preset != "paper":
        config = stages_config(preset, overrides)
        return Work(config, config.units)
    run = paper_config(overrides)

    def units(
        stages: Sequence[str] | None, seeds: Sequence[int] | None, directory: Path
    ) -> list[Unit]:
        if stages is not None:
            raise ArgumentError(
                "--stages: the preset paper has none; task= and planner= choose its run"
            )
        return [paper_unit(run, seed, directory) for seed in seeds or DEFAULT_SEEDS]

    chosen = any(text.startswith("task=") for text in overrides)
    return Work(run, units, "" if chosen else UNCHOSEN)


def grid(preset: str) -> list[Units]:
    """Return the units of all that a preset's page may show."""
    if preset != "paper":
        return [work(preset, []).units]
    return [
        work(preset, [f"task={task}", f"planner={planner}"]).units
        for task in TASKS
        for planner in PLANNERS
    ]


COMMAND = Reproduction(
    name="latco",
    about=ABOUT,
    presets=PRESETS,
    stages=STAGES,
    seeds="0",
    work=work,
    report=report.write,
    grid=grid,
    # Tested once here; the units' processes inherit the answer.
    prepare=select_backend,
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
