"""A world model knows what it knows: nobody asks it for more than is used."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from latent_models import EmbeddingModel, TaskModel
from torch import Tensor, nn
from toy import LinearModel

from diffplan.agents import AgentState
from diffplan.capabilities import (
    Acting,
    Decoding,
    Ending,
    Rewarding,
    Valuing,
    knows,
    takes_action,
)
from diffplan.errors import ArgumentError
from diffplan.models import RSSM, LossRecord, SequenceBatch, WorldModel
from diffplan.plan import Plan
from diffplan.testing import check_world_model
from diffplan.training import EpisodeRecorder, ModelTrainer, OptimizerConfig

OBSERVATION = torch.tensor([[-0.5], [0.1], [0.7]])
MODELS = {"task": TaskModel, "embedding": EmbeddingModel}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def make_batch() -> SequenceBatch:
    generator = torch.Generator().manual_seed(0)
    observations = torch.rand(8, 4, 1, generator=generator)
    actions = torch.rand(8, 3, 1, generator=generator) * 2 - 1
    ended = torch.zeros(8, 3, dtype=torch.bool)
    ended[:4, -1] = True
    return SequenceBatch(observations, actions, observations[:, 1:, 0], ended)


@every_model
def test_a_model_without_a_decoder_keeps_the_promises(
    make: Callable[[], WorldModel],
) -> None:
    torch.manual_seed(0)
    check_world_model(make(), OBSERVATION)


def test_a_model_has_the_capabilities_that_it_defines() -> None:
    kinds = (Decoding, Rewarding, Ending, Valuing, Acting)
    small = RSSM((1,), 1, belief_size=2, state_size=2, hidden_size=2)
    task, embedding = TaskModel(), EmbeddingModel()
    assert [knows(small, kind) for kind in kinds] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [knows(task, kind) for kind in kinds] == [False, True, True, True, True]
    assert not any(knows(embedding, kind) for kind in kinds)


def test_a_submodule_of_the_name_is_a_capability() -> None:
    model = LinearModel()
    assert not knows(model, Acting)
    model.policy = nn.Linear(1, 1)
    assert knows(model, Acting)
    model.continues = None
    assert not knows(model, Ending)


class StateHead(nn.Module):
    def forward(self, state: Tensor) -> Tensor:
        return state[..., 0]


class PairHead(nn.Module):
    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return state[..., 0] * action[..., 0]


def test_a_reward_declares_by_its_signature_that_it_sees_the_action() -> None:
    pair = PairHead()
    for reward in (TaskModel().reward, pair, pair.forward, lambda state, action: state):
        assert takes_action(reward)
    optional = partial(pair.forward, action=torch.ones(1))
    for reward in (LinearModel().reward, StateHead(), optional, lambda s, c=2.0: c * s):
        assert not takes_action(reward)
    assert not takes_action(lambda *everything: everything[0])
    assert not takes_action(torch.Tensor.sum)


def wrong(name: str, value: Callable[[Tensor], Tensor]) -> WorldModel:
    """Return a right model with a wrong capability of this name."""

    def method(self: WorldModel, state: Tensor, *action: Tensor) -> Tensor:
        return value(state)

    return type("Wrong", (EmbeddingModel,), {name: method})()


@pytest.mark.parametrize("name", ["reward", "value", "continues", "policy", "decode"])
def test_a_readout_of_the_wrong_shape_is_caught(name: str) -> None:
    model = wrong(name, lambda state: 0 * state.mean())
    with pytest.raises(AssertionError, match=rf"{name}\(…\).shape"):
        check_world_model(model, OBSERVATION)


def test_what_is_no_probability_is_caught() -> None:
    model = wrong("continues", lambda state: 1.5 + 0 * state[..., 0])
    with pytest.raises(AssertionError, match="expected probabilities"):
        check_world_model(model, OBSERVATION)


class Blind(WorldModel):
    """Neither observes nor encodes."""

    state_dim = action_dim = 1

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + action

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        raise NotImplementedError


def test_a_model_that_cannot_see_says_what_to_define() -> None:
    state = torch.zeros(3, 1)
    with pytest.raises(NotImplementedError, match=r"Blind: .* observe, or encode"):
        Blind().observe(state, state, OBSERVATION)


@every_model
def test_the_same_trainer_trains_and_resumes_it(make: Callable[[], WorldModel]) -> None:
    torch.manual_seed(1)
    first, second = make(), make()
    settings, noise = OptimizerConfig(learning_rate=0.01), torch.Generator()
    batch = make_batch()
    trainer = ModelTrainer(first, settings)
    before = {name: p.clone() for name, p in first.named_parameters()}
    trainer.train(2, lambda: batch, noise)
    for name, parameter in first.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    other = ModelTrainer(second, settings)
    other.load_state_dict(trainer.state_dict())
    for each in (trainer, other):
        each.train(2, lambda: batch, noise)
    assert other.updates == 4
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_several_optimisers_keep_rates_norms_and_places_of_their_own() -> None:
    torch.manual_seed(0)
    model, batch = TaskModel(), make_batch()
    settings = OptimizerConfig(learning_rate=0.02, gradient_clip=1e-3)
    trainer = ModelTrainer(model, settings, lambda update: 0.5)
    assert list(trainer.state_dict()) == [
        *("model", "optimizer/model", "optimizer/policy", "updates")
    ]
    metrics = trainer.train_step(batch, torch.Generator())
    rates = [o.param_groups[0]["lr"] for o in trainer.optimizers.values()]
    assert rates == pytest.approx([0.01, 0.001])
    # Each is clipped for itself: their norms are both the limit afterwards.
    for part in ("model", "policy"):
        assert float(metrics[f"gradient_norm/{part}"]) > 1e-3
        optimizer = trainer.optimizers[f"optimizer/{part}"]
        norms = [p.grad.norm() for p in optimizer.param_groups[0]["params"]]
        assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_target_network_follows_after_each_update() -> None:
    torch.manual_seed(0)
    model, noise = EmbeddingModel(), torch.Generator()
    trainer = ModelTrainer(model, OptimizerConfig(learning_rate=0.01))
    target = model.target_encoder[0].weight.clone()
    for _ in range(2):
        trainer.train_step(make_batch(), noise)
        target = 0.5 * target + 0.5 * model.encoder[0].weight
        torch.testing.assert_close(model.target_encoder[0].weight, target)
    assert not torch.equal(model.encoder[0].weight, target)


def test_one_optimiser_without_a_name_keeps_its_place_in_checkpoints() -> None:
    trainer = ModelTrainer(LinearModel(), OptimizerConfig())
    assert list(trainer.state_dict()) == ["model", "optimizer", "updates"]


@pytest.mark.parametrize("times", [0, 2])
def test_a_parameter_without_an_optimiser_or_with_two_is_named(times: int) -> None:
    class Wrong(LinearModel):
        def optimizers(
            self, learning_rate: float, epsilon: float
        ) -> dict[str, torch.optim.Optimizer]:
            chosen = {f"o{i}": torch.optim.SGD([self.scale]) for i in range(times)}
            return {"first": torch.optim.SGD([self.gain]), **chosen}

    with pytest.raises(ArgumentError, match=f"exactly one .* scale in {times}$"):
        ModelTrainer(Wrong(), OptimizerConfig())


def test_what_follows_the_end_of_a_task_has_no_value() -> None:
    torch.manual_seed(0)
    model, batch = TaskModel(), make_batch()
    cut = SequenceBatch(batch.observations, batch.actions, batch.rewards)
    ended, truncated = (
        model.loss(each, torch.Generator()).metrics["value"] for each in (batch, cut)
    )
    assert float(ended) != float(truncated)


def test_a_recorder_shows_what_was_seen_where_nothing_can_be_decoded() -> None:
    model = EmbeddingModel()
    plan = Plan(torch.zeros(1, 3, 1), torch.zeros(1, 4, 4), torch.zeros(1))
    start = AgentState.start(model.initial_state((1,)), 1, seed=0)
    memory = AgentState(**{**vars(start), "plan": plan, "age": torch.ones(1).long()})
    recorder = EpisodeRecorder(model)
    recorder(0, np.zeros((1, 3, 8, 8), np.uint8), memory, np.ones(1, bool))
    assert len(recorder.seen) == 1
    assert recorder.imagined == []
