"""A paper of two stages whose units take no time; they are finished in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffplan._runs.tables import markdown_table, read_csv, write_csv
from reproductions.common import ledger
from reproductions.common.experiment import (
    Axis,
    Experiment,
    Paper,
    Results,
    Section,
    Selection,
)
from reproductions.common.provenance import known
from reproductions.common.runs import folders
from reproductions.common.units import Unit, fingerprints, read_record
from reproductions.common.worker import write_done


@dataclass(frozen=True)
class Model:
    """Settings of the model.

    Attributes:
        size: Of the model.
    """

    size: int = 3


@dataclass(frozen=True)
class Score:
    """Settings of the score.

    Attributes:
        trials: Of each score.
    """

    trials: int = 8


def train(directory: Path, size: int, seed: int) -> None:
    """Write a model."""
    (directory / "model.txt").write_text(f"{size * (seed + 1)}")


def score(directory: Path, model: Path, trials: int, seed: int) -> None:
    """Write the score of a model."""
    value = int((model / "model.txt").read_text()) / trials
    rows = [{"seed": seed, "trial": n, "score": value} for n in range(trials)]
    write_csv(directory / "score.csv", rows)


def models(settings: Model, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return a model for each seed."""
    made = []
    for seed in seeds:
        folder = directory / f"seed_{seed}"
        run = partial(train, directory=folder, size=settings.size, seed=seed)
        made.append(Unit(f"model/seed_{seed}", run, folder))
    return made


def scores(settings: Score, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return the score of each model."""
    made = []
    for seed in seeds:
        folder, model = (
            root / f"seed_{seed}" for root in (directory, directory.parent / "model")
        )
        run = partial(
            score, directory=folder, model=model, trials=settings.trials, seed=seed
        )
        made.append(Unit(f"score/seed_{seed}", run, folder, (f"model/seed_{seed}",)))
    return made


def report(results: Results) -> Section:
    """Publish the scores, seed by seed, and show all that are published."""
    path = results.output / "scores.csv"
    rows = {row["seed"]: row for row in (read_csv(path) if path.exists() else [])}
    for folder in folders(results.runs):
        if (folder / "score.csv").exists():
            found = read_csv(folder / "score.csv")
            mean = sum(float(row["score"]) for row in found) / len(found)
            rows[found[0]["seed"]] = {"seed": found[0]["seed"], "score": f"{mean}"}
            row = {"experiment": "score", "unit": f"score/{folder.name}"}
            ledger.add(results.output, [{**row, "episode_return": mean}])
    if rows:
        write_csv(path, list(rows.values()))
    table = markdown_table(["seed", "score"], [row.values() for row in rows.values()])
    return Section(table)


def paper(root: Path) -> Paper:
    """Return the paper, in a folder of its own."""
    folder = root / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paper.toml").write_text(
        'name = "Toy"\ntitle = "A toy"\nauthors = "None"\nvenue = "nowhere"\n'
    )
    presets = ("cpu", "smoke")
    model = Experiment(
        name="model",
        title="Models",
        presets=dict.fromkeys(presets, Model),
        units=models,
        report=lambda results: None,
        seeds=(0, 1),
    )
    score = Experiment(
        name="score",
        title="Scores",
        presets={"cpu": Score, "smoke": partial(Score, trials=2)},
        units=scores,
        report=report,
        seeds=(0, 1),
    )
    late = Experiment(
        name="late",
        title="Days of work",
        presets={"paper": lambda task="a": Model(len(task))},
        units=models,
        report=report,
        axes={"task": Axis(("a", "bb"), needed=("paper",))},
    )
    return Paper(folder, (model, score, late))


def finish(
    directory: Path,
    seeds: Sequence[int] = (0, 1),
    overrides: Sequence[str] = (),
    preset: str = "cpu",
) -> list[Unit]:
    """Do in this process what the command does in others; return the units."""
    directory.mkdir(parents=True, exist_ok=True)
    chosen = Selection(seeds=seeds, settings=overrides)
    units = paper(directory).units(preset, chosen, directory / preset)
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


def results_of(directory: Path, output: Path, preset: str = "cpu") -> Results:
    """Return what an experiment's report is given of a run folder."""
    output.mkdir(parents=True, exist_ok=True)
    return Results(directory, output, preset, known(directory, output))
