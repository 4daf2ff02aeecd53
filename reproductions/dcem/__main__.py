"""The command line: `python -m reproductions.dcem --help`."""

import sys

from reproductions.common.command import Command
from reproductions.dcem.paper import PAPER

if __name__ == "__main__":
    sys.exit(Command(PAPER).main())
