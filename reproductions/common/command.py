"""The command line of every paper, from its record: what is run, and what is written.

`task=reach,push` chooses on an axis, `online.training.rounds=4` replaces a setting.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from diffplan._cli import DONE, FAILED, INTERRUPTED, WRONG
from diffplan._runs.config import describe
from diffplan.errors import ArgumentError, DiffplanError, FileError
from diffplan.training._lock import exclusive
from reproductions.common import ledger, publishing, results, runs
from reproductions.common.engines import add_engine_options, engine_of
from reproductions.common.experiment import Paper, Selection
from reproductions.common.grammar import choice, help_text
from reproductions.common.page import write_page
from reproductions.common.progress import show_status
from reproductions.common.provenance import published
from reproductions.common.stages import Outcome, Unit, run_units

RUN, REPORT, STATUS, PUBLISH = "run", "report", "status", "publish"
WORDS = (RUN, REPORT, STATUS, PUBLISH)

ENDING = """
what it writes
  <directory>/<preset>/          runs: checkpoints, metrics.csv, log.txt of each unit
  <directory>/<preset>/results/  README.md with tables and figures, CSV files, run.json;
                                 --output chooses another folder, empty or of ours

words before axes and settings
  run      (default) makes what is missing, then the report. Stopped at any moment
           (Ctrl-C, kill, power) the same command goes on where it was
  report   runs nothing; makes tables and figures from the runs that are there
  status   runs nothing; shows the units of the last command: waiting, running, done,
           failed (with error and log), how far, and the time left
  publish  runs nothing; puts the results of finished runs, or those of some stages,
           into the repository. Refused with changes that no commit holds, with own
           settings, and with fewer units than the committed page shows. With --add
           the committed units stay, and those that are finished join them: a page
           made from the ledger grows run by run, from any machine
How long a preset takes: `reproductions/README.md`.

