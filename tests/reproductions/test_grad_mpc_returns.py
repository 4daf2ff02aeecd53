"""What plans with a value of their end are worth: each reward counts once."""

import pytest
import torch
from torch import Tensor, nn

from diffplan import Box
from diffplan.models import Actor
from diffplan.training.dreamer import Dreamer
from examples.planners.dream_mpc import ReturnAndValue
from reproductions.grad_mpc import contest
from reproductions.grad_mpc.contest import Contender
from reproductions.grad_mpc.dreamer_settings import LEARNING
from reproductions.grad_mpc.online import Policy

REWARDS = torch.tensor([0.0, 5.0, 1.0, 0.0, -2.0, 3.0, 0.0, 0.0])
"""On arrival at each place of a chain; from the last one nothing leads on."""
GAMMA = 0.99
BOX = Box([-1.0], [1.0])


class Chain(nn.Module):
    """A world that moves one place on, whatever is done."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def reward(self, state: Tensor) -> Tensor:
        return REWARDS[state[..., 0].long()]

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return (state + 1).clamp(max=len(REWARDS) - 1) + 0 * action

    def observe_sequence(self, batch: object, generator: object) -> Tensor:
        raise NotImplementedError


class Value(nn.Module):
    """What a state earns and all after it, exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        powers = GAMMA ** torch.arange(len(REWARDS))
        self.of = torch.stack(
            [(powers[: len(REWARDS) - i] * REWARDS[i:]).sum() for i in range(8)]
        )

    def forward(self, state: Tensor) -> Tensor:
        return self.of[state[..., 0].long()] + 0 * self.unused


def earned(start: int) -> float:
    """What follows a place, as an episode counts it."""
    return sum(GAMMA**i * r for i, r in enumerate(REWARDS[start + 1 :].tolist()))


def test_dreamers_critic_learns_the_value_with_the_states_own_reward() -> None:
    actor = Actor(1, BOX, hidden_size=4, layers=1)
    config = LEARNING.replaced(last="bootstrap", horizon=4).build()
    assert config.discount == GAMMA
    learner = Dreamer(Chain(), actor, Value(), config, seed=0)
    _, loss, _ = learner.losses(torch.arange(8.0)[:, None])
    assert loss.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize(
    "contender",
    [
        contest.refined(3, 10, 0.1),
        contest.refined(3, 10, 0.1, "least"),
        contest.dream_mpc(False, False),
        contest.dream_mpc(True, True),
        Contender("policy_cem", "from_policy", objective="return"),
    ],
    ids=lambda each: each.name,
)
def test_a_plan_is_worth_what_it_earns(contender: Contender, horizon: int) -> None:
    """Of exact critics, which nothing can be doubted about."""
    actor = Actor(1, BOX, hidden_size=4, layers=1)
    policy = Policy(actor, nn.ModuleList([Value(), Value()]))
    objective = contender._objective(Chain(), policy)  # type: ignore[arg-type]
    for start in range(4):
        states = torch.arange(start, start + horizon + 1.0)[:, None]
        cost = objective(states, torch.zeros(horizon, 1))
        assert -cost.item() == pytest.approx(earned(start), abs=1e-5)


def test_equation_6_is_the_value_of_the_next_state() -> None:
    policy = Policy(Actor(1, BOX, hidden_size=4), nn.ModuleList([Value()]))
    found = contest.refined(1, 10, 0.1)._objective(Chain(), policy)  # type: ignore[arg-type]
    cost = found(torch.tensor([[2.0], [3.0]]), torch.zeros(1, 1))
    assert -cost.item() == pytest.approx(earned(2), abs=1e-5)


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_a_reward_of_the_action_is_not_in_the_last_state_yet(discount: float) -> None:
    states, actions = torch.tensor([[1.0], [2.0], [4.0]]), torch.ones(2, 1)
    given = {"discount": discount, "value": lambda state: 10 * state[..., 0]}
    of_state = ReturnAndValue(lambda state: state[..., 0], **given)
    of_both = ReturnAndValue(lambda state, action: (state + action)[..., 0], **given)
    expected = 2 + discount * 40
    assert -of_state(states, actions).item() == pytest.approx(expected)
    expected = 2 + discount * 3 + discount**2 * 40
    assert -of_both(states, actions).item() == pytest.approx(expected)
