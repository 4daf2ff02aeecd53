"""The command line that all reproductions share: presets, stages, seeds, results."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from diffplan.errors import ArgumentError, DiffplanError, FileError
from reproductions.common import publishing, results, runs
from reproductions.common.config import choose, describe
from reproductions.common.lock import exclusive
from reproductions.common.provenance import published
from reproductions.common.stages import Outcome, Unit, run_units

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 64, 130
WORKERS = 2
RUN, REPORT, PUBLISH = "run", "report", "publish"

ENDING = """
what it writes
  <directory>/<preset>/          runs: checkpoints, metrics.csv, log.txt of each unit
  <directory>/<preset>/results/  README.md with tables and figures, CSV files, run.json;
                                 --output chooses another folder, empty or of ours

words before the settings
  run      (default) makes what is missing, then the report. Stopped at any moment
           (Ctrl-C, kill, power) the same command goes on where it was
  report   runs nothing; makes tables and figures from the runs that are there
  publish  runs nothing; puts the results of finished runs, or those of some --stages,
           into the repository. Refused with changes that no commit holds, with own
           settings, and with fewer units than the committed page shows
How long a preset takes: `reproductions/README.md`.

exit status: 0 done, 1 some units failed (the report has the others), 64 refused before
anything was done (wrong arguments, a folder in use, a full disk), 130 interrupted.
"""


@dataclass(frozen=True)
class Work:
    """What a preset with its settings asks for.

    Attributes:
        settings: What `--settings` lists.
        units: `(stages, seeds, directory) → units`; None stands for stages or seeds
            that the command line does not choose.
        unchosen: What must be chosen before it is run, in a sentence; empty if nothing.
    """

    settings: object
    units: publishing.Units
    unchosen: str = ""


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
        grid: `preset → units`, all that its page may show; None stands for the units
            of `work(preset, [])`.
        home: Of published results, a folder for each preset; None stands for the
            `results` of the package.
    """

    name: str
    about: str
    presets: Sequence[str]
    stages: Sequence[str]
    seeds: str
    work: Callable[[str, Sequence[str]], Work]
    report: results.Report
    prepare: Callable[[], object] = lambda: None
    grid: Callable[[str], Sequence[publishing.Units]] | None = None
    home: Path | None = None

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line; return the exit status."""
        try:
            options = self.parser().parse_args(arguments)
            return self._main(options)
        except FileError as error:
            say(f"error: {error}")
            return FAILED
        except DiffplanError as error:
            say(f"error: {error}")
            return WRONG
        except OSError as error:
            say(f"error: {error}")
            return FAILED
        except KeyboardInterrupt:
            say("interrupted; the same command goes on from here")
            return INTERRUPTED

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the command line."""
        made = _Parser(
            prog=f"python -m reproductions.{self.name}",
            description=self.about.rstrip() + "\n" + ENDING,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add, directory = made.add_argument, Path("runs") / self.name
        words = f"settings, or {RUN}, {REPORT}, {PUBLISH} before them"
        add("overrides", nargs="*", metavar="key=value", help=words)
        add("--preset", default="cpu", help=", ".join(self.presets))
        stages = f"some of {','.join(self.stages)}; all by default"
        add("--stages", default=None, help=stages)
        add("--seeds", default=None, help=f"such as 3,4; {self.seeds} by default")
        add("--directory", type=Path, default=directory, help="of the runs")
        add("--output", type=Path, default=None, help="of tables and figures")
        workers = f"units that run at the same time, {WORKERS} by default"
        add("--workers", type=int, default=None, help=workers)
        add("--report-only", action="store_true", help=f"the same as {REPORT}")
        add("--settings", action="store_true", help="list all settings and stop")
        return made

    def committed(self, preset: str) -> Path:
        """Return the folder of a preset's published results."""
        home = self.home or Path(__file__).parents[1] / self.name / "results"
        return home / preset

    def _main(self, options: argparse.Namespace) -> int:
        word = _word(options)
        preset = choose("--preset", options.preset, self.presets)
        _refuse_what_would_be_ignored(word, options)
        stages = self._stages(options.stages)
        directory = options.directory / preset
        if word == PUBLISH:
            return self._publish(directory, preset, stages or self._all_stages(preset))
        work = self.work(preset, options.overrides)
        if options.settings:
            say(describe(work.settings))
            return DONE
        seeds = None if options.seeds is None else _seeds(options.seeds)
        units = work.units(stages, seeds, directory)
        if word == RUN and work.unchosen and stages is None:
            raise ArgumentError(work.unchosen)
        output = options.output or directory / "results"
        results.require_ours(output, self.name)
        results.require_writable("--output", output)
        if word == REPORT:
            return self._report(directory, output, preset, Outcome())
        results.require_writable("--directory", directory)
        with exclusive(directory, say=say):
            self.prepare()
            say(f"runs: {directory}, results: {output / results.PAGE}")
            workers = WORKERS if options.workers is None else options.workers
            seconds = self._measured(units, preset)
            outcome = run_units(units, workers, report=say, seconds=seconds)
            return self._report(directory, output, preset, outcome)

    def _report(
        self, directory: Path, output: Path, preset: str, outcome: Outcome
    ) -> int:
        """Write the results of a run folder beside it; return the exit status."""
        units = runs.scan(directory)
        own = self._own_settings(units, preset)
        with results.made(self.report, directory, units, preset) as (folder, found):
            notes = results.notes(found, outcome.blocked, own, preset)
            results.annotate(folder / results.PAGE, notes)
            results.install(folder, output, self.name, preset)
        say(f"results: {output / results.PAGE}")
        for unit in found:
            if unit.state in (runs.BROKEN, runs.STALE):
                say(f"left out: {unit.name} is {unit.state}: {unit.reason}")
        for name, reason in outcome.failed.items():
            say(f"failed: {name}: {reason}")
        return DONE if outcome.complete else FAILED

    def _publish(self, directory: Path, preset: str, stages: Sequence[str]) -> int:
        """Put the results of a finished run folder into the repository."""
        if preset == "smoke":
            raise ArgumentError(
                "publish: expected a preset whose numbers mean something, got smoke"
            )
        home = self.committed(preset)
        units = [unit for unit in runs.scan(directory) if unit.stage in stages]
        own = self._own_settings(units, preset)
        before = published(home)
        publishing.require_publishable(units, before, own, stages)
        results.require_writable("publish", home)
        with results.made(self.report, directory, units, preset, home) as (new, found):
            publishing.require_publishable(found, before, own, stages)
            results.install(new, home, self.name, preset)
        say(f"published: {home / results.PAGE}; look at `git diff`, and commit it")
        return DONE

    def _own_settings(self, units: Sequence[runs.Found], preset: str) -> list[str]:
        records = {unit.name: unit.record for unit in units if unit.record}
        grid = self.grid(preset) if self.grid else [self.work(preset, []).units]
        return publishing.own_settings(records, grid)

    def _stages(self, text: str | None) -> list[str] | None:
        if text is None:
            return None
        return [choose("--stages", name, self.stages) for name in text.split(",")]

    def _all_stages(self, preset: str) -> Sequence[str]:
        # The units of LatCo's preset paper are no stage's, and called after it.
        return (*self.stages, preset)

    def _measured(self, units: Sequence[Unit], preset: str) -> dict[str, float]:
        """Return the seconds that units of these settings took when published."""
        times: dict[str, list[float]] = {}
        for name, record in published(self.committed(preset)).items():
            kind = _without_seed(name, record["settings"])
            times.setdefault(kind, []).append(record["wall_seconds"])
        kinds = {unit.name: _without_seed(unit.name, unit.settings()) for unit in units}
        return {
            name: sum(times[kind]) / len(times[kind])
            for name, kind in kinds.items()
            if kind in times
        }


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are those of this program."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message)


def say(text: str) -> None:
    """Write a line for the person at the terminal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _word(options: argparse.Namespace) -> str:
    """Take the word before the settings, if there is one."""
    first = options.overrides[:1]
    word = first[0] if first and first[0] in (RUN, REPORT, PUBLISH) else RUN
    if first == [word]:
        options.overrides = options.overrides[1:]
    return REPORT if options.report_only and word == RUN else word


def _refuse_what_would_be_ignored(word: str, options: argparse.Namespace) -> None:
    """Refuse to choose units where none is run."""
    if word == RUN and not options.settings:
        return
    what = "--settings" if options.settings else word
    names = ["stages", "seeds", "workers"]
    if word == PUBLISH:
        names = ["seeds", "workers", "output"]
    for name in names:
        if getattr(options, name) is not None:
            raise ArgumentError(f"--{name}: {what} runs nothing that it could choose")
    if word != RUN and options.overrides:
        raise ArgumentError(
            f"{options.overrides[0]}: {word} has no settings; each run tells its own"
        )


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise ArgumentError(f"--seeds: expected numbers such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(int(part) for part in parts))


def _without_seed(name: str, settings: dict[str, object]) -> str:
    kept = {key: value for key, value in settings.items() if key != "seed"}
    parts = [part for part in name.split("/") if not part.startswith("seed_")]
    return f"{parts} {sorted(kept.items())}"
