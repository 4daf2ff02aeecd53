"""Tables and figures of stage (a), made from its run folders."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import COLOURS, draw_runs, new_figure, save_figure
from diffplan._runs.metrics import Rounds
from diffplan._runs.tables import markdown_table, read_csv, write_text
from reproductions.common import ledger
from reproductions.common.provenance import LEGEND, Records, mark, source_of
from reproductions.common.statistics import Estimate, mean
from reproductions.dcem import paper_numbers
from reproductions.dcem.regression_config import METHODS

NAMES = {"gd": "unrolled GD", "dcem": "DCEM"}
COLOUR = dict(zip(METHODS, COLOURS, strict=False))
PAPER_UPDATES = 100_000
TRAINED_ITERATIONS = 10
SHOWN_ITERATIONS = (1, 5, 10, 20)
"""Numbers of iterations whose predictions are drawn."""

EXPERIMENT = "regression"

SURFACES = """\
### Energy surfaces and predictions (Fig. 1 and 7)

![Energy surfaces](regression_surface.png)

*Learned energies E(x, y), scaled to 0 … 1 in each column, as log(E + 1e-6) from -10 \
(dark) to 0. White: y = x sin x. Dashed: predictions after 10 iterations. Last column: \
predictions of the first seed after other numbers of iterations.*
"""

Curves = dict[int, list[float]]
"""Errors of all seeds, by updates or iterations."""


def write(directory: Path, output: Path, records: Records) -> str:
    """Publish the trainings and tests that are there; return Markdown of all published.

    Args:
        directory: Of the stage's runs.
        output: Receives rows of the ledger, `regression.json` and figures. What it
            holds of methods that have no run stays.
        records: Of the units.
    """
    entries = list(_entries(directory))
    ledger.add(output, entries)
    curves, ablations = (read_curves(output, key) for key in ("update", "iterations"))
    if curves:
        _publish(curves, ablations, output)
    tested = {str(row["planner"]) for row in entries if row["unit"].endswith("_tests")}
    if tested >= ablations.keys() > set():
        _publish_surfaces(directory, output)
    return _section(output, records)


def read_curves(output: Path, key: str) -> dict[str, Curves]:
    """Return the published errors of all seeds, by method and update or iterations.

    Args:
        output: Of an earlier report.
        key: update or iterations.
    """
    found: dict[str, Curves] = {}
    for row in ledger.read(output, EXPERIMENT):
        kind, _, number = row["episode"].partition(" ")
        if kind == key:
            curve = found.setdefault(row["planner"], {})
            curve.setdefault(int(number), []).append(float(row["outcome"]))
    return {method: found[method] for method in METHODS if method in found}


def _publish(
    curves: dict[str, Curves], ablations: dict[str, Curves], output: Path
) -> None:
    numbers = {
        method: _summary(curves[method], ablations.get(method)) for method in curves
    }
    _draw_curves(curves, ablations, output / "regression_curves.png")
    write_text(output / "regression.json", json.dumps(numbers, indent=2) + "\n")


def _section(output: Path, records: Records) -> str:
    curves = read_curves(output, "update")
    if not curves:
        return ""
    parts = [_training_section(curves, records)]
    ablations = read_curves(output, "iterations")
    if ablations:
        parts.append(_iterations_section(ablations, records))
    if (output / "regression_surface.png").exists():
        parts.append(SURFACES)
    units = [
        f"{EXPERIMENT}/{method}{end}" for method in curves for end in ("", "_tests")
    ]
    if mark(records, *units):
        parts.append(LEGEND + "\n")
    sources = "; ".join(
        f"{NAMES[method]} {source_of(records, f'regression/{method}')}, its tests "
        f"{source_of(records, f'regression/{method}_tests')}"
        for method in curves
    )
    return "\n".join([*parts, f"Source: {sources}.\n"])


def _settings(records: Records, name: str) -> str:
    """Return a setting of the trainings, with a space behind; empty if none is known.

    Args:
        records: Of the units.
        name: points, or iterations of the search that is trained through.
    """
    found = []
    for method, planner in {"gd": "descent", "dcem": "search"}.items():
        if f"regression/{method}" in records:
            settings = records[f"regression/{method}"]["settings"]["settings"]
            found.append((settings if name == "points" else settings[planner])[name])
    values = " or ".join(f"{value}" for value in dict.fromkeys(found))
    return f"{values} " if values else ""


def _entries(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the ledger's rows: the error of each seed after each number of updates."""
    for method in METHODS:
        rounds = Rounds.read(directory / method)
        for seed, errors in rounds.members("error").items():
            for step, error in zip(rounds.steps, errors, strict=True):
                yield entry(method, method, seed, f"update {step}", error)
        unit = f"{method}_tests"
        path = directory / unit / "iterations.csv"
        for row in read_csv(path) if path.exists() else ():
            key = f"iterations {row['iterations']}"
            yield entry(method, unit, row["seed"], key, row["error"])


