"""The command line: `python -m reproductions.latco --help`."""

import sys

from reproductions.common.command import Command
from reproductions.latco.paper import PAPER

if __name__ == "__main__":
    sys.exit(Command(PAPER).main())
