"""`run.json`: what a run was, so that its numbers can be traced and repeated."""

import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffplan._files import reading
from diffplan._outside import source_version
from diffplan.training._files import read_json, write_json

PACKAGES = (
    "diffplan",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "dm_control",
    "metaworld",
    "theseus-ai",
)


class RunRecord:
    """The file `run.json` of a run; each start of the program adds a session to it.

    Args:
        directory: The run's folder.
        config: A dataclass or mapping, with all settings resolved.
        seed: The run's seed.

    Example:
        >>> record = RunRecord("run", {"rounds": 10}, seed=0)
        >>> record.begin(first_round=0)  # doctest: +SKIP
        >>> record.end("completed")  # doctest: +SKIP
    """

    def __init__(self, directory: Path | str, config: Any, seed: int) -> None:
        self.path = Path(directory) / "run.json"
        self.config, self.seed = plain(config), seed
        self._content: dict[str, Any] = {}

    def begin(self, first_round: int) -> None:
        """Write the record at the start, or restart, of the run.

        Raises:
            FileError: the run goes on, and the record of its earlier sessions is
                damaged.
        """
        sessions = []
        if first_round > 0 and self.path.exists():
            expected = "the record of this run (delete it to go on without)"
            with reading(self.path, expected):
                sessions = list(read_json(self.path, expected)["sessions"])
        session = {
            "first_round": first_round,
            "start": _now(),
            "versions": package_versions(),
            "source": source_version(),
            "hardware": hardware(),
        }
        self._content = {
            "seed": self.seed,
            "config": self.config,
            "status": "running",
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "sessions": [*sessions, session],
        }
        write_json(self.path, self._content)

    def end(self, status: str) -> None:
        """Write end, wall-clock seconds and status ("completed" or "interrupted")."""
        session = self._content["sessions"][-1]
        session["end"] = _now()
        start = datetime.fromisoformat(session["start"])
        elapsed = datetime.fromisoformat(session["end"]) - start
        session["wall_seconds"] = elapsed.total_seconds()
        self._content["status"] = status
        write_json(self.path, self._content)


def plain(value: Any) -> Any:
    """Return configurations as what JSON knows; anything unknown as its `repr`.

    JSON does not know infinity: it becomes "inf", which reads as a number again.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, Path) else repr(value)


def package_versions() -> dict[str, str]:
    """Return Python's version and those of the installed packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return processor, cores, threads that torch uses, and GPUs."""
    gpus = [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
