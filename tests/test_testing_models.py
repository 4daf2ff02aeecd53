"""The public checks of world models: they pass what is right, catch what is not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted_functions import Identity
from torch import Tensor
from torch.distributions import Normal

from diffplan.models import RSSM
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.testing import check_world_model


def model() -> RSSM:
    return RSSM(
        observation_shape=(5,),
        action_dim=2,
        belief_size=8,
        state_size=3,
        embedding_size=6,
        hidden_size=8,
        free_nats=0.0,  # else the KL term, and its gradient, may be cut off
    )


OBSERVATION = torch.linspace(-1, 1, 15).reshape(3, 5)


def test_a_right_world_model_passes() -> None:
    check_world_model(model(), OBSERVATION)


def test_a_wrong_jacobian_is_caught() -> None:
    class Wrong(RSSM):
        def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            following, by_state, by_action = super().linearize(state, action)
            return following, 1.1 * by_state, by_action

    wrong = model()
    wrong.__class__ = Wrong
    with pytest.raises(AssertionError, match="linearize"):
        check_world_model(wrong, OBSERVATION)


def test_a_parameter_that_is_not_trained_is_caught() -> None:
    wrong = model()
    wrong.forgotten = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="forgotten"):
        check_world_model(wrong, OBSERVATION)


def test_one_observation_for_many_states_is_caught() -> None:
    class Wrong(RSSM):
        def observe(self, state: Tensor, action: Tensor, *rest: Tensor) -> Tensor:
            seen = rest[0].expand(*state.shape[:-1], -1)
            return super().observe(state, action, seen, *rest[1:])

    wrong = model()
    wrong.__class__ = Wrong
    with pytest.raises(
        AssertionError, match="expected ShapeError naming 'observation'"
    ):
        check_world_model(wrong, OBSERVATION)


def test_a_batch_that_mixes_is_caught() -> None:
    class Wrong(RSSM):
        def step(self, state: Tensor, action: Tensor) -> Tensor:
            return super().step(state, action) + state.mean()

    wrong = model()
    wrong.__class__ = Wrong
    with pytest.raises(AssertionError, match=r"step with|step without"):
        check_world_model(wrong, OBSERVATION)


class Linear(WorldModel):
    """A small right model, of which the wrong ones below are made."""

    state_dim, action_dim = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(5, 4), torch.nn.Linear(4, 5)
        self.dynamics, self.rewards = torch.nn.Linear(6, 4), torch.nn.Linear(4, 1)

    def encode(self, observation: Tensor) -> Tensor:
        return self.encoder(observation)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return self.dynamics(torch.cat([state, action], dim=-1)).tanh()

    def decode(self, state: Tensor) -> Tensor:
        return self.decoder(state)

    def reward(self, state: Tensor) -> Tensor:
        return self.rewards(state)[..., 0]

    def value(self, state: Tensor) -> Tensor:
        return state.sum(dim=-1)

    def continues(self, state: Tensor) -> Tensor:
        return state.mean(dim=-1).sigmoid()

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        states = [state]
        for action in actions.unbind(dim=-2):
            states.append(self.step(states[-1], action))
        return torch.stack(states, dim=-2)

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        seen = self.encode(batch.observations)
        noise = torch.randn(seen.shape, generator=generator)
        states = self.step((seen + noise)[:, :-1], batch.actions)
        errors = (
            states - seen[:, 1:],
            self.reward(states) - batch.rewards,
            self.decode(seen) - batch.observations,
        )
        return LossRecord(sum(error.square().mean() for error in errors), {})


def test_a_model_with_all_readouts_passes() -> None:
    check_world_model(Linear(), OBSERVATION)


@pytest.mark.parametrize(
    "name", ["encode", "observe", "reward", "value", "continues", "decode"]
)
def test_a_capability_that_sees_its_neighbours_is_caught(name: str) -> None:
    def mixed(self: Linear, *arguments: Tensor) -> Tensor:
        result = getattr(Linear, name)(self, *arguments)
        return result - result.mean()

    wrong = type("Wrong", (Linear,), {name: mixed})()
    with pytest.raises(AssertionError, match=f"{name} without leading dimensions"):
        check_world_model(wrong, OBSERVATION)


def test_a_readout_that_counts_dimensions_is_caught() -> None:
    class Wrong(Linear):
        def reward(self, state: Tensor) -> Tensor:
            return super().reward(state) * (state.ndim < 3)

    with pytest.raises(AssertionError, match="reward with two leading dimensions"):
        check_world_model(Wrong(), OBSERVATION)


def test_a_rollout_that_is_not_its_steps_is_caught() -> None:
    class Wrong(Linear):
        def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
            return super().rollout(state, 0.9 * actions)

    with pytest.raises(AssertionError, match="rollout, against step by step"):
        check_world_model(Wrong(), OBSERVATION)


@pytest.mark.parametrize(
    ("name", "changed"), [("encode", 0), ("observe", 0), ("step", 0), ("step", 1)]
)
def test_a_model_that_changes_its_arguments_is_caught(name: str, changed: int) -> None:
    def careless(self: Linear, *arguments: Tensor) -> Tensor:
        result = getattr(Linear, name)(self, *arguments)
        arguments[changed].add_(1.0)
        return result

    wrong = type("Wrong", (Linear,), {name: careless})()
    with pytest.raises(AssertionError, match=rf"{name}\(…\) changed an argument"):
        check_world_model(wrong, OBSERVATION)


def test_a_loss_with_noise_of_its_own_is_caught() -> None:
    class Wrong(Linear):
        calls = 0

        def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
            self.calls += 1
            return super().loss(batch, torch.Generator().manual_seed(self.calls))

    with pytest.raises(AssertionError, match="loss with an equal generator"):
        check_world_model(Wrong(), OBSERVATION)


class Wrong(Identity):
    """The same number, with two derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(context: object, tangent: Tensor) -> Tensor:
        return 2 * tangent


