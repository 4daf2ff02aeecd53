"""Tunes planners on the frozen model of a run, with an equal budget for each.

planner=cem,mppi,latco names them. The budget counts evaluations of the model in one
plan; iterations are what it pays for. The best settings are judged by episodes from
starts that no trial has seen. Trials are kept in RUN/tune.log: the same command goes
on from them. Exit status 1 says that some planner has no result. Needs Optuna.
"""

import argparse
from functools import partial
from pathlib import Path

from diffplan._cli import DONE, FAILED, say

_HELP = {
    "budget": (5000, "evaluations of the model in a plan"),
    "trials": (20, "settings that are tried of each planner"),
    "episodes": (4, "in which each is tried"),
    "held_out": (20, "episodes from other starts for the best ones"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("directory", type=Path, metavar="RUN", help="its folder")
    parser.add_argument("planners", metavar="planner=NAME,NAME", help="what is tuned")
    for name, (default, told) in _HELP.items():
        option, told = f"--{name.replace('_', '-')}", f"{told}; {default}"
        parser.add_argument(option, type=int, default=default, metavar="N", help=told)


def run(options: argparse.Namespace) -> int:
    """Tune; return the exit status."""
    from diffplan._checks import require_count, require_known
    from diffplan._runs.evaluation import score_random, summary
    from diffplan._runs.folder import load_run
    from diffplan._runs.run import PLANNERS
    from diffplan._runs.tables import markdown_table, write_csv
    from diffplan._runs.tuning import Counter, Tuning, row, tune

    names = options.planners.removeprefix("planner=").split(",")
    names = [require_known("planner", name, tuple(PLANNERS)) for name in names]
    given = {name: getattr(options, name) for name in _HELP}
    for name, value in given.items():
        require_count(f"--{name.replace('_', '-')}", value)
    tuning = Tuning(**given)
    loaded = load_run(options.directory)
    for name in names:  # What does not take the task is refused before hours pass.
        loaded.with_settings([f"planner={name}"])
    counter, tell = Counter(loaded.model), partial(say, error=True)
    found = {name: tune(loaded, name, tuning, counter, tell) for name in names}
    rows = [row(name, each) for name, each in found.items() if each is not None]
    if rows:
        short = [[_short(value) for value in each.values()] for each in rows]
        say(markdown_table(list(rows[0]), short))
    scores = [each.held_out for each in found.values() if each is not None]
    say(summary([*scores, score_random(loaded, tuning.held_out, "held out")]))
    if rows:  # What was found is told, whatever the disk says.
        write_csv(options.directory / "tune.csv", rows)
    failed = [name for name, each in found.items() if each is None]
    for name in failed:
        say(f"{name}: no trial gave a result", error=True)
    return FAILED if failed else DONE


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
