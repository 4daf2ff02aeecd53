"""The command line: `python -m reproductions.coin --help`."""

import sys

from reproductions.coin.paper import PAPER

from reproductions.common.command import Command

if __name__ == "__main__":
    sys.exit(Command(PAPER).main())
