"""Tables and figures of stage (b), made from its run folders."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import COLOURS, draw_runs, new_figure, save_figure
from diffplan._runs.metrics import Rounds
from diffplan._runs.tables import markdown_table, read_csv, write_csv, write_text
from reproductions.common.provenance import LEGEND, Records, mark_of, source_of
from reproductions.common.stages import DONE, SETTINGS
from reproductions.common.statistics import Estimate, mean
from reproductions.dcem import paper_numbers

CELLS, EXPERT = "cartpole.csv", "cartpole_expert.json"
SURFACES = "cartpole_surface.png"
PAPER_UPDATES = 100_000
LAST_POINTS = 10
"""Validations at the end of a run whose mean is the cost at the end (Fig. 9)."""


@dataclass(frozen=True)
class Cell:
    """One latent size with one temperature, as far as it was trained.

    Attributes:
        latent: Size of the latent space.
        temperature: Of DCEM; 0 is CEM.
        updates: At which validation took place, increasing.
        costs: Validation costs `[seeds, validations]`.
        cpu_seconds: Of the processor, for all seeds together.
        tests: Costs of the last and the best decoders, by name, for each seed; empty
            while they are not measured.
        folder: Of the tests.
        done: Whether the training is finished.
    """

    latent: int
    temperature: float
    updates: np.ndarray
    costs: np.ndarray
    cpu_seconds: float
    tests: dict[str, list[float]]
    folder: Path
    done: bool

    @classmethod
    def read(cls, directory: Path) -> "Cell":
        """Read a training's folder and that of its tests, if there is one."""
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
        rounds = Rounds.read(directory)
        errors = rounds.members("error")
        folder = directory.with_name(f"{directory.name}_tests")
        tests: dict[str, list[float]] = {}
        if (folder / DONE).exists():
            for row in read_csv(folder / "costs.csv"):
                for name, value in row.items():
                    tests.setdefault(name, []).append(float(value))
        return cls(
            settings["latent"],
            settings["temperature"],
            np.array(rounds.steps),
            np.array(list(errors.values())),
            rounds.metrics[-1]["time/cpu_seconds"],
            tests,
            folder,
            (directory / DONE).exists(),
        )

    def improvement(self, expert: float) -> Estimate:
        """Return the factor by the paper's definition: lowest validation cost."""
        return mean([float(cost) / expert for cost in self.costs.min(axis=1)])

    def final_cost(self) -> Estimate:
        """Return the mean of the last validation costs."""
        return mean([float(c) for c in self.costs[:, -LAST_POINTS:].mean(axis=1)])

    def honest_improvement(self, expert: float) -> Estimate | None:
        """Return the factor of the last decoders on fresh states."""
        found = self.tests.get("last_fresh")
        return mean([cost / expert for cost in found]) if found else None


def write(directory: Path, output: Path, records: Records) -> str:
    """Publish the cells that are there; return Markdown of all that are published.

    Args:
        directory: Of the stage's runs.
        output: Receives `cartpole.csv`, `cartpole_expert.json` and figures. Its rows of
            cells that have no run stay.
        records: Of the units.
    """
    path = directory / "expert" / "expert.json"
    if path.exists():
        expert = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(_summary(expert), indent=2) + "\n"
        write_text(output / EXPERT, text)
        folders = sorted(directory.glob("latent_*/metrics.csv"))
        cells = [Cell.read(m.parent) for m in folders if Rounds.read(m.parent).steps]
        cells.sort(key=lambda cell: (cell.latent, -cell.temperature))
        if cells:
            _publish(cells, expert, records, output)
    return _section(output, records)


def read_cells(output: Path) -> list[dict[str, str]]:
    """Return the published rows, by latent size and temperature."""
    path = output / CELLS
    rows = read_csv(path) if path.exists() else []
    return sorted(rows, key=lambda r: (int(r["latent"]), -float(r["temperature"])))


