"""What all benchmarks share: a results file that says where its numbers come from."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from diffplan._outside import source_version
from diffplan.training._run_record import hardware, package_versions

RESULTS = Path(__file__).parent / "results"


class Parser(argparse.ArgumentParser):
    """A benchmark takes `--quick`, a folder for its results, and what else it wants.

    Args:
        about: What is measured, and how.
        quick: What `--quick` does.
    """

    def __init__(self, about: str | None, quick: str) -> None:
        super().__init__(description=about)
        self.add_argument("--quick", action="store_true", help=quick)
        told = "folder for results; benchmarks/results, or a temporary one if quick"
        self.add_argument("--output", type=Path, help=told)

    def parse_args(self, *given: Any) -> argparse.Namespace:
        """Return the arguments; quick results stay away from those of the pages."""
        arguments = super().parse_args(*given)
        if arguments.output is None:
            quick = arguments.quick
            arguments.output = Path(tempfile.mkdtemp()) if quick else RESULTS
        return arguments


def positive(text: str) -> int:
    """Return an argument that is a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text}")
    return int(text)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a benchmark's arguments without folders, which say nothing elsewhere."""
    given = vars(arguments).items()
    return {name: value for name, value in given if not isinstance(value, Path)}


def per_iteration(run: Callable[[int], None], short: int, long: int) -> float:
    """Return seconds per iteration: the slope between two iteration counts."""
    started = time.perf_counter()
    run(short)
    middle = time.perf_counter()
    run(long)
    ended = time.perf_counter()
    return ((ended - middle) - (middle - started)) / (long - short)


def write_results(
    path: Path,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    commit: str | None = None,
) -> None:
    """Write results with command, settings, versions, commit, hardware and date.

    Args:
        path: The JSON file; its folder is made if need be.
        config: The benchmark's settings.
        results: What was measured.
        commit: Of the sources, where they came without their repository.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    source = {"commit": commit, "dirty": None} if commit else source_version()
    content = {
        "command": _command(),
        "config": dict(config),
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "source": source,
        "hardware": hardware(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": dict(results),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _command() -> list[str]:
    """Return how the script was called, without options that name a place here."""
    words = [Path(sys.argv[0]).name]
    for word in sys.argv[1:]:
        if not Path(word).is_absolute():
            words.append(word)
        elif words[-1].startswith("--"):
            words.pop()
    return words
