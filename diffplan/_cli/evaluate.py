"""Plays fresh episodes with what a run has learnt, beside random actions.

RUN is the folder of `diffplan train`. Other planners are tried with the same model by
planner=NAME and KEY=VALUE, such as planner.iterations=5. The returns are printed with
their mean's 95 % interval over episodes, and written as CSV, one row an episode.
"""

import argparse
from pathlib import Path

from diffplan._cli import DONE, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("directory", type=Path, metavar="RUN", help="its folder")
    add(
        "words", nargs="*", default=(), metavar="KEY=VALUE", help="settings of planning"
    )
    add("--episodes", type=int, default=10, metavar="N", help="how many; 10")
    add("--output", type=Path, metavar="FILE", help="the rows; RUN/evaluation.csv")


def run(options: argparse.Namespace) -> int:
    """Play and tell; return the exit status."""
    from diffplan._checks import require_count
    from diffplan._runs.evaluation import score, score_random, summary
    from diffplan._runs.folder import load_run
    from diffplan._runs.tables import write_csv

    episodes = require_count("--episodes", options.episodes)
    loaded = load_run(options.directory, options.words)
    scores = [play(loaded, episodes, "evaluation") for play in (score, score_random)]
    output = options.output or options.directory / "evaluation.csv"
    say(summary(scores))  # Before anything is written, which may fail.
    write_csv(output, [row for each in scores for row in each.rows()])
    say(f"{loaded.settings.task}, {loaded.rounds - 1} rounds; {output}")
    return DONE
