"""The command line that all reproductions share: presets, stages, seeds, results."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffplan.errors import ArgumentError, DiffplanError
from reproductions.common.config import choose, describe
from reproductions.common.stages import Outcome, Unit, run_units

DONE, FAILED, PARTIAL, WRONG, INTERRUPTED = 0, 1, 2, 64, 130
WORKERS = 2

ENDING = """
what it writes
  <directory>/<preset>/   runs: checkpoints, metrics.csv, log.txt of each unit
  <output>/               README.md with tables and figures, CSV files, run.json

Stopped at any moment (Ctrl-C, kill, power) the same command goes on where it was.
`report` (or --report-only) makes tables and figures from the runs that are there, and
the page from what is published where no run is there; what has no run stays as it is.
How long a preset takes: `reproductions/README.md`.

exit status: 0 all is done, 1 nothing worked, 2 some units failed (the report has the
others), 64 wrong arguments, 130 interrupted.
"""


@dataclass(frozen=True)
class Work:
    """What a preset with its settings asks for.

    Attributes:
        settings: What `--settings` lists.
        units: `(stages, seeds, directory) → units`; None stands for stages or seeds
            that the command line does not choose.
    """

    settings: object
    units: Callable[[Sequence[str] | None, Sequence[int] | None, Path], Sequence[Unit]]


@dataclass(frozen=True)
class Reproduction:
    """A paper's command line.

    Attributes:
        name: Of its package in `reproductions`.
        about: What is printed before the options: presets and settings.
        presets: Their names; `cpu` is the default.
        stages: Names; all are run by default.
        seeds: Of the default, in words.
        work: `(preset, overrides) → work`.
        report: `(directory, output, preset) → page`, tables and figures of the runs.
        prepare: Called once before any unit runs.
    """

    name: str
    about: str
    presets: Sequence[str]
    stages: Sequence[str]
    seeds: str
    work: Callable[[str, Sequence[str]], Work]
    report: Callable[[Path, Path, str], Path]
    prepare: Callable[[], object] = lambda: None

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line; return the exit status."""
        options = self.parser().parse_args(arguments)
        if options.overrides[:1] == ["report"]:
            options.report_only, options.overrides = True, options.overrides[1:]
        try:
            return self._run(options)
        except DiffplanError as error:
            say(f"error: {error}")
            return WRONG
        except KeyboardInterrupt:
            say("interrupted; the same command goes on from here")
            return INTERRUPTED

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the command line."""
        made = argparse.ArgumentParser(
            prog=f"python -m reproductions.{self.name}",
            description=self.about.rstrip() + "\n" + ENDING,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add, directory = made.add_argument, Path("runs") / self.name
        add("overrides", nargs="*", metavar="key=value", help="settings, or `report`")
        add("--preset", default="cpu", help=", ".join(self.presets))
        stages = f"some of {','.join(self.stages)}; all by default"
        add("--stages", default=None, help=stages)
        add("--seeds", default=None, help=f"such as 3,4; {self.seeds} by default")
        add("--directory", type=Path, default=directory, help="of the runs")
        add("--output", type=Path, default=None, help="of tables and figures")
        workers = f"units that run at the same time, {WORKERS} by default"
        add("--workers", type=int, default=None, help=workers)
        add("--report-only", action="store_true", help="run nothing, write the report")
        add("--settings", action="store_true", help="list all settings and stop")
        return made

    def _run(self, options: argparse.Namespace) -> int:
        preset = choose("--preset", options.preset, self.presets)
        _refuse_what_would_be_ignored(options)
        work = self.work(preset, options.overrides)
        if options.settings:
            say(describe(work.settings))
            return DONE
        directory = options.directory / preset
        outcome = Outcome()
        if not options.report_only:
            self.prepare()
            outcome = self._done(work, options, directory)
        output = options.output or self._output(preset, directory)
        say(f"results: {self.report(directory, output, preset)}")
        if outcome.complete:
            return DONE
        for name, reason in outcome.failed.items():
            say(f"failed: {name}: {reason}")
        return PARTIAL if outcome.done else FAILED

    def _done(
        self, work: Work, options: argparse.Namespace, directory: Path
    ) -> Outcome:
        stages = None
        if options.stages is not None:
            names = options.stages.split(",")
            stages = [choose("--stages", name, self.stages) for name in names]
        seeds = None if options.seeds is None else _seeds(options.seeds)
        units = work.units(stages, seeds, directory)
        workers = WORKERS if options.workers is None else options.workers
        return run_units(units, workers, report=say)

    def _output(self, preset: str, directory: Path) -> Path:
        """Return where results go: into the repository, unless they mean nothing."""
        if preset == "smoke":
            return directory / "results"
        return Path(__file__).parents[1] / self.name / "results" / preset


def say(text: str) -> None:
    """Write a line for the person at the terminal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _refuse_what_would_be_ignored(options: argparse.Namespace) -> None:
    """Refuse to choose units where none is run."""
    if not (options.report_only or options.settings):
        return
    what = "report" if options.report_only else "--settings"
    for name in ("stages", "seeds", "workers"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"--{name}: {what} runs nothing that it could choose")
    if options.report_only and options.overrides:
        raise ArgumentError(
            f"{options.overrides[0]}: report has no settings; each run tells its own"
        )


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise ArgumentError(f"--seeds: expected numbers such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(int(part) for part in parts))
