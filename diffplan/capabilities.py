"""What models and objectives may know about themselves, and where it is looked for.

A capability is a method that not every model has: an analytic Jacobian, a decoder, a
value; or an objective's second derivatives. Those that make planning faster are found
on the object behind the dynamics, however they were handed over (see `model_behind`).
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from diffplan.errors import ArgumentError

__all__ = [
    "Acting",
    "Decoding",
    "Encoding",
    "Ending",
    "Jacobians",
    "Linearizable",
    "Observing",
    "Part",
    "Predictable",
    "Quadratizable",
    "Rewarding",
    "Rolling",
    "Scaling",
    "Stepping",
    "Summing",
    "Valuing",
    "knows",
    "knows_curvature",
    "model_behind",
    "policy_of",
    "takes_action",
]

_CapabilityT = TypeVar("_CapabilityT")

Jacobians = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""`(state […, S], action […, A]) → next […, S], A […, S, S], B […, S, A]`."""


@runtime_checkable
class Linearizable(Protocol):
    """Dynamics that know their own Jacobian (for an RSSM 6× faster than autodiff)."""

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return next state `[…, S]` and Jacobians `[…, S, S]` and `[…, S, A]`."""
        ...


@runtime_checkable
class Predictable(Protocol):
    """Dynamics that know the distribution of the next state; it may take the `time`."""

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        """Return the distribution of the next state, mean and spread `[…, S]`."""
        ...


@runtime_checkable
class Rolling(Protocol):
    """Dynamics that know a whole rollout, in fewer operations than step by step.

    Those that take the `time` are told the numbers of all steps `[T]`.
    """

    def rollout(
        self, state: Float[Tensor, "*batch S"], actions: Float[Tensor, "*batch T A"]
    ) -> Float[Tensor, "*batch T+1 S"]:
        """Return the states that actions lead to, the given one first."""
        ...


@runtime_checkable
class Quadratizable(Protocol):
    """An objective that knows its own second derivatives: autodiff is not needed."""

    def quadratize(
        self,
        states: Float[Tensor, "*batch T+1 S"],
        actions: Float[Tensor, "*batch T A"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Expand the cost about a trajectory to second order.

        Returns:
            Hessian `[…, T, n, n]` and gradient `[…, T, n]` of the cost of each step by
            (u_t, x_t), n = A + S; Hessian `[…, S, S]` and gradient `[…, S]` of the cost
            of the last state. Hessians are symmetric; one that is the same everywhere
            may be an expanded tensor.
        """
        ...


class Part(NamedTuple):
    """An objective within a sum.

    Attributes:
        objective: What is summed.
        weight: That it is multiplied by.
        hides: How many numbers at the end of a state it does not see.
    """

    objective: Callable[[Tensor, Tensor], Tensor]
    weight: float = 1.0
    hides: int = 0


class Summing(Protocol):
    """An objective that is a sum: what its terms know of themselves is used."""

    def parts(self) -> Sequence[Part]:
        """Return what is summed."""
        ...


