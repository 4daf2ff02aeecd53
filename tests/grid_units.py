"""Short units that train in rounds, with checkpoints, as those of the papers do."""

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffplan.training.logging import read_metrics
from diffplan.training.run import run_rounds
from reproductions.common.units import Unit

ROUNDS = 6


class Counter:
    """Counts its rounds; a number lost or played twice shows in `metrics.csv`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.count = seconds, 0

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        time.sleep(self.seconds)
        self.count += 1
        return self.count, {"count": self.count}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])


def train(directory: Path, seed: int, seconds: float) -> None:
    """Train, and note each attempt: its process and, on Ray, its machine."""
    with (directory / "attempts.txt").open("a") as file:
        file.write(f"{os.getpid()} {node()}\n")
    run_rounds(
        Counter(seconds),
        directory,
        config={},
        seed=seed,
        rounds=ROUNDS,
        tensorboard=False,
    )


def evaluate(directory: Path, model: Path, seed: int) -> None:
    """Read what was trained."""
    rows = read_metrics(model / "metrics.csv")
    (directory / "score.json").write_text(rows[-1]["value"])


def node() -> str:
    """Return Ray's name for this machine, if it is one of Ray's."""
    try:
        import ray
    except ImportError:
        return "-"
    inside = ray.is_initialized()
    return str(ray.get_runtime_context().get_node_id()) if inside else "-"


def trained(root: Path, count: int, seconds: float = 0.3) -> list[Unit]:
    """Return units that need nothing of each other."""
    return [
        Unit(
            f"model/seed_{seed}",
            partial(
                train,
                directory=root / "model" / f"seed_{seed}",
                seed=seed,
                seconds=seconds,
            ),
            root / "model" / f"seed_{seed}",
        )
        for seed in range(count)
    ]


def grid(root: Path, seconds: float = 0.3) -> list[Unit]:
    """Return two models and the score of each."""
    models = trained(root, 2, seconds)
    folders = [root / "score" / f"seed_{seed}" for seed in (0, 1)]
    scores = [
        Unit(
            f"score/seed_{seed}",
            partial(evaluate, directory=folder, model=model.directory, seed=seed),
            folder,
            (model.name,),
        )
        for seed, (model, folder) in enumerate(zip(models, folders, strict=True))
    ]
    return [*models, *scores]


def attempts(unit: Unit) -> list[list[str]]:
    """Return process and machine of each attempt."""
    path = unit.directory / "attempts.txt"
    return (
        [line.split() for line in path.read_text().splitlines()]
        if (path.exists())
        else []
    )


def rounds(unit: Unit) -> list[tuple[int, float]]:
    """Return round and count of each row of the metrics."""
    path = unit.directory / "metrics.csv"
    rows = read_metrics(path) if path.exists() else []
    return [(int(row["round"]), float(row["value"])) for row in rows]


COMPLETE = [(index, index + 1.0) for index in range(ROUNDS)]
"""What `rounds` returns when nothing is lost and nothing is there twice."""


def wait_until(true: Any, seconds: float = 120.0) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.05)
