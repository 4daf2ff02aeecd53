r"""Make a model that comes with diffplan, of the folder of a unit that trained it.

    python -m reproductions.share \
        runs/grad_mpc/cpu/planet/cartpole-swingup/grad_mpc/seed_1 \
        cartpole-swingup-state-1

The card is made of what the unit wrote down: task, settings, commit, versions, hashes
of the data, and what was measured last.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import diffplan as dp
from diffplan.training._files import read_json
from reproductions.common.provenance import with_digests
from reproductions.common.units import DONE, damage

TRAINED = Path(dp.models.__file__).parent / "trained"
MODEL, LICENCE = "model.pt", "MIT"
MEASURED = ("test/return", "test/return_std", "validation/loss")
JUDGED = "reward_head.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `diffplan/models/trained/NAME.safetensors`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the unit, with its done.json")
    parser.add_argument("name", help="under which the model is loaded")
    given = parser.parse_args(arguments)
    path = share(given.run, TRAINED / f"{given.name}.safetensors")
    print(f"{path}: {path.stat().st_size} bytes")


def share(run: Path, path: Path) -> Path:
    """Write the model of a finished unit, with its card.

    Raises:
        ValueError: a file of the unit is not what it wrote.
    """
    if broken := damage(run):
        raise ValueError(f"run: expected what the unit wrote, damaged: {broken}")
    dp.models.save(_model(run / MODEL), path, card=card(run))
    return path


def card(run: Path) -> dict[str, Any]:
    """Return what a stranger should know of a unit's model."""
    record = with_digests(read_json(run / DONE, "the record of a unit"))
    hashes = {**record.get("inputs", {}), **record["sha256"]}
    return {
        "task": _found("task", record["settings"]),
        "unit": record["name"],
        "commit": record["source"]["commit"],
        "uncommitted_changes": record["source"]["dirty"],
        "data": {
            name: value
            for name, value in hashes.items()
            if name.endswith(("data", "episodes"))
        },
        "sha256_of_run": hashes[MODEL],
        "measured": _measured(run),
        "settings": record["settings"],
        "versions": record["versions"],
        "licence": LICENCE,
    }


def _measured(run: Path) -> dict[str, float]:
    """Return the last of each number that says how good the model is."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] in MEASURED]
    found = {row["name"]: float(row["value"]) for row in rows}
    if (run / JUDGED).exists():
        judged = json.loads((run / JUDGED).read_text(encoding="utf-8"))
        found |= {
            f"reward_{key}": judged[key]
            for key in ("accuracy", "accuracy_near_changes")
        }
    return found


def _model(path: Path) -> dp.models.RSSM:
    if path.read_bytes()[:2] != b"PK":
        return dp.models.RSSM.load(path)
    # Runs that began before models were safetensors have an archive of torch.save.
    content = torch.load(path, weights_only=True)
    model = dp.models.RSSM(**content["config"])
    model.load_state_dict(content["weights"])
    return model


def _found(key: str, settings: Any) -> Any:
    """Return the first value of a key in nested dictionaries."""
    if not isinstance(settings, dict):
        return None
    if key in settings:
        return settings[key]
    values = (_found(key, value) for value in settings.values())
    return next((value for value in values if value is not None), None)


if __name__ == "__main__":
    main()
