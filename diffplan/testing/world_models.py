"""Conformance checks for world models, your own included."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan._checked_model import predicted
from diffplan.capabilities import (
    Acting,
    Decoding,
    Encoding,
    Ending,
    Linearizable,
    Predictable,
    Rewarding,
    Rolling,
    Scaling,
    Valuing,
    knows,
    takes_action,
)
from diffplan.errors import DiffplanError, ShapeError
from diffplan.models.base import SequenceBatch, WorldModel
from diffplan.testing._assertions import answered, close, fail, refusal, same
from diffplan.testing._contexts import global_state_kept


def check_world_model(
    model: WorldModel, observation: Tensor, *, tolerance: float = 1e-4
) -> None:
    """Check that a world model keeps the promises of `WorldModel`.

    Capabilities that it has are checked, those that it lacks are not asked for. How
    large derivatives are is not: rounding inside may pass them straight through.

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
        alone = _Alone((model.state_dim,), example.dtype, tolerance)
        if knows(model, Encoding):
            alone.check("encode", model.encode, observation)
        state = alone.check("observe", model.observe, example, action, observation)
        following = alone.check("step", model.step, state, action)
        close("model(state, action)", model(state, action), following, tolerance)
        if knows(model, Predictable):
            _check_prediction(model, alone, state, action, following)
        if knows(model, Scaling) and observation.is_floating_point():
            _check_scale(model.scale, model.unscale, observation, tolerance)
        _check_nothing_is_broadcast(model, state, action, observation)
        _check_readouts(model, state, action, observation, tolerance)
        if knows(model, Rolling):
            _check_rollout(model, state, action, tolerance)
    _check_derivatives("step", model.step, generator, state, action)
    if knows(model, Rewarding):
        pair = (state, action) if takes_action(model.reward) else (state,)
        _check_derivatives("reward", model.reward, generator, *pair)
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

    Neither on its neighbours nor on the number of leading dimensions; it has the
    dtype of states, and the arguments stay as they are.
    """

    trailing: tuple[int, ...]
    dtype: torch.dtype
    tolerance: float

    def check(
        self, name: str, function: Callable[..., Tensor], *arguments: Tensor
    ) -> Tensor:
        with answered(f"{name}(…), for three states, for one and for [3, 1]"):
            return self._check(name, function, *arguments)

    def _check(
        self, name: str, function: Callable[..., Tensor], *arguments: Tensor
    ) -> Tensor:
        given = [argument.clone() for argument in arguments]
        whole = function(*given)
        for before, after in zip(arguments, given, strict=True):
            if not torch.equal(before, after):
                fail(f"{name}(…) changed an argument in place")
        same(f"{name}(…).shape", whole.shape, (len(arguments[0]), *self.trailing))
        same(f"{name}(…).dtype, as of initial_state", whole.dtype, self.dtype)
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


def _check_prediction(
    model: Predictable, alone: _Alone, state: Tensor, action: Tensor, following: Tensor
) -> None:
    for name in ("mean", "stddev"):

        def part(*where: Tensor, name: str = name) -> Tensor:
            return getattr(predicted(model, *where), name)

        got = alone.check(f"predict.{name}", part, state, action)
        if name == "mean":
            close("predict.mean(…), against step", got, following, alone.tolerance)
        elif not (got >= 0).all():
            fail(f"predict.stddev(…): expected at least 0, got {got}")


def _check_scale(
    scale: Callable[[Tensor], Tensor],
    unscale: Callable[[Tensor], Tensor],
    observation: Tensor,
    tolerance: float,
) -> None:
    # The second way round, for the first may round or clip.
    there = unscale(scale(observation))
    back = unscale(scale(there))
    close("unscale(scale(…)), against what it is given", back, there, tolerance)


def _check_readouts(
    model: WorldModel,
    state: Tensor,
    action: Tensor,
    observation: Tensor,
    tolerance: float,
) -> None:
    number = _Alone((), state.dtype, tolerance)
    if knows(model, Rewarding):
        arguments = (state, action) if takes_action(model.reward) else (state,)
        number.check("reward", model.reward, *arguments)
    if knows(model, Valuing):
        number.check("value", model.value, state)
    if knows(model, Acting):
        width = (action.shape[-1],)
        _Alone(width, state.dtype, tolerance).check("policy", model.policy, state)
    if knows(model, Ending):
        share = number.check("continues", model.continues, state)
        if not ((share >= 0) & (share <= 1)).all():
            fail(f"continues(…): expected probabilities, got {share}")
    if knows(model, Decoding):
        shape = tuple(observation.shape[1:])
        _Alone(shape, state.dtype, tolerance).check("decode", model.decode, state)


def _check_rollout(
    model: Rolling, state: Tensor, action: Tensor, tolerance: float
) -> None:
    actions = torch.stack([action, action.roll(1, 0), -action], dim=1)
    states = [state]
    for step in range(actions.shape[1]):
        following = model.step(states[-1], actions[:, step])  # type: ignore[attr-defined]
        states.append(following)
    shape = (len(states), state.shape[-1])
    alone = _Alone(shape, state.dtype, tolerance)
    got = alone.check("rollout", model.rollout, state, actions)
    close("rollout, against step by step", got, torch.stack(states, 1), tolerance)


def _check_derivatives(
    name: str,
    function: Callable[..., Tensor],
    generator: torch.Generator,
    *arguments: Tensor,
) -> None:
    """Forward and reverse mode agree, and a result has a graph to what moves it.

    Finite differences do not say how large a derivative is, for that of a number that
    is rounded inside is one by declaration. They say whether a result moves smoothly;
    one that jumps, such as an entry of a table, needs no graph.
    """

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device).to(like)

    leaves = [argument.detach().clone().requires_grad_() for argument in arguments]
    value = function(*leaves)
    if not value.requires_grad:
        return  # of something that is no function of torch, or of frozen parameters
    towards, weight = [drawn(leaf) for leaf in leaves], drawn(value)
    slopes = torch.autograd.grad((weight * value).sum(), leaves, allow_unused=True)
    for index, slope in enumerate(slopes):
        if slope is None and _moves_smoothly(function, arguments, towards, index):
            what = ("state", "action")[index]
            fail(
                f"{name}(…) moves with the {what}, but no graph leads there: expected "
                "one to descend along; detach in `loss`, where a term must not reach it"
            )
    try:
        tangent = torch.func.jvp(function, arguments, tuple(towards))[1]
    except (DiffplanError, RuntimeError):
        return  # some operation has no forward mode
    backward = torch.zeros_like(tangent.sum())
    for slope, along in zip(slopes, towards, strict=True):
        backward = backward if slope is None else backward + (slope * along).sum()
    scale = 1 + (weight * tangent).abs().sum()
    forward = (weight * tangent).sum() / scale
    close(
        f"the derivative of {name}(…), backward against forward mode",
        backward / scale,
        forward,
        1e-3,
    )


def _moves_smoothly(
    function: Callable[..., Tensor],
    arguments: Sequence[Tensor],
    towards: Sequence[Tensor],
    index: int,
) -> bool:
    """Return whether every result moves along a direction, as a line does."""

    def values(shift: float) -> Tensor:
        moved = [*arguments]
        moved[index] = arguments[index] + shift * towards[index]
        return function(*moved).detach().double().reshape(len(arguments[index]), -1)

    behind, here, ahead = values(-1e-2), values(0.0), values(1e-2)
    far, bent = (ahead - behind).norm(dim=1), (ahead - 2 * here + behind).norm(dim=1)
    return bool(((far > 1e-4) & (bent < 0.1 * far)).all())


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
    again = torch.Generator(generator.device).set_state(generator.get_state())
    modes, given = [part.training for part in model.modules()], copy.deepcopy(batch)
    with global_state_kept("loss"), answered("loss(…)"):
        record = model.loss(batch, generator)
        repeated = model.loss(batch, again).total
    for name, value in vars(given).items():
        if not torch.equal(getattr(batch, name), value):
            fail(f"loss(…) changed batch.{name} in place")
    close("loss with an equal generator", repeated, record.total, tolerance)
    after = [part.training for part in model.modules()]
    same("model.training after loss, of all modules", after, modes)
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
