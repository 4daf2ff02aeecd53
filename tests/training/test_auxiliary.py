"""Learning beside the model, and updates that are spread over a round's decisions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import LinearModel, make_envs
from toy_runs import make_online

from diffplan.models.base import SequenceBatch
from diffplan.training import OnlineTrainer, read_metrics
from diffplan.training.online import AuxiliaryUpdate


class Stop(Exception):
    """Stands for a kill."""


def run(trainer: OnlineTrainer) -> None:
    trainer.run(tensorboard=False, quiet=True)


def reproducible(directory: Path) -> list[dict[str, str]]:
    rows = read_metrics(directory / "metrics.csv")
    return [row for row in rows if not row["name"].startswith("time/")]


class Mean:
    """Learns the mean observation by steps towards that of each batch."""

    def __init__(self, model: LinearModel) -> None:
        self.model, self.value = model, torch.zeros(())
        self.gains: list[float] = []

    def update(self, batch: SequenceBatch) -> dict[str, torch.Tensor]:
        self.gains.append(self.model.gain.item())
        self.value = 0.9 * self.value + 0.1 * batch.observations.mean()
        return {"mean": self.value}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        self.value = state["value"]


def make(directory: Path, **settings: Any) -> OnlineTrainer:
    trainer = make_online(directory, **settings)
    trainer.auxiliary = Mean(trainer.model)
    return trainer


def test_it_learns_after_each_update_of_the_model(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    assert isinstance(trainer.auxiliary, AuxiliaryUpdate)
    run(trainer)
    gains = trainer.auxiliary.gains
    assert len(gains) == trainer.trainer.updates == 6 + 5 * 4
    assert gains[0] != LinearModel().gain.item()
    assert gains[-1] == trainer.model.gain.item()
    rows = [row for row in reproducible(tmp_path) if row["name"] == "train/mean"]
    assert len(rows) == 6


@pytest.mark.parametrize("interleave", [False, True])
def test_it_resumes_with_the_run(interleave: bool, tmp_path: Path) -> None:
    run(whole := make(tmp_path / "whole", interleave=interleave))
    broken = make(tmp_path / "broken", interleave=interleave)
    play = broken.play_round

    def dying(index: int) -> Any:
        result = play(index)
        if index == 2:
            raise Stop
        return result

    broken.play_round = dying
    with pytest.raises(Stop):
        run(broken)
    run(resumed := make(tmp_path / "broken", interleave=interleave))
    assert reproducible(tmp_path / "broken") == reproducible(tmp_path / "whole")
    assert torch.equal(whole.auxiliary.value, resumed.auxiliary.value)


def test_interleaved_updates_are_spread_over_the_decisions(tmp_path: Path) -> None:
    """Four updates over a round of 8 decisions: one at every second of them."""
    trainer = make_online(tmp_path, interleave=True)
    act, steps = trainer.agent.act, []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        if keywords["explore"]:
            steps.append(trainer.trainer.updates)
        return act(*arguments, **keywords)

    trainer.agent.act = counted
    run(trainer)
    # Rounds 1 to 5 of 8 decisions each, two episodes side by side.
    assert len(steps) == 5 * 8
    for index in range(5):
        first = 6 + 4 * index
        moments = steps[8 * index : 8 * index + 8]
        assert moments == [first + n // 2 for n in range(8)]
    assert trainer.trainer.updates == 6 + 5 * 4


def test_what_is_left_of_interleaved_updates_is_made_up(tmp_path: Path) -> None:
    """Episodes get shorter than they were: their updates are not lost."""
    trainer = make_online(tmp_path, interleave=True, rounds=0)
    run(trainer)
    longer = make_online(tmp_path, interleave=True, rounds=2)
    longer.environments = make_envs(2, length=6)
    draw, known = longer._draw, []

    def counted() -> SequenceBatch:
        known.append(len(longer.buffer))
        return draw()

    longer._draw = counted
    run(longer)
    assert longer.trainer.updates == 6 + 2 * 4
    # On the 3 episodes of round 0, then on the 2 of round 1 too.
    assert known == [3] * 4 + [5] * 4