@runtime_checkable
class Stepping(Protocol):
    """A model that predicts: all that is needed to plan with it."""

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state `[…, S]` after `action […, A]`."""
        ...


class Encoding(Protocol):
    """A model that needs no memory: an observation tells it the state."""

    def encode(self, observation: Tensor) -> Tensor:
        """Return the planning state `[…, S]` of an observation `[…, *shape]`."""
        ...


class Observing(Protocol):
    """A model that filters: what it believes depends on all that was seen."""

    def observe(self, state: Tensor, action: Tensor, observation: Tensor) -> Tensor:
        """Return the state `[…, S]` after `action […, A]` led to `observation`."""
        ...


class Scaling(Protocol):
    """A model that knows in what units its observations are about one in size."""

    def scale(self, observation: Tensor) -> Tensor:
        """Return an observation `[…, *shape]` in these units."""
        ...

    def unscale(self, value: Tensor) -> Tensor:
        """Return the observation that `scale` made `[…, *shape]` of."""
        ...


class Decoding(Protocol):
    """A model that can show what a state looks like."""

    def decode(self, state: Tensor) -> Tensor:
        """Return the observation `[…, *shape]`; images as floats around [0, 1]."""
        ...


class Rewarding(Protocol):
    """A model that predicts rewards; whether of actions, `takes_action` says."""

    def reward(self, *state_and_action: Tensor) -> Tensor:
        """Return the reward `[…]` of `(state […, S])` or `(state, action […, A])`."""
        ...


class Ending(Protocol):
    """A model that knows where its task ends."""

    def continues(self, state: Tensor) -> Tensor:
        """Return the probability `[…]` that the task has not ended in the state."""
        ...


class Valuing(Protocol):
    """A model that knows what is still to come."""

    def value(self, state: Tensor) -> Tensor:
        """Return the expected return `[…]` from a state `[…, S]` on."""
        ...


class Acting(Protocol):
    """A model with a policy of its own."""

    def policy(self, state: Tensor) -> Tensor:
        """Return the action `[…, A]` for a state `[…, S]`."""
        ...


def knows(model: object, capability: type[_CapabilityT]) -> TypeGuard[_CapabilityT]:
    """Return whether a model has a capability: methods or submodules of these names.

    Python's own `isinstance` would overlook a submodule, from 3.12 on.

    Args:
        model: Any object.
        capability: One of this file's protocols.

    Example:
        >>> model = nn.Module()
        >>> model.decode = nn.Linear(2, 3)
        >>> knows(model, Decoding), knows(model, Acting)
        (True, False)
    """
    names = (name for name in vars(capability) if not name.startswith("_"))
    return all(callable(getattr(model, name, None)) for name in names)


def knows_curvature(objective: object) -> bool:
    """Return whether an objective, or each term of a sum, is `Quadratizable`.

    Args:
        objective: Any.
    """
    if knows(objective, Quadratizable):
        return True
    if not knows(objective, Summing):
        return False
    return all(knows_curvature(part.objective) for part in objective.parts())


def policy_of(policy: object) -> Callable[[Tensor], Tensor]:
    """Return a policy that was handed over itself, or within a model that has one.

    Args:
        policy: `state […, S] → action […, A]`, or an object with such a `policy`.

    Raises:
        ArgumentError: it is neither. A model that can be called predicts, which is no
            policy.

    Example:
        >>> policy_of(torch.zeros_like) is torch.zeros_like
        True
    """
    if knows(policy, Acting):
        return policy.policy
    if callable(policy) and not knows(policy, Stepping):
        return policy
    raise ArgumentError(
        "policy: expected a function of the state, or a model that has a policy, got "
        f"{type(policy).__name__}, which has none"
    )


def takes_action(reward: Callable[..., object]) -> bool:
    """Return whether a reward is one of state and action, `reward(state, action)`.

    It is if it has a second argument that must be given by position, other than the
    `time`; otherwise it is the reward on arrival in a state. Ask once, where an
    objective is built.

    Args:
        reward: A world model's `reward`, a module or any function; it may say so
            itself, by an attribute `takes_action`.

    Example:
        >>> takes_action(lambda state, action: state[..., 0] * action[..., 0])
        True
        >>> takes_action(lambda state, scale=1.0: scale * state[..., 0])
        False
    """
    said = getattr(reward, "takes_action", None)
    if isinstance(said, bool):
        return said
    # Calling a module takes anything: what it takes is written in its forward.
    function = reward.forward if isinstance(reward, nn.Module) else reward
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Nothing can be known of it.
        return False
    positions = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    needed = [
        p.name for p in parameters if p.kind in positions and p.default is p.empty
    ]
    return len(needed) > 1 and needed[1] != "time"


def model_behind(dynamics: object) -> object:
    """Return the object whose capabilities are those of the dynamics.

    For an object that is called itself, such as a module, that is the object. A bound
    method stands for its object if it is the method `step`, or if it is what calling
    the object runs (`forward` of a module, `__call__`) and the class has no other
    `step`: a `forward` that is not `step` has a Jacobian of its own. A `partial`
    without arguments stands for what it wraps.

    Nothing can be seen through a lambda or any other function, which stands for itself;
    see `PlanningProblem`'s argument `linearize`.

    Args:
        dynamics: As they were handed over.

    Example:
        >>> from diffplan.models.analytic import Pendulum
        >>> model = Pendulum()
        >>> model_behind(partial(model.step)) is model_behind(model.forward) is model
        True
    """
    while isinstance(dynamics, partial) and not (dynamics.args or dynamics.keywords):
        dynamics = dynamics.func
    owner = getattr(dynamics, "__self__", None)
    function = getattr(dynamics, "__func__", None)
    if owner is None or function is None or isinstance(owner, type):
        return dynamics
    kind = type(owner)
    step = getattr(kind, "step", None)
    calls = [getattr(kind, name, None) for name in ("__call__", "forward")]
    if function is step:
        return owner
    if function in calls and (step in (None, *calls) or _only_calls_step(kind)):
        return owner
    return dynamics


def _only_calls_step(kind: type) -> bool:
    """Return whether calling an object returns what its `step` makes of the arguments.

    Found out with a stand-in for the object, which has nothing but a `step`: comparing
    numbers would need a state, and could be right by chance.
    """
    called = kind.forward if issubclass(kind, nn.Module) else kind.__call__
    state, action, following = (torch.empty(0) for _ in range(3))

    def step(given: object, second: object, *_: object) -> Tensor | None:
        return following if given is state and second is action else None

    try:
        return called(SimpleNamespace(step=step), state, action) is following
    except Exception:  # it needs more than `step`, so it is something else
        return False
