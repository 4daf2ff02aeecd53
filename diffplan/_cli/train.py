"""Trains a world model online on any task, with a planner that acts.

TASK is an id of Gymnasium (Pendulum-v1), dm_control/NAME or metaworld/NAME. Behind it
stand settings, planner=NAME and KEY=VALUE; --settings lists all, with their meaning.
Ctrl-C stops: the same command again goes on from the last checkpoint, with the same
numbers.
"""

import argparse
from pathlib import Path

from diffplan._cli import DONE, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("task", metavar="TASK", help="its name")
    add("words", nargs="*", default=(), metavar="KEY=VALUE", help="settings")
    add("--directory", type=Path, metavar="RUN", help="receives the run")
    add("--seed", type=int, default=0, help="of weights, episodes and planning; 0")
    add("--settings", action="store_true", help="list all settings and stop")
    trackers = ("wandb", "trackio")
    add("--tracker", choices=trackers, default="", help="told the metrics too")
    add("--quiet", action="store_true", help="show no progress")


def run(options: argparse.Namespace) -> int:
    """Train to the end; return the exit status."""
    from diffplan._runs.config import describe
    from diffplan._runs.folder import train
    from diffplan._runs.run import PLANNERS, configured, defaults
    from diffplan.errors import ArgumentError

    made = configured(defaults(options.task), options.words)
    if options.settings:
        say(f"  planner={made.planner_name}\n      One of {', '.join(PLANNERS)}.")
        say(describe(made))
        return DONE
    if options.directory is None:
        raise ArgumentError("--directory: expected the folder of the run, got none")
    if options.directory.exists() and not options.directory.is_dir():
        raise ArgumentError(
            f"--directory: expected a folder, got {options.directory}, a file"
        )
    more = {"tracker": options.tracker, "quiet": options.quiet}
    train(made, options.seed, options.directory, **more)
    rounds = f"the random round of {made.task} and {made.training.rounds} more"
    say(f"{options.directory}: {rounds} are done")
    return DONE
