"""An agent that acts with a policy: what it sees, explores with, and refuses."""

from pathlib import Path

import pytest
import torch
from toy import LinearModel, make_envs

import diffplan as dp
from diffplan.agents import Agent, GaussianNoise, PolicyAgent
from diffplan.errors import ArgumentError
from diffplan.models import RSSM, Actor, Critic
from diffplan.training import (
    Dreamer,
    DreamerConfig,
    OnlineConfig,
    OnlineTrainer,
    read_metrics,
)

BOX = dp.Box([-1.0], [1.0])


def model_and_actor() -> tuple[RSSM, Actor]:
    torch.manual_seed(0)
    model = RSSM((5,), 1, belief_size=8, state_size=4, hidden_size=8)
    return model, Actor(12, BOX, hidden_size=8, layers=1)


def test_it_asks_the_policy_about_its_belief() -> None:
    model, actor = model_and_actor()
    agent = PolicyAgent(model, actor, BOX)
    observations, memory = torch.randn(2, 3, 5), agent.initial_state(3, seed=0)
    belief, action = model.initial_state((3,)), torch.zeros(3, 1)
    for observation in observations:
        belief = model.observe(belief, action, observation)
        expected = actor(belief).detach()
        action, memory = agent.act(observation, memory)
        torch.testing.assert_close(action, expected)
    assert isinstance(agent, Agent)


def test_exploring_samples_the_policy_and_adds_noise() -> None:
    model, actor = model_and_actor()
    observation = torch.randn(3, 5)
    plain, noisy = (
        PolicyAgent(model, actor, BOX, exploration=noise)
        for noise in (None, GaussianNoise(0.3))
    )
    start = plain.initial_state(3, seed=0)
    acted = plain.act(observation, start)[0]
    sampled = plain.act(observation, start, explore=True)[0]
    noised = noisy.act(observation, start, explore=True)[0]
    assert not torch.equal(acted, sampled)
    assert not torch.equal(sampled, noised)
    assert BOX.contains(noised).all()
    # An environment's numbers do not depend on its neighbours.
    alone = plain.initial_state(1, seed=0, keys=torch.tensor([2]))
    one = plain.act(observation[2:], alone, explore=True)[0]
    torch.testing.assert_close(one[0], sampled[2])


def test_what_is_no_policy_is_refused() -> None:
    model, _ = model_and_actor()
    with pytest.raises(ArgumentError, match="got RSSM, which has none"):
        PolicyAgent(model, model, BOX)
    with pytest.raises(ArgumentError, match="policy: expected a function"):
        PolicyAgent(model, 0.5, BOX)


class Filtering(LinearModel):
    """The toy model with what Dreamer asks for."""

    state_size = 1

    def observe_sequence(self, batch: object, _: object) -> torch.Tensor:
        return batch.observations


def test_it_learns_with_dreamer_in_the_same_loop(tmp_path: Path) -> None:
    def trainer(folder: str) -> OnlineTrainer:
        torch.manual_seed(0)
        environments = make_envs(2, length=6)
        model = Filtering()
        actor = Actor(model.state_dim, BOX, hidden_size=4, layers=1)
        critic = Critic(model.state_dim, hidden_size=4, layers=1)
        return OnlineTrainer(
            model,
            PolicyAgent(model, actor, BOX, exploration=GaussianNoise(0.3)),
            environments,
            OnlineConfig(
                rounds=2,
                pretrain_updates=2,
                updates_per_round=2,
                batch_size=4,
                sequence_length=3,
                evaluate_every=1,
            ),
            seed=0,
            directory=tmp_path / folder,
            auxiliary=Dreamer(model, actor, critic, DreamerConfig(horizon=3), seed=0),
        )

    for folder in ("one", "two"):
        trainer(folder).run(tensorboard=False, quiet=True)
    rows = [
        [
            row
            for row in read_metrics(tmp_path / name / "metrics.csv")
            if not row["name"].startswith("time/")
        ]
        for name in ("one", "two")
    ]
    assert rows[0] == rows[1]
    assert {"train/actor_loss", "test/return"} <= {row["name"] for row in rows[0]}
