"""The command line: `python -m reproductions.latco --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffplan.envs.rendering import select_backend
from reproductions.common.command import Reproduction, Work
from reproductions.common.stages import Unit
from reproductions.latco import report
from reproductions.latco.config import PRESETS, STAGES, paper_config, stages_config
from reproductions.latco.online import paper_unit
from reproductions.latco.online_config import PLANNERS, TASKS

ABOUT = f"""\
Reproduce "Model-Based Reinforcement Learning via Latent-Space Collocation" (LatCo).

presets
  cpu    (default) three stages, at most 25 minutes on two cores:
         comparison  planners on one frozen model of sparse Meta-World reach, from
                     state vectors
         online      LatCo collects its own data on cheetah-run, from state vectors
         pixels      images: a small visual model, one plan decoded beside what happened
  smoke  the same stages in two minutes; their numbers mean nothing
  paper  the paper's protocol, from images, days on a GPU. One run per call:
         task=TASK planner=PLANNER seed=N
           tasks    {" ".join(TASKS[:7])}
                    {" ".join(TASKS[7:])}
           planners {" ".join(PLANNERS)}

settings
  key=value replaces one setting, such as comparison.evaluation.starts=10; with the
  paper preset, keys begin inside the run: training.rounds=100 planner.iterations=50
  --settings lists all keys of a preset with their values and meaning.
"""


def work(preset: str, overrides: Sequence[str]) -> Work:
    """Return the units of a preset; the paper's is one run per call."""
    if preset != "paper":
        config = stages_config(preset, overrides)
        return Work(config, config.units)
    choice = paper_config(overrides)

    def units(
        stages: Sequence[str], seeds: Sequence[int], directory: Path
    ) -> list[Unit]:
        del stages, seeds  # the overrides chose
        return [paper_unit(choice.run, choice.seed, directory)]

    return Work(choice.run, units)


COMMAND = Reproduction(
    name="latco",
    about=ABOUT,
    presets=PRESETS,
    stages=STAGES,
    seeds="0",
    work=work,
    report=report.write,
    # Tested once here; the units' processes inherit the answer.
    prepare=select_backend,
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
