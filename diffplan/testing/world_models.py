"""Conformance checks for world models, your own included."""

import torch
from torch import Tensor

from diffplan.capabilities import (
    Acting,
    Decoding,
    Ending,
    Linearizable,
    Rewarding,
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
        state = model.observe(example, action, observation)
        same("observe(…).shape", state.shape, (3, model.state_dim))
        _check_leading_dimensions(model, state, action, tolerance)
        _check_nothing_is_broadcast(model, state, action, observation)
        _check_readouts(model, state, action, observation)
    if isinstance(model, Linearizable):
        _check_jacobians(model, state, action, tolerance)
    batch = SequenceBatch(
        observations=torch.stack([observation, observation.roll(1, 0)], dim=1),
        actions=drawn(3, 1, model.action_dim),
        rewards=drawn(3, 1),
        terminated=torch.tensor([[True], [False], [False]], device=generator.device),
    )
    _check_loss(model, batch, generator)


def _check_leading_dimensions(
    model: WorldModel, state: Tensor, action: Tensor, tolerance: float
) -> None:
    following = model.step(state, action)
    same("step(…).shape", following.shape, state.shape)
    close("model(state, action)", model(state, action), following, tolerance)
    wide = model.step(state[:, None], action[:, None])
    close("step with two leading dimensions", wide[:, 0], following, tolerance)
    single = torch.stack(
        [model.step(one, move) for one, move in zip(state, action, strict=True)]
    )
    close("step without leading dimensions", single, following, tolerance)


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
    model: WorldModel, state: Tensor, action: Tensor, observation: Tensor
) -> None:
    for given, move in (
        (state[0], action[0]),
        (state, action),
        (state[:, None], action[:, None]),
    ):
        lead = given.shape[:-1]
        if knows(model, Rewarding):
            arguments = (given, move) if takes_action(model.reward) else (given,)
            same("reward(…).shape", model.reward(*arguments).shape, lead)
        if knows(model, Valuing):
            same("value(…).shape", model.value(given).shape, lead)
        if knows(model, Acting):
            same("policy(…).shape", model.policy(given).shape, move.shape)
        if knows(model, Ending):
            share = model.continues(given)
            same("continues(…).shape", share.shape, lead)
            if not ((share >= 0) & (share <= 1)).all():
                fail(f"continues(…): expected probabilities, got {share}")
        if knows(model, Decoding):
            shape = (*lead, *observation.shape[1:])
            same("decode(…).shape", model.decode(given).shape, shape)


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
    model: WorldModel, batch: SequenceBatch, generator: torch.Generator
) -> None:
    before = torch.get_rng_state()
    record = model.loss(batch, generator)
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
