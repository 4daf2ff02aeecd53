"""The command line: `diffplan WORD`, where each file of this folder is one word.

The docstring of a file is its help, and the first line of it stands in the list. It has
`configure(parser)`, which adds options, and `run(options)`, which returns the exit
status. Only the file of the word that is given is imported: one word works where
another lacks a package.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from diffplan._checks import missing
from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    FileError,
    MissingDependencyError,
    NonFiniteError,
    UnknownNameError,
    WorkerError,
)

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 64, 130

# Damaged files and numbers that diverge are arguments only to the library.
_FAILURES = FileError, NonFiniteError, MissingDependencyError, WorkerError, OSError
_ENDING = (
    "exit status: 0 done, 1 something is wrong, 64 wrong arguments, 130 after Ctrl-C"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _main(given)
    except (DiffplanError, OSError) as error:
        say(f"error: {error}", error=True)
        return FAILED if isinstance(error, _FAILURES) else WRONG
    except KeyboardInterrupt:
        say("interrupted", error=True)
        return INTERRUPTED


def say(text: str, *, error: bool = False) -> None:
    """Write a line, at once."""
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _main(given: list[str]) -> int:
    words = {file.stem: file for file in Path(__file__).parent.glob("[!_]*.py")}
    word = given[0] if given else ""
    if word in words:
        parser = _parser(f"diffplan {word}", _help(words[word]))
        module = importlib.import_module(f"{__name__}.{word}")
        module.configure(parser)
        options = parser.parse_intermixed_args(given[1:])
        try:
            return int(module.run(options))
        except ModuleNotFoundError as error:
            if (error.name or "diffplan").partition(".")[0] == "diffplan":
                raise
            raise missing(f"diffplan {word} needs {error.name}", "suite") from error
    if word.startswith("-"):
        lines = [f"  {name:<9}{_help(words[name]).splitlines()[0]}" for name in words]
        told = "\n".join(["words, each with a --help of its own:", *sorted(lines)])
        parser = _parser("diffplan", told)
        parser.add_argument("word", metavar="WORD", help="one of these")
        parser.parse_args(given)
    raise UnknownNameError(
        f"WORD: expected one of {', '.join(sorted(words))}, got {word or 'none'}"
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are those of this program."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message)


def _parser(name: str, told: str) -> _Parser:
    as_it_is = argparse.RawDescriptionHelpFormatter
    # An abbreviated option would mean something else once another one joins.
    return _Parser(
        name, None, told, _ENDING, formatter_class=as_it_is, allow_abbrev=False
    )


def _help(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or file.stem
