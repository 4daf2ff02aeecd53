"""Contenders of a benchmark, each in a process and an environment of its own."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parents[1] / ".nox" / "peers"
"""Where `nox -s bench` fills them."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def interpreter(environments: Path, name: str) -> str:
    """Return the Python of a peer's environment.

    Raises:
        RuntimeError: there is none.
    """
    scripts = Path(sysconfig.get_path("scripts")).name  # bin, or Scripts
    python = environments / name / scripts / Path(sys.executable).name
    if not python.exists():
        raise RuntimeError("not installed: nox -s bench does that")
    return str(python)


class Worker:
    """A contender's process; see `peers/_lines.py` for how it talks.

    Args:
        python: The interpreter of its environment.
        script: The name of its file in `peers`, without the ending.
    """

    def __init__(self, python: str, script: str) -> None:
        # A file, for a pipe that fills up would block it; closed by `close`.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, str(FOLDER / f"{script}.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            RuntimeError: the worker failed, with what it says about that.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            errors = self.errors.read().strip().splitlines() or ["no answer"]
            raise RuntimeError(errors[-1])
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.errors.close()
