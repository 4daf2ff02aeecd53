"""A paper of two stages whose units take no time; they are finished in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reproductions.common.command import Reproduction, Work
from reproductions.common.config import apply_overrides
from reproductions.common.page import write_page
from reproductions.common.provenance import known
from reproductions.common.runs import folders
from reproductions.common.tables import markdown_table, read_csv, write_csv
from reproductions.common.units import Unit, fingerprints, read_record
from reproductions.common.worker import write_done

STAGES = ("model", "score")


@dataclass(frozen=True)
class Settings:
    """Settings of the toy.

    Attributes:
        size: Of the model.
        trials: Of each score.
    """

    size: int = 3
    trials: int = 8


def train(directory: Path, size: int, seed: int) -> None:
    """Write a model."""
    (directory / "model.txt").write_text(f"{size * (seed + 1)}")


def score(directory: Path, model: Path, trials: int, seed: int) -> None:
    """Write the score of a model."""
    value = int((model / "model.txt").read_text()) / trials
    rows = [{"seed": seed, "trial": n, "score": value} for n in range(trials)]
    write_csv(directory / "score.csv", rows)


def work(preset: str, overrides: Sequence[str]) -> Work:
    """Return the units: for each seed a model and its score."""
    config = apply_overrides(Settings(trials=2 if preset == "smoke" else 8), overrides)

    def units(
        stages: Sequence[str] | None, seeds: Sequence[int] | None, directory: Path
    ) -> list[Unit]:
        made = []
        for seed in (0, 1) if seeds is None else seeds:
            model, tests = (directory / name / f"seed_{seed}" for name in STAGES)
            first = partial(train, directory=model, size=config.size, seed=seed)
            then = partial(
                score, directory=tests, model=model, trials=config.trials, seed=seed
            )
            made.append(Unit(f"model/seed_{seed}", first, model))
            made.append(
                Unit(f"score/seed_{seed}", then, tests, (f"model/seed_{seed}",))
            )
        chosen = stages or STAGES
        return [unit for unit in made if unit.name.partition("/")[0] in chosen]

    unchosen = "task: expected task=NAME" if preset == "paper" else ""
    return Work(config, units, unchosen)


def report(directory: Path, output: Path, preset: str) -> Path:
    """Publish the scores, seed by seed, and show all that are published."""
    path = output / "scores.csv"
    rows = {row["seed"]: row for row in (read_csv(path) if path.exists() else [])}
    for folder in folders(directory):
        if (folder / "score.csv").exists():
            found = read_csv(folder / "score.csv")
            mean = sum(float(row["score"]) for row in found) / len(found)
            rows[found[0]["seed"]] = {"seed": found[0]["seed"], "score": f"{mean}"}
    if rows:
        write_csv(path, list(rows.values()))
    table = markdown_table(["seed", "score"], [row.values() for row in rows.values()])
    return write_page(output, "Toy", "toy", preset, [table], known(directory, output))


def paper(home: Path) -> Reproduction:
    """Return the command line, with a folder for what is published."""
    return Reproduction(
        name="toy",
        about="A toy.",
        presets=("cpu", "smoke", "paper"),
        stages=STAGES,
        seeds="0,1",
        work=work,
        report=report,
        home=home,
    )


def finish(
    directory: Path,
    seeds: Sequence[int] = (0, 1),
    overrides: Sequence[str] = (),
    preset: str = "cpu",
) -> list[Unit]:
    """Do in this process what the command does in others; return the units."""
    units = list(work(preset, overrides).units(None, seeds, directory / preset))
    for unit in units:
        complete(unit, units)
    return units


def complete(unit: Unit, units: Sequence[Unit]) -> str:
    """Make one unit; return why it is made again, if it is."""
    places = {each.name: each.directory for each in units}
    needs = {name: read_record(places[name]) or {} for name in unit.needs}
    why = unit.begin(needs)
    assert isinstance(unit.run, partial)
    unit.run()
    (unit.directory / "seconds.txt").write_text("1.0\n")
    write_done(unit, fingerprints(needs))
    return why