def _summary(expert: dict[str, Any]) -> dict[str, float]:
    costs = expert["validation"]
    ours = mean(costs)
    return {
        "repeats": len(costs),
        "cost": ours.value,
        "low": ours.low,
        "high": ours.high,
        "least": min(costs),
        "most": max(costs),
        "fresh": expert["fresh"],
    }


def _publish(
    cells: list[Cell], expert: dict[str, Any], records: Records, output: Path
) -> None:
    validated = mean(expert["validation"]).value
    rows = {_key(row): row for row in read_cells(output)}
    for cell in cells:
        row = {name: str(value) for name, value in _row(cell, expert, records).items()}
        rows[_key(row)] = row
    write_csv(output / CELLS, list(rows.values()))
    _draw_curves(cells, validated, output / "cartpole_curves.png")
    _publish_surfaces(cells, output)


def _key(row: Mapping[str, str]) -> tuple[int, float]:
    return int(row["latent"]), float(row["temperature"])


def _row(cell: Cell, expert: dict[str, Any], records: Records) -> dict[str, object]:
    ours = cell.improvement(mean(expert["validation"]).value)
    honest, final = cell.honest_improvement(expert["fresh"]), cell.final_cost()
    name = f"cartpole/{cell.folder.name.removesuffix('_tests')}"
    source = source_of(records, name, f"{name}_tests")
    return {
        "latent": cell.latent,
        "temperature": cell.temperature,
        "updates": int(cell.updates[-1]),
        "seeds": len(cell.costs),
        "improvement": ours.value,
        "improvement_low": ours.low,
        "improvement_high": ours.high,
        "honest": honest.value if honest else "",
        "honest_low": honest.low if honest else "",
        "honest_high": honest.high if honest else "",
        "final_cost": final.value,
        "final_cost_low": final.low,
        "final_cost_high": final.high,
        "cpu_seconds": cell.cpu_seconds,
        "source": source if cell.done else f"unfinished, {source}",
    }


# The page


def _section(output: Path, records: Records) -> str:
    path = output / EXPERT
    if not path.exists():
        return ""
    parts = [_expert_section(json.loads(path.read_text(encoding="utf-8")), records)]
    rows = read_cells(output)
    if rows:
        parts.append(_improvement_section(rows))
    if (output / SURFACES).exists():
        parts.append(
            "### Learned reward surfaces (Fig. 10)\n\n"
            f"![Reward surfaces]({SURFACES})\n\n"
            "*Reward (bright is high) over the latent square; rows are initial states, "
            "columns temperatures, first seed.*\n"
        )
    return "\n".join(parts)


def _expert_section(expert: dict[str, float], records: Records) -> str:
    published = paper_numbers.load()["cartpole"]["expert_cost"]
    ours = Estimate(expert["cost"], expert["low"], expert["high"], 0)
    difference = f"{100 * (ours.value / published - 1):+.2f} %"
    source = source_of(records, "cartpole/expert")
    row = [f"{published:.3f}", ours.number(3) + mark_of(source), difference]
    return (
        "### The expert: CEM over actions\n\n"
        + markdown_table(["paper", "ours [95 %]", "difference"], [row])
        + f"\nMean cost on the validation states, over {expert['repeats']} repeats, of "
        f"which single ones reach from {expert['least']:.3f} to {expert['most']:.3f}: "
        "the paper's number is one such repeat. On the fresh states: "
        f"{expert['fresh']:.3f}. Source: {source}.\n"
    )


def _improvement_section(rows: Sequence[Mapping[str, str]]) -> str:
    header = [
        "latent",
        "τ",
        "updates",
        "n, seeds",
        "factor: paper (Fig. 5)",
        "ours, same definition [95 %]",
        "ours, last decoders on fresh states [95 %]",
        "cost at the end: paper (Fig. 9)",
        "ours [95 %]",
        "CPU time per update of all seeds",
        "source",
    ]
    return (
        "### Improvement over the expert (Fig. 5 and 9)\n\n"
        + markdown_table(header, [_line(row) for row in rows])
        + "\nThe paper's factor takes the lowest of all validation costs of a run, "
        "which is optimistic; the other one is of the decoders at the end of training "
        "on states that nothing was chosen with. A run that is a share of the paper's "
        "updates says so; its numbers are no test of the paper's. "
        f"{LEGEND}\n\n"
        "![Validation cost](cartpole_curves.png)\n\n"
        "*Validation cost while training (thin: seeds, thick: mean; dashed: the "
        "expert; cross: the paper at the end).*\n"
    )