def likely(self: Linear, state: Tensor, action: Tensor) -> Normal:
    """What a right model predicts."""
    mean = self.step(state, action)
    return Normal(mean, torch.ones_like(mean))


def other_mean(self: Linear, state: Tensor, action: Tensor) -> Normal:
    return Normal(self.step(state, action) + 0.1, torch.ones_like(state))


def spread_of_a_batch(self: Linear, state: Tensor, action: Tensor) -> Normal:
    spread = 1 + state.square().mean() * torch.ones_like(state)
    return Normal(self.step(state, action), spread)


def spread_below_zero(self: Linear, state: Tensor, action: Tensor) -> Normal:
    mean = self.step(state, action)
    return Normal(mean, -torch.ones_like(mean), validate_args=False)


def mean_of_a_batch(self: Linear, state: Tensor, action: Tensor) -> Normal:
    return Normal(self.step(state, action).mean(0), torch.ones(4))


def double_step(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    return Linear.step(self, state, action).double()


def double_reward(self: Linear, state: Tensor) -> Tensor:
    return Linear.reward(self, state).double()


def step_by_state_alone(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    return Linear.step(self, state, action.detach())


def detached_reward(self: Linear, state: Tensor) -> Tensor:
    return Linear.reward(self, state.detach())


def step_of_two_derivatives(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    return Wrong.apply(Linear.step(self, state, action))


def normalised_step(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    flat = state.reshape(-1, 4)
    seen = torch.nn.functional.batch_norm(flat, None, None, training=True)
    return Linear.step(self, seen.reshape(state.shape), action)


def loss_in_evaluation(self: Linear, *given: object) -> LossRecord:
    self.eval()
    return Linear.loss(self, *given)


def loss_in_place(self: Linear, batch: SequenceBatch, *rest: object) -> LossRecord:
    record = Linear.loss(self, batch, *rest)
    batch.rewards.mul_(1.0001)
    return record


def numpys_loss(self: Linear, *given: object) -> LossRecord:
    record = Linear.loss(self, *given)
    noise = 1e-6 * float(np.random.rand())
    return LossRecord(record.total + noise, {})


def double_start(self: Linear, batch: tuple[int, ...] = ()) -> Tensor:
    return torch.zeros(*batch, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("predict", other_mean, r"predict\.mean\(…\), against step: differs by 0\.1"),
        ("predict", spread_of_a_batch, r"predict\.stddev without leading dimensions"),
        ("predict", spread_below_zero, r"predict\.stddev\(…\): expected at least 0"),
        ("predict", mean_of_a_batch, r"predict\.mean\(…\), for three .* ShapeError"),
        ("step", double_step, r"step\(…\)\.dtype.* torch\.float32, got torch\.float64"),
        ("reward", double_reward, r"reward\(…\)\.dtype, .* got torch\.float64"),
        ("step", step_by_state_alone, r"step\(…\) moves with the action, but no graph"),
        ("reward", detached_reward, r"reward\(…\) moves with the state, but no graph"),
        ("step", step_of_two_derivatives, "step.* backward against forward mode"),
        (
            "step",
            normalised_step,
            r"step\(…\), for three .* expected an answer, got Val",
        ),
        ("loss", loss_in_evaluation, r"model\.training after loss"),
        ("loss", loss_in_place, r"loss\(…\) changed batch\.rewards in place"),
        ("loss", numpys_loss, "NumPy's global random state, which loss must"),
        ("initial_state", double_start, r"encode\(…\)\.dtype, as of initial_state"),
    ],
)
def test_a_method_that_breaks_a_promise_is_caught(
    name: str, method: Callable[..., object], words: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=words):
        check_world_model(type("Wrong", (Linear,), {name: method})(), OBSERVATION)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_an_unscale_that_does_not_lead_back_is_caught(shift: float) -> None:
    class Scaled(Linear):
        def scale(self, observation: Tensor) -> Tensor:
            return (observation / 2).clamp(-0.4, 0.4)  # clips, as it may

        def unscale(self, value: Tensor) -> Tensor:
            return 2 * value + shift

    if shift == 0:
        check_world_model(Scaled(), OBSERVATION)
        return
    with pytest.raises(AssertionError, match=r"unscale\(scale\(…\)\)"):
        check_world_model(Scaled(), OBSERVATION)


def rounded_step(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    """Eighths, with the derivative of what is rounded."""
    smooth = Linear.step(self, state, action)
    return smooth + ((8 * smooth).round() / 8 - smooth).detach()


def choosing_step(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    """An action is one of two rows: no graph leads to it."""
    chosen = torch.nn.functional.one_hot(action.argmax(-1), 2).to(state)
    return Linear.step(self, state, chosen)


def black_box_reward(self: Linear, state: Tensor) -> Tensor:
    return Linear.reward(self, state).detach() + state.sum(-1).detach()


def fitted_elsewhere(self: Linear, *given: object) -> LossRecord:
    """A loss for a reward that nobody trains."""
    seen = self.encode(given[0].observations)
    record = Linear.loss(self, *given)
    return LossRecord(record.total + self.rewards(seen).square().mean(), {})


def one_way_step(self: Linear, state: Tensor, action: Tensor) -> Tensor:
    return Identity.apply(Linear.step(self, state, action))


@pytest.mark.parametrize(
    "methods",
    [
        {"predict": likely},
        {"step": rounded_step},
        {"step": choosing_step},
        {"step": one_way_step},
        {"reward": black_box_reward, "loss": fitted_elsewhere},
    ],
)
def test_a_right_model_without_smooth_derivatives_passes(
    methods: dict[str, Callable[..., object]],
) -> None:
    torch.manual_seed(0)
    check_world_model(type("Right", (Linear,), methods)(), OBSERVATION)
