"""What other programs answer: git, and children of Python, which may crash in peace."""

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a program answered.

    Attributes:
        good: Whether it ended well.
        text: What it printed; else the last line of its complaint.
    """

    good: bool
    text: str


def ask(*command: str, seconds: float = 120.0, **variables: str) -> Answer:
    """Run a program; one that is absent, crashes or hangs gives an answer as well.

    Args:
        command: The program and its arguments.
        seconds: It is stopped after so many.
        variables: Of its environment, beside those of this process.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **variables},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(False, f"no answer within {seconds:g} seconds")
    except OSError as error:
        return Answer(False, str(error))
    if done.returncode == 0:
        return Answer(True, done.stdout.strip())
    # What Python complains of while it ends, a half-made object, comes after the cause.
    cause = done.stderr.partition("\nException ignored in")[0]
    complaint = cause.strip().splitlines()
    return Answer(False, complaint[-1] if complaint else f"status {done.returncode}")


def source_version() -> dict[str, Any]:
    """Return the git commit of this source tree and whether files were changed."""

    def git(*arguments: str) -> Answer:
        return ask("git", "-C", str(Path(__file__).parent), *arguments, seconds=10)

    # A package installed inside some other repository is not its source.
    tracked = git("ls-files", "--error-unmatch", __file__)
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    if not (tracked.good and commit.good and changes.good):
        return {"commit": None, "dirty": None}
    return {"commit": commit.text, "dirty": bool(changes.text)}
