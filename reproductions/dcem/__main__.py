"""The command line: `python -m reproductions.dcem --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffplan.errors import ArgumentError, DiffplanError
from reproductions.common.config import choose, describe
from reproductions.common.stages import Outcome, run_units
from reproductions.dcem import report
from reproductions.dcem.config import PRESETS, STAGES, DCEMConfig, preset_config

DONE, FAILED, PARTIAL, WRONG, INTERRUPTED = 0, 1, 2, 64, 130
HERE = Path(__file__).parent

ABOUT = """\
Reproduce "The Differentiable Cross-Entropy Method" (Amos and Yarats, ICML 2020).

presets
  cpu    (default) an hour and a half on two cores
         regression  an energy trained through its minimisation, by unrolled gradient
                     descent and by DCEM: the paper's protocol in full
         cartpole    the expert in full; of the learned embeddings a share: latent
                     sizes 2 and 8 at temperature 1, a fifth of the updates
         locomotion  cheetah run and walker walk, scaled: a model with CEM, an
                     embedded controller, PPO through it
  smoke  the same stages in a minute; their numbers mean nothing
  paper  all in full; the 27 embeddings take about 23 core hours, locomotion days on
         a GPU

what it writes
  <directory>/<preset>/   runs: checkpoints, metrics.csv, log.txt of each unit
  <output>/               README.md with tables and figures, CSV files, run.json

Stopped at any moment (Ctrl-C, kill, power) the same command goes on where it was.
`report` (or --report-only) makes tables and figures from the runs that are there.

settings
  key=value replaces one setting, such as regression.training.updates=1000; --settings
  lists all keys of a preset with their values and meaning. The seeds of a method are
  trained together, as one unit: other --seeds need another --directory.

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
        prog="python -m reproductions.dcem",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("overrides", nargs="*", metavar="key=value", help="settings, or `report`")
    add("--preset", default="cpu", help="cpu, smoke or paper")
    add("--stages", default=",".join(STAGES), help="some of them, with commas")
    add("--seeds", default="0,1,2", help="such as 0,1,2")
    add("--directory", type=Path, default=Path("runs/dcem"), help="of the runs")
    add("--output", type=Path, default=None, help="of tables and figures")
    add("--workers", type=int, default=2, help="units that run at the same time")
    add("--report-only", action="store_true", help="run nothing, write the report")
    add("--settings", action="store_true", help="list all settings and stop")
    return made


def _run(options: argparse.Namespace, overrides: list[str], report_only: bool) -> int:
    preset = choose("--preset", options.preset, PRESETS)
    config = preset_config(preset, overrides)
    if options.settings:
        say(describe(config))
        return DONE
    directory = options.directory / preset
    outcome = Outcome() if report_only else _work(options, config, directory)
    page = report.write(directory, options.output or _output(preset, directory), preset)
    say(f"results: {page}")
    if outcome.complete:
        return DONE
    for name, reason in outcome.failed.items():
        say(f"failed: {name}: {reason}")
    return PARTIAL if outcome.done else FAILED


def _work(options: argparse.Namespace, config: DCEMConfig, directory: Path) -> Outcome:
    stages = [choose("--stages", name, STAGES) for name in options.stages.split(",")]
    units = config.units(stages, _seeds(options.seeds), directory)
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