def _line(row: Mapping[str, str]) -> list[str]:
    published = paper_numbers.load()["cartpole"]
    key, tau = row["latent"], f"{float(row['temperature']):g}"
    paper = published["improvement"].get(key, {}).get(tau)
    paper_cost = published["final_cost"].get(key, {}).get(tau)
    return [
        *(key + mark_of(row["source"]), tau, share(int(row["updates"])), row["seeds"]),
        f"{paper[0]:.3f} [{paper[1]:.3f}, {paper[2]:.3f}]" if paper else "–",
        estimate(row, "improvement").number(3),
        estimate(row, "honest").number(3) if row["honest"] else "–",
        "–" if paper_cost is None else f"{paper_cost:.2f}",
        estimate(row, "final_cost").number(2),
        f"{1000 * float(row['cpu_seconds']) / int(row['updates']):.0f} ms",
        row["source"],
    ]


def estimate(row: Mapping[str, str], name: str) -> Estimate:
    """Return one of the numbers of a published row with its interval."""
    low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
    return Estimate(float(row[name]), low, high, int(row["seeds"]))


def share(updates: int) -> str:
    """Return how much of the paper's training a number of updates is, in words."""
    return "all" if updates >= PAPER_UPDATES else f"{updates:,} of {PAPER_UPDATES:,}"


# Figures


def _publish_surfaces(cells: list[Cell], output: Path) -> None:
    paths = [
        (cell, cell.folder / "surface.npz")
        for cell in cells
        if (cell.folder / "surface.npz").exists()
    ]
    if not paths:
        return
    contents = []
    for cell, path in paths:
        with np.load(io.BytesIO(path.read_bytes())) as content:
            contents.append((cell, content["costs"][0]))
    _draw_surfaces(contents, output / SURFACES)


def _draw_curves(cells: list[Cell], expert: float, path: Path) -> None:
    latents = sorted({cell.latent for cell in cells})
    temperatures = sorted({cell.temperature for cell in cells}, reverse=True)
    published = paper_numbers.load()["cartpole"]["final_cost"]
    figure, (axes,) = new_figure(1, len(latents), size=(4.0, 3.2))
    for axis, latent in zip(axes, latents, strict=True):
        for cell in cells:
            if cell.latent != latent:
                continue
            colour = COLOURS[temperatures.index(cell.temperature)]
            tau = f"{cell.temperature:g}"
            steps = [cell.updates] * len(cell.costs)
            draw_runs(axis, steps, list(cell.costs), f"τ = {tau}", colour)
            paper = published.get(str(latent), {}).get(tau)
            if paper is not None:
                axis.plot([PAPER_UPDATES], [paper], "x", color=colour)
        axis.axhline(expert, color="black", linestyle="--", linewidth=1)
        axis.set_title(f"latent size {latent}", fontsize=10)
        axis.set_xlabel("updates")
        axis.set_ylabel("validation cost")
        axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw_surfaces(contents: list[tuple[Cell, np.ndarray]], path: Path) -> None:
    states = len(contents[0][1])
    figure, axes = new_figure(states, len(contents), size=(2.4, 2.2))
    for row in range(states):
        for column, (cell, costs) in enumerate(contents):
            axis = axes[row, column]
            axis.imshow(-costs[row].T, origin="lower", extent=(-1, 1, -1, 1))
            axis.grid(False)
            if row == 0:
                axis.set_title(f"τ = {cell.temperature:g}", fontsize=9)
    save_figure(figure, path)
