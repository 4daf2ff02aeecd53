"""Draws the learning curves of runs, beside a short page with their results.

Each RUN is the folder of `diffplan train`, finished or not. Runs that differ in their
seed alone are one curve.
"""

import argparse
from pathlib import Path

from diffplan._cli import DONE, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("directories", nargs="+", type=Path, metavar="RUN", help="their folders")
    add("--output", type=Path, metavar="FOLDER", help="of the page; the first RUN")


def run(options: argparse.Namespace) -> int:
    """Write the page; return the exit status."""
    from diffplan._runs.page import write_page

    output = options.output or options.directories[0]
    say(str(write_page(options.directories, output)))
    return DONE
