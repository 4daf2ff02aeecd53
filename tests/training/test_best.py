"""What is kept of the best evaluation of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import make_online

from diffplan.errors import ArgumentError
from diffplan.training import Evaluation, OnlineTrainer


class Counter:
    """Learns nothing; knows how many updates were made."""

    def __init__(self) -> None:
        self.value = torch.zeros(())

    def update(self, batch: Any) -> dict[str, torch.Tensor]:
        del batch
        self.value += 1
        return {"count": self.value.clone()}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        self.value = state["value"].clone()


def make(directory: Path, returns: list[float], **settings: Any) -> OnlineTrainer:
    """Return a trainer whose evaluations, every second round, end as told."""
    trainer = make_online(directory, **{"keep_best": True, **settings})
    trainer.auxiliary = Counter()
    trainer.gains = {}
    real = trainer.evaluate

    def told(episodes: int, index: int, observer: Any) -> Evaluation:
        trainer.gains[index] = trainer.model.gain.item()
        evaluation = real(episodes, index, observer)
        # Where an evaluation is due because the run ends, it is the best of all.
        evaluation.returns[:] = 9.0 if index % 2 else returns[index // 2]
        return evaluation

    trainer.evaluate = told
    return trainer


def run(trainer: OnlineTrainer) -> OnlineTrainer:
    trainer.run(tensorboard=False, quiet=True)
    return trainer


def test_the_best_evaluation_is_kept_and_can_be_gone_back_to(tmp_path: Path) -> None:
    trainer = run(make(tmp_path, [1.0, 5.0, 5.0, 2.0], rounds=6))
    best = trainer.best
    assert best.index == 2
    assert best.mean_return == 5.0
    assert trainer.model.gain.item() == trainer.gains[6] != trainer.gains[2]
    assert trainer.auxiliary.value == 6 + 6 * 4
    trainer.load_best()
    assert trainer.model.gain.item() == trainer.gains[2]
    assert trainer.auxiliary.value == 6 + 2 * 4


def test_a_resumed_run_knows_what_was_best(tmp_path: Path) -> None:
    returns = [1.0, 5.0, 3.0, 2.0]
    run(make(tmp_path, returns, rounds=4))
    resumed = run(make(tmp_path, returns, rounds=6))
    assert set(resumed.gains) == {6}
    assert resumed.best.index == 2
    whole = run(make(tmp_path / "whole", returns, rounds=6))
    assert torch.equal(resumed.best.model["gain"], whole.best.model["gain"])
    assert resumed.best.auxiliary["value"] == whole.best.auxiliary["value"]


def test_the_end_of_a_shorter_run_is_not_the_best_of_a_longer_one(
    tmp_path: Path,
) -> None:
    returns = [1.0, 0.5, 5.0, 2.0]
    for rounds, best in ((1, 1), (3, 3), (3, 3), (6, 4)):
        trainer = run(make(tmp_path / "longer", returns, rounds=rounds))
        assert trainer.best.index == best
    whole = run(make(tmp_path / "whole", returns, rounds=6))
    assert whole.best.index == 4
    assert trainer.best.mean_return == whole.best.mean_return == 5.0
    trainer.load_best()
    assert trainer.model.gain.item() == whole.gains[4]
    assert trainer.auxiliary.value == 6 + 4 * 4


def test_a_longer_run_goes_back_to_what_was_best_before_its_end(
    tmp_path: Path,
) -> None:
    returns = [1.0, 0.5, 0.0, 0.0]
    run(make(tmp_path, returns, rounds=3))
    trainer = run(make(tmp_path, returns, rounds=6))
    assert (trainer.best.index, trainer.best.mean_return) == (0, 1.0)


def test_keeping_changes_nothing_else(tmp_path: Path) -> None:
    kept = run(make_online(tmp_path / "kept", keep_best=True))
    plain = run(make_online(tmp_path / "plain"))
    assert torch.equal(kept.model.gain, plain.model.gain)
    assert kept.best is not None
    assert plain.best is None
    with pytest.raises(ArgumentError, match="best: expected keep_best"):
        plain.load_best()


def test_nothing_can_be_best_without_evaluations(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="keep_best"):
        make_online(tmp_path, keep_best=True, evaluate_every=0)
