"""Conformance checks for world models, your own included."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.capabilities import (
    Acting,
    Decoding,
    Encoding,
    Ending,
    Linearizable,
    Rewarding,
    Rolling,
    Valuing,
    knows,
    takes_action,
)
from diffplan.errors import ShapeError
from diffplan.models.base import SequenceBatch, WorldModel
from diffplan.testing._assertions import close, fail, refusal, same


def check_world_model(
    model: WorldModel, observation: Tensor, *, tolerance: float = 1e-4
) -> None:
    """Check that a world model keeps the promises of `WorldModel`.

    Capabilities that it has are checked, those that it lacks are not asked for.

    Args:
        model: Any world model.
        observation: An example `[3, …]`, three observations of a float vector or of a
            uint8 image.
        tolerance: Absolute tolerance where two ways to one number are compared.

    Raises:
        AssertionError: says which promise is broken.
    """
    same("the number of example observations", len(observation), 3)
    generator = torch.Generator(observation.device).manual_seed(0)
    example = model.initial_state((3,))
    same("initial_state((3,)).shape", example.shape, (3, model.state_dim))
    same("initial_state().shape", model.initial_state().shape, (model.state_dim,))

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=generator.device)
        return 0.3 * values.to(example)

    action = drawn(3, model.action_dim)
    with torch.no_grad():
        alone = _Alone((model.state_dim,), tolerance)
        if knows(model, Encoding):
            alone.check("encode", model.encode, observation)
        state = alone.check("observe", model.observe, example, action, observation)
        following = alone.check("step", model.step, state, action)
        close("model(state, action)", model(state, action), following, tolerance)
        _check_nothing_is_broadcast(model, state, action, observation)
        _check_readouts(model, state, action, observation, tolerance)
        if knows(model, Rolling):
            _check_rollout(model, state, action, tolerance)
    if isinstance(model, Linearizable):
        _check_jacobians(model, state, action, tolerance)
    batch = SequenceBatch(
        observations=torch.stack([observation, observation.roll(1, 0)], dim=1),
        actions=drawn(3, 1, model.action_dim),
        rewards=drawn(3, 1),
        terminated=torch.tensor([[True], [False], [False]], device=generator.device),
    )
    _check_loss(model, batch, generator, tolerance)


@dataclass(frozen=True)
class _Alone:
    """What a function says of a state depends on that state alone.

    Neither on its neighbours nor on the number of leading dimensions; and the arguments
    stay as they are.
    """

    trailing: tuple[int, ...]
    tolerance: float

    def check(
        self, name: str, function: Callable[..., Tensor], *arguments: Tensor
    ) -> Tensor:
        given = [argument.clone() for argument in arguments]
        whole = function(*given)
        for before, after in zip(arguments, given, strict=True):
            if not torch.equal(before, after):
                fail(f"{name}(…) changed an argument in place")
        same(f"{name}(…).shape", whole.shape, (len(arguments[0]), *self.trailing))
        wide = function(*(argument[:, None].clone() for argument in arguments))
        words = f"{name} with two leading dimensions"
        close(words, wide, whole[:, None], self.tolerance)
        singles = [
            function(*(argument[index].clone() for argument in arguments))
            for index in range(len(whole))
        ]
        words = f"{name} without leading dimensions"
        close(words, torch.stack(singles), whole, self.tolerance)
        return whole


def _check_nothing_is_broadcast(
    model: WorldModel, state: Tensor, action: Tensor, observation: Tensor
) -> None:
    for size in (1, 2):
        words = f"{size} for three states"
        with refusal(ShapeError, "observation", f"observe with observations: {words}"):
            model.observe(state, action, observation[:size])
        with refusal(ShapeError, "action", f"observe with actions: {words}"):
            model.observe(state, action[:size], observation)


def _check_readouts(
    model: WorldModel,
    state: Tensor,
    action: Tensor,
    observation: Tensor,
    tolerance: float,
) -> None:
    number = _Alone((), tolerance)
    if knows(model, Rewarding):
        arguments = (state, action) if takes_action(model.reward) else (state,)
        number.check("reward", model.reward, *arguments)
    if knows(model, Valuing):
        number.check("value", model.value, state)
    if knows(model, Acting):
        width = (action.shape[-1],)
        _Alone(width, tolerance).check("policy", model.policy, state)
    if knows(model, Ending):
        share = number.check("continues", model.continues, state)
        if not ((share >= 0) & (share <= 1)).all():
            fail(f"continues(…): expected probabilities, got {share}")
    if knows(model, Decoding):
        shape = tuple(observation.shape[1:])
        _Alone(shape, tolerance).check("decode", model.decode, state)


def _check_rollout(
    model: Rolling, state: Tensor, action: Tensor, tolerance: float
) -> None:
    actions = torch.stack([action, action.roll(1, 0), -action], dim=1)
    states = [state]
    for step in range(actions.shape[1]):
        following = model.step(states[-1], actions[:, step])  # type: ignore[attr-defined]
        states.append(following)
    shape = (len(states), state.shape[-1])
    got = _Alone(shape, tolerance).check("rollout", model.rollout, state, actions)
    close("rollout, against step by step", got, torch.stack(states, 1), tolerance)


def _check_jacobians(
    model: Linearizable, state: Tensor, action: Tensor, tolerance: float
) -> None:
    following, by_state, by_action = model.linearize(state, action)
    step = model.step  # type: ignore[attr-defined]
    close("linearize(…)[0]", following, step(state, action), tolerance)
    jacobians = torch.func.vmap(torch.func.jacrev(step, argnums=(0, 1)))
    expected_state, expected_action = jacobians(state, action)
    close("linearize(…)[1]", by_state, expected_state, tolerance)
    close("linearize(…)[2]", by_action, expected_action, tolerance)


def _check_loss(
    model: WorldModel,
    batch: SequenceBatch,
    generator: torch.Generator,
    tolerance: float,
) -> None:
    before = torch.get_rng_state()
    again = torch.Generator(generator.device).set_state(generator.get_state())
    record = model.loss(batch, generator)
    repeated = model.loss(batch, again).total
    close("loss with an equal generator", repeated, record.total, tolerance)
    if not torch.equal(before, torch.get_rng_state()):
        fail("loss changed the global random state; use the generator")
    same("loss(…).total.shape", record.total.shape, ())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        record.total, list(trained.values()), allow_unused=True
    )
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is None or not torch.isfinite(gradient).all():
            fail(f"loss has no finite gradient into the parameter {name}")
    for name, value in record.metrics.items():
        if value.requires_grad or value.ndim:
            fail(f"metrics[{name!r}]: expected a scalar without a graph")
