"""A paper of one experiment, as small as one can be: how often a coin shows heads."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffplan._runs.tables import read_csv, write_csv
from reproductions.common.experiment import Axis, Experiment, Paper, Results, Section
from reproductions.common.paper_numbers import load
from reproductions.common.units import Unit

HERE = Path(__file__).parent
SIDES = {"fair": 0.5, "loaded": 0.9}


@dataclass(frozen=True)
class Throws:
    """How a coin is thrown.

    Attributes:
        coin: Which one.
        count: How often.
    """

    coin: str = "fair"
    count: int = 1000


def throw(directory: Path, settings: Throws, seed: int) -> None:
    """Write the share of heads."""
    generator, chance = random.Random(seed), SIDES[settings.coin]
    heads = sum(generator.random() < chance for _ in range(settings.count))
    row = {"coin": settings.coin, "seed": seed, "heads": heads / settings.count}
    write_csv(directory / "heads.csv", [row])


def units(settings: Throws, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return a series of throws for each seed."""
    made = []
    for seed in seeds:
        folder = directory / settings.coin / f"seed_{seed}"
        run = partial(throw, directory=folder, settings=settings, seed=seed)
        made.append(Unit(f"throws/{settings.coin}/seed_{seed}", run, folder))
    return made


def report(results: Results) -> Section | None:
    """Show the share of heads beside the paper's."""
    paths = sorted(results.runs.glob("*/*/heads.csv"))
    rows = [row for path in paths for row in read_csv(path)]
    if not rows:
        return None
    write_csv(results.output / "heads.csv", rows)
    lines = [
        (row["coin"], row["seed"], load(HERE)["heads"], row["heads"]) for row in rows
    ]
    return Section("Each series is a unit.\n", lines)


PAPER = Paper(
    folder=HERE,
    experiments=(
        Experiment(
            name="throws",
            title="Throws",
            presets={"cpu": Throws, "smoke": partial(Throws, count=10)},
            units=units,
            report=report,
            axes={"coin": Axis(tuple(SIDES))},
        ),
    ),
    columns=("coin", "seed", "paper", "ours"),
)
