"""The page of `diffplan view`: one file, with all that it shows, that asks nobody.

What is shown is JSON inside of the page; `page.js` draws it.
"""

import base64
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from diffplan._colours import OTHER, PLANNERS
from diffplan._runs.figures import as_png
from diffplan.errors import ArgumentError
from diffplan.training import film_strip, load_plan_record, read_metrics
from diffplan.training._files import read_json

_MOST_NUMBERS = 12
"""Numbers of a state that are shown: those that move most in the answer."""
_MOST_COLUMNS = 12
"""Pictures in a film strip, about."""
_KINDS = {".mp4": "video/mp4", ".gif": "image/gif"}


def page(run: Path, videos: int = 8) -> str:
    """Return the HTML page of a run's folder, a folder of plans or one plan.

    Args:
        run: The folder, or the file of a plan.
        videos: The most that are put into the page, evenly chosen, the last one too.

    Raises:
        ArgumentError: there is nothing to show.
        FileError: something in it is damaged.
    """
    if not run.exists():
        raise ArgumentError(f"RUN: expected a run's folder, got {run}: nothing there")
    content = _content(run, videos)
    begun = any((run / name).exists() for name in ("run.json", "metrics.csv"))
    if not (begun or content["plans"] or content["videos"]):
        raise ArgumentError(
            "RUN: expected run.json, metrics.csv, videos or plans (see `diffplan "
            f"plan`), got {run} without any"
        )
    # Inside of a script only "<" can end it.
    told = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    parts = {"title": html.escape(content["title"]), "data": told}
    for name, file in (("style", "page.css"), ("script", "page.js")):
        parts[name] = Path(__file__).with_name(file).read_text(encoding="utf-8")
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    # In one pass: what is put in may look like a place for something else.
    first, *rest = text.split("@")
    words = dict(zip(rest[::2], rest[1::2], strict=True))
    return first + "".join(parts[name] + after for name, after in words.items())


def _content(run: Path, videos: int) -> dict[str, Any]:
    record = run / "run.json"
    told = read_json(record, "the record of a run") if record.exists() else {}
    metrics = run / "metrics.csv"
    if run.is_file():
        files = [run]
    else:
        found = {*run.glob("plans/*.npz"), *(() if told else run.glob("*.npz"))}
        files = sorted(found, key=lambda file: (-file.stat().st_mtime, file.name))
    plans = [_plan(file) for file in files]
    named = [json.dumps(told.get("config")), *(plan["planner"] for plan in plans)]
    return {
        "title": run.absolute().name,
        "facts": _facts(told),
        "colour": _colour(named),
        "metrics": _metrics(metrics) if metrics.exists() else {},
        "videos": [_video(file) for file in _some(_films(run), videos)],
        "plans": plans,
    }


def _facts(told: dict[str, Any]) -> list[str]:
    """Return what the head of the page says of a run."""
    facts = [f"{name} {told[name]}" for name in ("status", "seed") if name in told]
    sessions = told.get("sessions")
    if isinstance(sessions, list) and sessions and isinstance(sessions[-1], dict):
        last = sessions[-1]
        facts += [f"{name} {last[name]}" for name in ("start", "end") if name in last]
    return facts


def _colour(texts: Iterable[str]) -> tuple[str, str]:
    """Return the colour of the planner that is named first."""
    for text in texts:
        for name, colour in PLANNERS.items():
            if text.startswith(f"{name}(") or f'"class": "{name}"' in text:
                return colour
    return OTHER


def _metrics(path: Path) -> dict[str, list[list[float | None]]]:
    """Return rounds, steps and values of each name; those of single episodes not."""
    table: dict[str, list[list[float | None]]] = {}
    for row in read_metrics(path):
        if "/episode_" not in row["name"]:
            place = [int(row["round"]), int(row["environment_step"])]
            value = _number(float(row["value"]))
            table.setdefault(row["name"], []).append([*place, value])
    return table


def _films(run: Path) -> list[Path]:
    return sorted(file for file in run.glob("videos/*") if file.suffix in _KINDS)


def _some(files: Sequence[Path], most: int) -> list[Path]:
    """Return at most so many, evenly chosen, the newest first."""
    step = (len(files) - 1) / max(most - 1, 1)
    count = min(most, len(files))
    if count == len(files):
        return list(reversed(files))
    return [files[round(len(files) - 1 - step * i)] for i in range(count)]


def _video(file: Path) -> dict[str, str]:
    # Inside of the page it can be wound without a server that knows how.
    return {
        "name": file.stem.replace("_", " "),
        "source": _url(_KINDS[file.suffix], file.read_bytes()),
    }


def _plan(file: Path) -> dict[str, Any]:
    record = load_plan_record(file)
    answer = torch.tensor(record.states[-1]).double().nan_to_num()
    moving = answer.std(dim=0).argsort(descending=True, stable=True)[:_MOST_NUMBERS]
    names = sorted(moving.tolist())
    seen = None
    every = max(1, math.ceil(record.states.shape[1] / _MOST_COLUMNS))
    strips = []
    if record.images is not None and record.image_iterations is not None:
        pairs = zip(record.image_iterations.tolist(), record.images, strict=True)
        strips = [{"iteration": i, **_strip(row, every)} for i, row in pairs]
        seen = None if record.seen is None else _strip(record.seen, every)
    happened = None if record.happened is None else _columns(record.happened.T, names)
    return {
        "name": file.stem,
        "planner": record.planner,
        "colour": _colour([record.planner]),
        "cost": [_number(value) for value in record.cost.tolist()],
        "violation": [_number(value) for value in record.violation.tolist()],
        "names": [f"state {index}" for index in names],
        # By number, iteration and step.
        "states": _columns(record.states.transpose(2, 0, 1), names),
        "actions": _columns(record.actions.transpose(2, 0, 1)),
        "happened": happened,
        "strips": strips,
        "seen": seen,
    }


def _columns(values: Any, chosen: Sequence[int] | None = None) -> Any:
    return _plain((values if chosen is None else values[list(chosen)]).tolist())


def _plain(values: Any) -> Any:
    return [_plain(v) for v in values] if isinstance(values, list) else _number(values)


def _number(value: float) -> float | None:
    """Return six digits, and None for what JSON does not know."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _strip(frames: Any, every: int) -> dict[str, Any]:
    """Return a film strip as the address of a PNG, and the times of its pictures."""
    source = _url("image/png", as_png(film_strip([frames], every, gap=1)))
    return {"source": source, "times": list(range(0, len(frames), every))}


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