def entry(
    method: str, unit: str, seed: str, episode: str, error: float | str
) -> dict[str, Any]:
    """Return a row of the ledger."""
    return {
        "experiment": EXPERIMENT,
        "unit": f"{EXPERIMENT}/{unit}",
        "planner": method,
        "seed": seed,
        "episode": episode,
        "outcome": error,
    }


def _training_section(curves: dict[str, Curves], records: Records) -> str:
    published = {method: paper_numbers.regression_curve(method) for method in curves}
    lasts = {max(found) for found in curves.values()}
    known = next(iter(published.values()))
    updates = sorted({n for n in known if n <= max(lasts)} | lasts)
    labels = {count: f"{count:,}" for count in updates}
    return (
        "### Training error (Fig. 6, left)\n\n"
        f"Mean squared error on the {_settings(records, 'points')}points, mean over "
        f"seeds. {_progress(curves)}\n\n"
        + _beside_paper(curves, published, "updates", labels, _marks(records, curves))
        + "\n![Training and test-time iterations](regression_curves.png)\n\n"
        "*Training error (left; thin: seeds, thick: mean, crosses: paper) and error by "
        "number of test-time iterations (right; the dotted line marks those of "
        "training).*\n"
    )


def _iterations_section(ablations: dict[str, Curves], records: Records) -> str:
    published = {
        method: paper_numbers.regression_iterations(method) for method in ablations
    }
    counts = sorted(set().union(*ablations.values()))
    trained = _settings(records, "iterations")
    labels = {
        count: f"{count}" + (" (trained)" if f"{count} " == trained else "")
        for count in counts
    }
    growths = ", ".join(
        f"{NAMES[method]} {_growth(found):.3g}"
        for method, found in ablations.items()
        if 2 * TRAINED_ITERATIONS in found
    )
    return (
        "### Other numbers of iterations at test time (Fig. 6, right)\n\n"
        + (f"Trained with {trained.strip()}. " if trained else "")
        + "The paper's axis is off by one for DCEM; here both columns "
        "have the true number.\n\n"
        + _beside_paper(
            ablations, published, "iterations", labels, _marks(records, ablations)
        )
        + f"\nError at 20 iterations over error at 10: {growths}.\n"
    )


def _beside_paper(
    found: dict[str, Curves],
    published: dict[str, dict[int, float]],
    name: str,
    labels: dict[int, str],
    marks: Mapping[str, str],
) -> str:
    """Return a table with a row per label, the paper's errors beside ours."""
    header, rows = [name], []
    for method, curves in found.items():
        seeds = len(next(iter(curves.values())))
        ours = f"ours{marks[method]} [95 %], n = {seeds} seeds"
        header += [f"{NAMES[method]}: paper", ours, "ours / paper"]
    for count, label in labels.items():
        line = [label]
        for method, curves in found.items():
            line += _cells(curves.get(count), published[method].get(count))
        rows.append(line)
    return markdown_table(header, rows)


def _publish_surfaces(directory: Path, output: Path) -> None:
    found = {}
    for method in METHODS:
        path = directory / f"{method}_tests" / "surface.npz"
        if path.exists():
            with np.load(io.BytesIO(path.read_bytes())) as content:
                found[method] = dict(content)
    _draw_surfaces(found, output / "regression_surface.png")


def _marks(records: Records, methods: Iterable[str]) -> dict[str, str]:
    return {
        method: mark(records, f"{EXPERIMENT}/{method}", f"{EXPERIMENT}/{method}_tests")
        for method in methods
    }


def _progress(curves: dict[str, Curves]) -> str:
    """Return how far each training is, so that no share passes for the whole."""
    parts = []
    for method, found in curves.items():
        missing = max(found) < PAPER_UPDATES
        share = f" of the paper's {PAPER_UPDATES:,}" if missing else ""
        parts.append(f"{NAMES[method]}: {max(found):,}{share}")
    return f"Updates: {'; '.join(parts)}."


def _cells(values: list[float] | None, published: float | None) -> list[str]:
    if values is None:
        return ["–" if published is None else f"{published:.3g}", "–", "–"]
    ours = mean(values)
    ratio = "–" if published is None else f"{ours.value / published:.2g}"
    return ["–" if published is None else f"{published:.3g}", _text(ours), ratio]


