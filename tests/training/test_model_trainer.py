import math

import pytest
import torch
from toy import LinearModel

from diffplan.errors import ArgumentError, NonFiniteError
from diffplan.models.base import LossRecord, SequenceBatch
from diffplan.training import ModelTrainer, OptimizerConfig, hold_then_decay


def make_batch(seed: int = 0, size: int = 16) -> SequenceBatch:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.rand(size, 5, 1, generator=generator) * 2 - 1
    actions = torch.rand(size, 4, 1, generator=generator) * 2 - 1
    return SequenceBatch(observations, actions, -(observations[:, 1:, 0] ** 2))


def test_schedule_holds_then_falls_linearly_to_its_final_value() -> None:
    schedule = hold_then_decay(1001)
    # 60 % of the way from update 0 to update 1000, then a line from 1 to 0.02.
    for update in range(0, 1001, 50):
        expected = 1.0 if update <= 600 else 1 - 0.98 * (update - 600) / 400
        assert schedule(update) == pytest.approx(expected, abs=1e-12)
    assert schedule(1000) == pytest.approx(0.02)
    assert schedule(5000) == pytest.approx(0.02)


@pytest.mark.parametrize(("updates", "hold"), [(1, 0.6), (10, 1.0)])
def test_schedule_that_never_decays(updates: int, hold: float) -> None:
    schedule = hold_then_decay(updates, hold)
    assert [schedule(update) for update in range(updates)] == [1.0] * updates


def test_schedule_refuses_nonsense() -> None:
    with pytest.raises(ArgumentError, match="hold_then_decay"):
        hold_then_decay(10, hold=1.5)


def test_step_is_adam_on_clipped_gradients() -> None:
    config = OptimizerConfig(learning_rate=0.1, epsilon=1e-3, gradient_clip=0.05)
    model, batch = LinearModel(), make_batch()
    trainer = ModelTrainer(model, config, hold_then_decay(5, hold=0.0, final=0.5))
    reference = LinearModel()
    moments = {name: [0.0, 0.0] for name in ("gain", "scale")}
    for update in range(3):
        noise = torch.Generator().manual_seed(update)
        metrics = trainer.train_step(batch, torch.Generator().manual_seed(update))
        loss = reference.loss(batch, noise).total
        gradients = torch.autograd.grad(loss, [reference.gain, reference.scale])
        norm = math.sqrt(sum(float(g) ** 2 for g in gradients))
        assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
        rate = 0.1 * (1 - 0.5 * update / 4)
        for name, gradient in zip(moments, gradients, strict=True):
            clipped = float(gradient) * min(1.0, 0.05 / norm)
            first, second = moments[name]
            first = 0.9 * first + 0.1 * clipped
            second = 0.999 * second + 0.001 * clipped**2
            moments[name] = [first, second]
            mean = first / (1 - 0.9 ** (update + 1))
            root = math.sqrt(second / (1 - 0.999 ** (update + 1)))
            with torch.no_grad():
                getattr(reference, name).sub_(rate * mean / (root + 1e-3))
        for name in moments:
            torch.testing.assert_close(getattr(model, name), getattr(reference, name))


def test_training_finds_the_true_dynamics() -> None:
    model = LinearModel(gain=0.5)
    actions = torch.rand(64, 4, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    positions = torch.cat([torch.zeros(64, 1, 1), 0.1 * actions.cumsum(1)], dim=1)
    batch = SequenceBatch(positions, actions, -2 * positions[:, 1:, 0] ** 2)
    trainer = ModelTrainer(model, OptimizerConfig(learning_rate=0.02))
    metrics = trainer.train(400, lambda: batch, torch.Generator().manual_seed(0))
    # The model's own input noise of 0.01 leaves an error of about 1e-3 in the gain.
    assert model.gain.item() == pytest.approx(0.1, abs=3e-3)
    assert model.scale.item() == pytest.approx(2.0, abs=1e-2)
    assert trainer.updates == 400
    assert metrics["learning_rate"] == 0.02


def test_train_returns_means_over_the_updates() -> None:
    batches = [make_batch(0), make_batch(1)]
    drawn = iter(batches)
    config = OptimizerConfig(learning_rate=1e-12)
    trainer = ModelTrainer(LinearModel(), config)
    noise = torch.Generator().manual_seed(3)
    metrics = trainer.train(2, lambda: next(drawn), noise)
    noise = torch.Generator().manual_seed(3)
    losses = [LinearModel().loss(batch, noise).total.item() for batch in batches]
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_a_diverged_training_says_so() -> None:
    class Broken(LinearModel):
        def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
            total = (self.gain * torch.inf).sum()
            return LossRecord(total, {"loss": total.detach()})

    trainer = ModelTrainer(Broken(), OptimizerConfig())
    with pytest.raises(NonFiniteError, match="in loss, gradient_norm before update 1"):
        trainer.train(1, make_batch, torch.Generator())


def test_continuing_from_a_state_equals_going_on() -> None:
    trainer = ModelTrainer(LinearModel(), OptimizerConfig(learning_rate=0.1))
    noise = torch.Generator().manual_seed(0)
    trainer.train(3, make_batch, noise)
    other = ModelTrainer(LinearModel(), OptimizerConfig(learning_rate=0.1))
    other.load_state_dict(trainer.state_dict())
    copy = torch.Generator()
    copy.set_state(noise.get_state())
    trainer.train(2, make_batch, noise)
    other.train(2, make_batch, copy)
    assert torch.equal(trainer.model.gain, other.model.gain)
    assert other.updates == 5


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_precision_settings_are_put_back(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    trainer = ModelTrainer(LinearModel(), OptimizerConfig(precision=precision))
    metrics = trainer.train(1, make_batch, torch.Generator())
    assert math.isfinite(metrics["loss"])
    assert torch.get_float32_matmul_precision() == before
    assert not torch.is_autocast_enabled("cpu")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="learning_rate"):
        OptimizerConfig(learning_rate=0.0)
    # The suite's type checker may speak first.
    with pytest.raises((ArgumentError, TypeError), match="precision"):
        OptimizerConfig(precision="half")
