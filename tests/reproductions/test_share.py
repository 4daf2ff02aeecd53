"""What a unit leaves becomes a model with a card."""

import functools
import json
from pathlib import Path

import pytest
import torch

import diffplan as dp
from reproductions.common.units import SESSIONS, Unit
from reproductions.common.worker import write_done
from reproductions.share import share


def train(directory: Path, task: str, seed: int) -> None:
    torch.manual_seed(seed)
    dp.models.RSSM((3,), 1, belief_size=4, hidden_size=8).save(directory / "model.pt")
    rows = ["round,environment_step,name,value"]
    rows += [f"{step},0,test/return,{step}.5" for step in range(3)]
    (directory / "metrics.csv").write_text("\n".join(rows) + "\n")
    (directory / "episodes").mkdir()
    (directory / "episodes" / "episode_000000.npz").write_bytes(b"data")


def test_a_shared_model_says_where_it_comes_from(tmp_path: Path) -> None:
    run = functools.partial(train, tmp_path / "unit", task="reach", seed=3)
    unit = Unit("unit", run, tmp_path / "unit")
    unit.directory.mkdir()
    unit.begin({})
    unit.run()
    (unit.directory / SESSIONS).write_text("1.0")
    write_done(unit, {})
    path = share(tmp_path / "unit", tmp_path / "reach.safetensors")
    record = json.loads((tmp_path / "unit" / "done.json").read_text())
    card = dp.models.card(path)
    assert card["task"] == "reach"
    assert card["settings"] == {"task": "reach", "seed": 3}
    assert card["measured"] == {"test/return": 2.5}
    assert list(card["data"]) == ["episodes"]
    assert card["commit"] == record["source"]["commit"]
    assert card["sha256_of_run"] == record["files"]["model.pt"]["sha256"]
    saved = dp.models.RSSM.load(tmp_path / "unit" / "model.pt").state_dict()
    for name, value in dp.models.load(path).state_dict().items():
        assert torch.equal(value, saved[name])
    (tmp_path / "unit" / "metrics.csv").write_text("other")
    with pytest.raises(ValueError, match=r"damaged.*metrics"):
        share(tmp_path / "unit", path)
