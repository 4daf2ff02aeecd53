"""Dense tasks (Fig. 10): their reward, and a model that normalises it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan._runs.online import build_model
from diffplan._runs.tasks import make_task
from diffplan.errors import ArgumentError
from diffplan.models.base import SequenceBatch
from diffplan.models.rssm import RSSM
from diffplan.training.model_trainer import ModelTrainer, OptimizerConfig
from reproductions.latco.dense import DenseRSSM
from reproductions.latco.online_config import (
    CHEETAH,
    RUNS,
    SHAPED,
    paper_run,
    small_cheetah,
    small_run,
)

TINY = {"belief_size": 6, "state_size": 3, "hidden_size": 8, "embedding_size": 8}


def batches(count: int) -> list[SequenceBatch]:
    """Return batches whose rewards grow, and spread more and more."""
    draw = torch.Generator().manual_seed(3)
    normal = partial(torch.randn, generator=draw)
    return [
        SequenceBatch(normal(4, 6, 5), normal(4, 5, 2), 7 * i + (1 + i) * normal(4, 5))
        for i in range(count)
    ]


def generator() -> torch.Generator:
    """Return the source of a posterior's noise."""
    return torch.Generator().manual_seed(0)


def test_rewards_are_normalised_by_what_came_before() -> None:
    torch.manual_seed(0)
    model = DenseRSSM((5,), 2, reward_momentum=0.75, reward_scale=3.0, **TINY)
    plain = RSSM((5,), 2, reward_scale=3.0, **TINY)
    mean, std = 0.0, 1.0
    for batch in batches(4):
        weights = {k: v for k, v in model.state_dict().items() if "reward_m" not in k}
        weights.pop("reward_std")
        plain.load_state_dict(weights)
        rewards = batch.rewards.numpy()
        normal = torch.from_numpy((rewards - mean) / std).float()
        wanted = plain.loss(replace(batch, rewards=normal), generator()).metrics
        found = model.loss(batch, generator()).metrics
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
        mean = 0.75 * mean + 0.25 * float(np.mean(rewards))
        std = 0.75 * std + 0.25 * float(
            np.sqrt(np.mean((rewards - rewards.mean()) ** 2))
        )
        assert float(model.reward_mean) == pytest.approx(mean, rel=1e-5)
        assert float(model.reward_std) == pytest.approx(std, rel=1e-5)


def test_validation_changes_nothing_and_training_learns_through_it() -> None:
    torch.manual_seed(0)
    model, (batch,) = DenseRSSM((5,), 2, **TINY), batches(1)
    with torch.no_grad():
        model.loss(batch, generator())
    assert (float(model.reward_mean), float(model.reward_std)) == (0.0, 1.0)
    trainer = ModelTrainer(model, OptimizerConfig())
    first = trainer.train_step(batch, generator())
    for _ in range(20):
        last = trainer.train_step(batch, generator())
    assert last["loss"] < first["loss"]
    share = 1 - 0.99**21
    expected = share * float(batch.rewards.mean())
    assert float(model.reward_mean) == pytest.approx(expected, rel=1e-4)


def test_what_was_measured_is_saved_with_the_weights(tmp_path: Path) -> None:
    model, (batch,) = DenseRSSM((5,), 2, reward_momentum=0.5, **TINY), batches(1)
    model.loss(batch, generator())
    model.save(tmp_path / "model.pt")
    again = DenseRSSM.load(tmp_path / "model.pt")
    assert again.reward_momentum == 0.5
    assert torch.equal(again.reward_std, model.reward_std)
    state = torch.ones(2, model.state_dim)
    assert torch.equal(again.reward(state), model.reward(state))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range(momentum: float) -> None:
    with pytest.raises(ArgumentError, match=r"reward_momentum: expected 0 up to"):
        DenseRSSM((5,), 2, reward_momentum=momentum, **TINY)


def test_dense_tasks_pay_what_meta_world_pays() -> None:
    pytest.importorskip("metaworld")
    dense, sparse = (
        make_task(f"metaworld/{name}", action_repeat=1)
        for name in ("dense-reach", "reach")
    )
    for env in (dense, sparse):
        env.reset(seed=5)
    for _ in range(3):
        action = np.array([1.0, -0.5, 0.2, 0.0], np.float32)
        _, reward, _, _, info = dense.step(action)
        _, success, _, _, same = sparse.step(action)
        assert reward == info["dense_reward"] == same["dense_reward"] > 0
        assert success == info["success"]
    for env in (dense, sparse):
        env.close()


def test_dense_runs_are_those_of_their_tasks_with_rewards_normalised() -> None:
    for name in SHAPED:
        dense, sparse = paper_run(name, "cem"), paper_run(name.removeprefix("dense-"))
        assert dense.task == f"metaworld/{name}"
        assert dense.training == sparse.training
        assert dense.planner.horizon == sparse.planner.horizon
        assert dict(dense.model) == {**sparse.model, "reward_momentum": 0.99}
    model = build_model(paper_run("dense-push").model, (3, 64, 64), 4, seed=0)
    assert isinstance(model, DenseRSSM)


def test_every_run_of_a_stage_fits_its_task() -> None:
    assert small_run() == small_run(CHEETAH) == small_cheetah()
    for name in RUNS:
        run = small_run(name)
        assert f"{run.task.partition('/')[2]}/{run.planner.name}" == name
        repeat = paper_run(*name.split("/")).training.action_repeat
        length = 1000 if run.task.startswith("dm_control") else 150
        kept = run.training.action_repeat
        assert kept == (4 if length == 1000 else repeat)
        assert run.training.sequence_length <= length // kept