def _text(estimate: Estimate) -> str:
    """Return `2.8e-04 [0, 5.1e-04]`; an error is never negative."""
    if estimate.low != estimate.low:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{max(estimate.low, 0):.2g}, {estimate.high:.2g}]"


def _growth(found: Curves) -> float:
    trained, doubled = found[TRAINED_ITERATIONS], found[2 * TRAINED_ITERATIONS]
    return mean(doubled).value / mean(trained).value


def _summary(curve: Curves, ablation: Curves | None) -> dict[str, Any]:
    """Return the numbers that the paper's claims are tested with."""
    last = max(curve)
    found: dict[str, Any] = {"updates": last, "final_error": mean(curve[last]).value}
    if ablation and 2 * TRAINED_ITERATIONS in ablation:
        found["error_at_trained_iterations"] = mean(ablation[TRAINED_ITERATIONS]).value
        found["growth_at_twice_the_iterations"] = _growth(ablation)
    return found


# Figures


def _draw_curves(
    curves: dict[str, Curves], ablations: dict[str, Curves], path: Path
) -> None:
    figure, ((left, right),) = new_figure(1, 2, size=(5.0, 3.4))
    for axis, runs, published in (
        (left, curves, paper_numbers.regression_curve),
        (right, ablations, paper_numbers.regression_iterations),
    ):
        for method, found in runs.items():
            _draw_method(axis, method, found, published)
        axis.set_yscale("log")
        axis.set_ylabel("mean squared error")
    left.set_xlabel("updates")
    right.set_xlabel("iterations at test time")
    right.axvline(TRAINED_ITERATIONS, color="black", linestyle=":", linewidth=1)
    left.legend(frameon=False)
    save_figure(figure, path)


def _draw_method(
    axis: Any, method: str, found: Curves, published: Callable[[str], dict[int, float]]
) -> None:
    steps = np.array(sorted(found))
    members = list(np.array([found[step] for step in steps]).T)
    draw_runs(axis, [steps] * len(members), members, NAMES[method], COLOUR[method])
    paper = published(method)
    axis.plot([*paper], [*paper.values()], "x", color=COLOUR[method], markersize=6)


def _draw_surfaces(found: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    columns = max(len(content["seeds"]) for content in found.values()) + 1
    figure, axes = new_figure(len(found), columns, size=(3.0, 2.8))
    for row, (method, content) in zip(axes, found.items(), strict=True):
        for index, seed in enumerate(content["seeds"]):
            _draw_surface(row[index], content, index)
            row[index].set_title(f"{NAMES[method]}, seed {seed}", fontsize=9)
        _draw_predictions(row[-1], content)
        row[-1].set_title(f"{NAMES[method]}, predictions", fontsize=9)
    save_figure(figure, path)


def _draw_surface(axis: Any, content: dict[str, np.ndarray], index: int) -> None:
    energy = content["energies"][index]
    lowest, highest = (f(axis=1, keepdims=True) for f in (energy.min, energy.max))
    scaled = np.log((energy - lowest) / (highest - lowest) + 1e-6).clip(-10, 0)
    x, (low, high) = content["points"], content["span"] * np.array([-1, 1])
    axis.imshow(
        scaled.T, origin="lower", extent=(x[0], x[-1], low, high), aspect="auto"
    )
    axis.grid(False)
    axis.plot(x, x * np.sin(x), color="white", linewidth=1)
    trained = _of_iterations(content, [TRAINED_ITERATIONS])
    for _, predictions in trained:
        axis.plot(x, predictions[index], "--", color="#d1495b", linewidth=1)


def _draw_predictions(axis: Any, content: dict[str, np.ndarray]) -> None:
    x = content["points"]
    axis.plot(x, x * np.sin(x), color="black", linewidth=1.5, label="target")
    pairs = _of_iterations(content, SHOWN_ITERATIONS)
    for colour, (count, predictions) in zip(COLOURS, pairs, strict=False):
        axis.plot(x, predictions[0], color=colour, linewidth=1, label=str(count))
    axis.set_ylim(-7, 7)
    axis.legend(frameon=False, fontsize=7)


def _of_iterations(
    content: dict[str, np.ndarray], wanted: Iterable[int]
) -> list[tuple[int, np.ndarray]]:
    known = {
        int(n): content["predictions"][i] for i, n in enumerate(content["iterations"])
    }
    return [(count, known[count]) for count in wanted if count in known]
