"""The command line: `python -m reproductions.grad_mpc --help`."""

import sys

from reproductions.common.command import Command
from reproductions.grad_mpc.paper import PAPER

if __name__ == "__main__":
    sys.exit(Command(PAPER).main())