exit status: 0 done, 1 some units failed (the report has the others), 64 refused before
anything was done (wrong arguments, a folder in use, a full disk), 130 interrupted.
"""


@dataclass(frozen=True)
class Command:
    """The command line of a paper.

    Attributes:
        paper: What is run.
    """

    paper: Paper

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
        name = self.paper.name
        made = _Parser(
            prog=f"python -m reproductions.{name}",
            description=help_text(self.paper) + ENDING,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add, directory = made.add_argument, Path("runs") / name
        words = f"axes and settings, or one of {', '.join(WORDS)} before them"
        add("words", nargs="*", metavar="key=value", help=words)
        add(
            "--preset", help=f"the same as preset=NAME; {self.paper.presets[0]} if none"
        )
        add("--stages", help="the same as stage=NAME,NAME; all by default")
        add("--seeds", help="the same as seed=0,1,2")
        add("--directory", type=Path, default=directory, help="of the runs")
        add("--output", type=Path, default=None, help="of tables and figures")
        add("--add", action="store_true", help="publish beside the committed units")
        add("--report-only", action="store_true", help=f"the same as {REPORT}")
        add("--settings", action="store_true", help="list all settings and stop")
        add_engine_options(made)
        return made

    def _main(self, options: argparse.Namespace) -> int:
        word, paper = _word(options), self.paper
        preset, selection = choice(paper, options)
        _refuse_what_would_be_ignored(word, options, selection)
        running = paper.stages(preset, selection)
        directory = options.directory / preset
        if word == PUBLISH:
            stages = selection.stages or paper.stages(preset)
            return self._publish(directory, preset, stages, adding=options.add)
        if word == STATUS:
            show_status(directory, say)
            return DONE
        if options.settings:
            cell = {name: values[0] for name, values in selection.axes.items()}
            say(describe(paper.settings(preset, selection.settings, cell)))
            return DONE
        units = paper.units(preset, selection, directory)
        if word == RUN:
            _require_chosen(paper, preset, selection, running)
        output = options.output or directory / "results"
        results.require_ours(output, paper.name)
        results.require_writable("--output", output)
        if word == REPORT:
            return self._report(directory, output, preset, Outcome())
        results.require_writable("--directory", directory)
        with exclusive(directory, say=say):
            paper.prepare()
            say(f"runs: {directory}, results: {output / results.PAGE}")
            others = [name for name in paper.stages(preset) if name not in running]
            if others and selection.stages is None:
                say(f"left out unless they are named: stage={','.join(others)}")
            outcome = run_units(
                units,
                engine_of(options),
                report=say,
                seconds=self._measured(units, preset),
                directory=directory,
            )
            return self._report(directory, output, preset, outcome)

    def _report(
        self, directory: Path, output: Path, preset: str, outcome: Outcome
    ) -> int:
        """Write the results of a run folder beside it; return the exit status."""
        units = runs.scan(directory)
        own = self._own_settings(units, preset)
        write = partial(write_page, self.paper)
        with results.made(write, directory, units, preset) as (folder, found):
            notes = results.notes(found, outcome.blocked, own, preset)
            results.annotate(folder / results.PAGE, notes)
            results.install(folder, output, self.paper.name, preset)
        say(f"results: {output / results.PAGE}")
        for unit in found:
            if unit.state in (runs.BROKEN, runs.STALE):
                say(f"left out: {unit.name} is {unit.state}: {unit.reason}")
        for name, reason in outcome.failed.items():
            say(f"failed: {name}: {reason}")
        return DONE if outcome.complete else FAILED

    def _publish(
        self, directory: Path, preset: str, stages: Sequence[str], *, adding: bool
    ) -> int:
        """Put the results of a finished run folder into the repository."""
        if preset == "smoke":
            raise ArgumentError(
                "publish: expected a preset whose numbers mean something, got smoke"
            )
        home = self.paper.committed(preset)
        units = [unit for unit in runs.scan(directory) if unit.stage in stages]
        own = self._own_settings(units, preset)
        before, kept = published(home), set[str]()
        if adding:
            for unit in units:
                if unit.state != runs.FINISHED:
                    say(f"left out: {unit.name} is {unit.state}: {unit.reason}")
            units = [unit for unit in units if unit.state == runs.FINISHED]
            kept = {row["experiment"] for row in ledger.read(home)}
            old = {n: r for n, r in before.items() if n.partition("/")[0] in stages}
            own += publishing.own_settings(old, partial(self.paper.all_units, preset))
        publishing.require_publishable(units, before, own, stages, kept=kept)
        results.require_writable("publish", home)
        write = partial(write_page, self.paper)
        with results.made(write, directory, units, preset, home) as (new, found):
            publishing.require_publishable(found, before, own, stages, kept=kept)
            results.install(new, home, self.paper.name, preset)
        say(f"published: {home / results.PAGE}; look at `git diff`, and commit it")
        return DONE

    def _own_settings(self, units: Sequence[runs.Found], preset: str) -> list[str]:
        records = {unit.name: unit.record for unit in units if unit.record}
        known = partial(self.paper.all_units, preset)
        return publishing.own_settings(records, known)

    def _measured(self, units: Sequence[Unit], preset: str) -> dict[str, float]:
        """Return the seconds that units of these settings took when published."""
        times: dict[str, list[float]] = {}
        for name, record in published(self.paper.committed(preset)).items():
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
    first = options.words[:1]
    word = first[0] if first and first[0] in WORDS else RUN
    if first == [word]:
        options.words = options.words[1:]
    return REPORT if options.report_only and word == RUN else word


def _refuse_what_would_be_ignored(
    word: str, options: argparse.Namespace, selection: Selection
) -> None:
    """Refuse to choose units where none is run."""
    if options.add and word != PUBLISH:
        raise ArgumentError(f"--add: expected the word {PUBLISH} with it, got {word}")
    if word == RUN and not options.settings:
        return
    what = "--settings" if options.settings else word
    given: dict[str, object] = {
        "stage": selection.stages if word != PUBLISH else None,
        "seed": selection.seeds,
        "workers": options.workers,
        "output": options.output if word in (PUBLISH, STATUS) else None,
    }
    if not options.settings:
        given.update(selection.axes)
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(f"{name}: {what} runs nothing that it could choose")
    if word != RUN and selection.settings:
        raise ArgumentError(
            f"{selection.settings[0]}: {word} has no settings; each run tells its own"
        )


def _require_chosen(
    paper: Paper, preset: str, selection: Selection, stages: Sequence[str]
) -> None:
    """Refuse a run of days that nobody named, and a setting that nothing reads."""
    unchosen = paper.unchosen(preset, selection)
    if unchosen:
        raise ArgumentError(unchosen)
    for text in selection.settings:
        stage = text.partition(".")[0]
        if stage not in stages:
            whole = ",".join((*stages, stage))
            raise ArgumentError(f"{text}: {stage} does not run; name it, stage={whole}")


def _without_seed(name: str, settings: dict[str, object]) -> str:
    kept = {key: value for key, value in settings.items() if key != "seed"}
    parts = [part for part in name.split("/") if not part.startswith("seed_")]
    return f"{parts} {sorted(kept.items())}"
