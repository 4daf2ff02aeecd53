"""The command line: `python -m reproductions.latco --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffplan.envs.rendering import select_backend
from diffplan.errors import ArgumentError, DiffplanError
from reproductions.common.config import choose, describe
from reproductions.common.stages import Outcome, Unit, run_units
from reproductions.latco import report
from reproductions.latco.config import (
    PRESETS,
    STAGES,
    PaperChoice,
    StagesConfig,
    paper_config,
    stages_config,
)
from reproductions.latco.online import paper_unit
from reproductions.latco.online_config import PLANNERS, TASKS

DONE, FAILED, PARTIAL, WRONG, INTERRUPTED = 0, 1, 2, 64, 130
HERE = Path(__file__).parent

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

what it writes
  <directory>/<preset>/   runs: checkpoints, episodes, metrics.csv, log.txt of each unit
  <output>/               README.md with tables and figures, CSV files, run.json

Stopped at any moment (Ctrl-C, kill, power) the same command goes on where it was.
`report` (or --report-only) makes tables and figures from the runs that are there.

settings
  key=value replaces one setting, such as comparison.evaluation.starts=10; with the
  paper preset, keys begin inside the run: training.rounds=100 planner.iterations=50
  --settings lists all keys of a preset with their values and meaning.

exit status: 0 all is done, 1 nothing worked, 2 some units failed (the report has the
others), 64 wrong arguments, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parser().parse_args(arguments)
    report_only = options.report_only
    overrides = list(options.overrides)
    if overrides[:1] == ["report"]:
        report_only, overrides = True, overrides[1:]
    try:
        return _run(options, overrides, report_only)
    except DiffplanError as error:
        say(f"error: {error}")
        return WRONG
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m reproductions.latco",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("overrides", nargs="*", metavar="key=value", help="settings, or `report`")
    add("--preset", default="cpu", help="cpu, smoke or paper")
    add("--stages", default=",".join(STAGES), help="some of the three, with commas")
    add(
        "--seeds",
        default="0",
        help="of comparison and online, such as 0,1,2; one fits in the time above",
    )
    add("--directory", type=Path, default=Path("runs/latco"), help="of the runs")
    add("--output", type=Path, default=None, help="of tables and figures")
    add("--workers", type=int, default=2, help="units that run at the same time")
    add("--report-only", action="store_true", help="run nothing, write the report")
    add("--settings", action="store_true", help="list all settings and stop")
    return made


def _run(options: argparse.Namespace, overrides: list[str], report_only: bool) -> int:
    preset = choose("--preset", options.preset, PRESETS)
    config: StagesConfig | PaperChoice = (
        paper_config(overrides)
        if preset == "paper"
        else stages_config(preset, overrides)
    )
    if options.settings:
        say(describe(config.run if isinstance(config, PaperChoice) else config))
        return DONE
    directory = options.directory / preset
    if not report_only:
        # Tested once here; the units' processes inherit the answer.
        select_backend()
    outcome = Outcome() if report_only else _work(options, config, directory)
    page = report.write(directory, options.output or _output(preset, directory), preset)
    say(f"results: {page}")
    if outcome.complete:
        return DONE
    for name, reason in outcome.failed.items():
        say(f"failed: {name}: {reason}")
    return PARTIAL if outcome.done else FAILED


def _work(
    options: argparse.Namespace, config: StagesConfig | PaperChoice, directory: Path
) -> Outcome:
    """Run the units; a run on a GPU may use all processor threads."""
    if isinstance(config, PaperChoice):
        unit = paper_unit(config.run, config.seed, directory)
        return run_units([unit], 1, threads=1, report=say)
    stages = [choose("--stages", name, STAGES) for name in options.stages.split(",")]
    seeds = _seeds(options.seeds)
    units: list[Unit] = config.units(stages, seeds, directory)
    return run_units(units, options.workers, report=say)


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise ArgumentError(f"--seeds: expected numbers such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(int(part) for part in parts))


def _output(preset: str, directory: Path) -> Path:
    """Return where results go: into the repository, unless they mean nothing."""
    return directory / "results" if preset == "smoke" else HERE / "results" / preset


def say(text: str) -> None:
    """Write a line for the person at the terminal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
