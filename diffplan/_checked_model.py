"""Dynamics and objective, called through a check.

Whatever asks a user's function for something during planning asks here, so that a wrong
shape is named once and never broadcast. The terms of a `StageObjective` are checked by
that class itself, wherever they are called.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.distributions import Normal

from diffplan._checks import describe
from diffplan._one_line import brief, listed
from diffplan._problem_data import with_stand_ins
from diffplan._segments import at, step_numbers, takes_time
from diffplan._user_functions import call, require_result
from diffplan.capabilities import (
    Jacobians,
    Linearizable,
    Predictable,
    Rolling,
    knows,
    knows_curvature,
    model_behind,
)
from diffplan.errors import TensorTypeError, UnsupportedProblemError
from diffplan.functional._isolation import StandIns
from diffplan.functional._rollout import rollout
from diffplan.functional.linearize import linearize_dynamics

CapabilityT = TypeVar("CapabilityT")
ModelT = TypeVar("ModelT", bound="CheckedModel")

_SHOWN = ("action_space", "action_constraints", "state_constraints", "num_particles")

ANY_LEAD = (
    "dynamics take any leading dimensions; a model that needs 2-D input does so by "
    "model(state.flatten(0, -2), action.flatten(0, -2)).unflatten(0, state.shape[:-1])"
)
ALIGNED = (
    "objectives take any leading dimensions, such as candidates [B, N]; data of each "
    "problem need their place, as in GoalDistance(goal), or goal[:, None] before "
    "candidates"
)

Dynamics = Callable[..., Tensor]
"""`(state […, S], action […, A]) → next_state […, S]`, for any leading dimensions.

They may take the argument `time` besides, see `diffplan._segments`.
"""

Objective = Callable[[Tensor, Tensor], Tensor]
"""`(states […, T+1, S], actions […, T, A]) → cost […]`, to be minimised."""


class CheckedModel:
    """Base of `PlanningProblem`: what it knows of its dynamics and its objective.

    Args:
        dynamics: See `Dynamics`.
        objective: See `Objective`.
        linearize: See `PlanningProblem`.

    Raises:
        TensorTypeError: an argument is not callable.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        objective: Objective,
        linearize: Jacobians | None = None,
    ) -> None:
        for name, value in (("dynamics", dynamics), ("objective", objective)):
            if not callable(value):
                raise TensorTypeError(
                    f"{name}: expected a callable, got {type(value).__name__}"
                )
        if linearize is not None and not callable(linearize):
            raise TensorTypeError(
                f"linearize: expected a callable, got {type(linearize).__name__}"
            )
        self.dynamics = dynamics
        self.uses_time = takes_time(dynamics)
        self.objective = objective
        self.given_jacobian = None if linearize is None else _Given(linearize)
        self._behind = (dynamics, model_behind(dynamics))
        jacobian = self.find(Linearizable)
        if self.uses_time and jacobian and not takes_time(jacobian.linearize):
            raise TensorTypeError(
                "linearize: expected it to take the argument `time` as the dynamics "
                f"do, got {describe(jacobian.linearize)} without it"
            )

    def __repr__(self) -> str:
        own = vars(self)
        told = {"dynamics": describe(own.get("model", self.dynamics))}
        told["objective"] = describe(self.objective)
        for name in _SHOWN:
            value = own.get(name, ())
            several = isinstance(value, tuple)
            text = ", ".join(map(describe, value)) if several else brief(value)
            told |= {name: f"[{text}]" if several else text} if text else {}
        return listed(type(self).__name__, told)

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules behind "dynamics" and "objective", where they are modules.

        A bound method stands for its object. Weights are saved by their owners: a
        problem has no `state_dict`.
        """
        found = {}
        for name in ("dynamics", "objective"):
            value = getattr(self, name)
            while isinstance(value, partial):
                value = value.func
            owner = getattr(value, "__self__", value)
            if isinstance(owner, nn.Module):
                found[name] = owner
        return found

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of dynamics and objective, each once, with their names.

        For example "dynamics.0.weight".
        """
        yield from nn.ModuleDict(self.modules()).named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of dynamics and objective, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def to(self: ModelT, *args: Any, **kwargs: Any) -> ModelT:
        """Move dynamics and objective as `nn.Module.to` does, in place; return self.

        Bounds and constraints need no moving: they follow the state of each plan.
        """
        for module in self.modules().values():
            module.to(*args, **kwargs)
        return self

    def times(self, first: int, count: int, like: Tensor) -> Tensor | None:
        """Return the numbers of some steps, for dynamics that take them; else None.

        Args:
            first: The number of the first of these steps in the whole horizon.
            count: How many.
            like: A tensor on the device.
        """
        return step_numbers(first, slice(0, count), like) if self.uses_time else None

    def step(self, state: Tensor, action: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the next state `[…, S]` by the dynamics, and check what they return.

        Args:
            state: `[…, S]`.
            action: `[…, A]`, with the state's leading dimensions.
            time: See `linearize`.

        Raises:
            ShapeError, TensorTypeError: not the shape or dtype of the state, or the
                dynamics fail.
        """
        # A state of another size is the commonest reason: the message begins with it.
        dynamics = at(self.dynamics, self.uses_time, time)
        following = call("state: dynamics", dynamics, state, action, advice=ANY_LEAD)
        return require_result(
            "dynamics:", self.dynamics, following, state.shape, like=state
        )

    def trajectory_cost(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost `[…]` of a trajectory, and check what the objective returns.

        Args:
            states: `[…, T+1, S]`.
            actions: `[…, T, A]`, with the states' leading dimensions.

        Raises:
            ShapeError, TensorTypeError: not one cost per trajectory, or of another
                dtype than the states, or the objective fails.
        """
        cost = call("objective:", self.objective, states, actions, advice=ALIGNED)
        lead = states.shape[:-2]
        return require_result("objective:", self.objective, cost, lead, like=states)

    def linearize(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return next state `[…, S]` and Jacobians `[…, S, S]` and `[…, S, A]`.

        They are those that the dynamics or the argument `linearize` give, or else come
        by autodiff.

        Args:
            state: `[…, S]`.
            action: `[…, A]`, with the state's leading dimensions.
            time: The numbers of the steps, `[steps]` or `[]`, as `times` gives them.

        Raises:
            ShapeError, TensorTypeError: a part has another shape or dtype.
        """
        found = self.find(Linearizable)
        if found is None:
            step = at(self.step, self.uses_time, time)
            return linearize_dynamics(step, state, action)
        begins = "dynamics:" if self.given_jacobian is None else "linearize:"
        jacobian = at(found.linearize, self.uses_time, time)
        parts = call(begins, jacobian, state, action, advice=ANY_LEAD)
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise TensorTypeError(
                f"{begins} expected linearize to return a tuple of the next state and "
                f"two Jacobians, got {type(parts).__name__}"
            )
        sizes = ((), state.shape[-1:], action.shape[-1:])
        for part, size in zip(parts, sizes, strict=True):
            shape = (*state.shape, *size)
            require_result(begins, found.linearize, part, shape, like=state)
        return parts

    def follow(
        self,
        state: Tensor,
        actions: Tensor,
        segment: int | None,
        times: Tensor | None,
    ) -> Tensor:
        """Return the states `[…, T+1, S]` of a rollout, which dynamics may know.

        Args:
            state: `[…, S]`.
            actions: `[…, T, A]`, with the state's leading dimensions.
            segment: See `diffplan.functional.rollout`.
            times: The numbers of the steps, as `times` gives them.

        Raises:
            ShapeError, TensorTypeError: the dynamics fail, or return another shape.
        """
        known = self.find(Rolling)
        if segment is not None or known is None:
            return rollout(self.step, state, actions, segment, times)
        whole = at(known.rollout, self.uses_time, times)
        states = call("state: dynamics", whole, state, actions, advice=ANY_LEAD)
        shape = (*state.shape[:-1], actions.shape[-2] + 1, state.shape[-1])
        return require_result("dynamics:", known.rollout, states, shape, like=state)

    def predict(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Normal:
        """Return the distribution of the next state, mean and spread `[…, S]`.

        Args:
            state: `[…, S]`.
            action: `[…, A]`, with the state's leading dimensions.
            time: See `linearize`; for a `predict` that takes it.

        Raises:
            UnsupportedProblemError: the dynamics cannot `predict`.
            ShapeError, TensorTypeError: it is no distribution of such states.
        """
        model = self.require(Predictable, "a distribution of the next state")
        return predicted(model, state, action, time)

    def standing_in(self: ModelT, rows: StandIns) -> ModelT:
        """Return this with the data of those that stand in for failed elements.

        Args:
            rows: Who stands in.
        """
        changed = self._changed(partial(with_stand_ins, element=rows.element))
        return cast(ModelT, changed)

    def _changed(self, change: Callable[..., Any]) -> "CheckedModel":
        """Return this with other data of each problem, or itself if it has none.

        Args:
            change: Of one function; see `diffplan._problem_data`.
        """
        functions = self.objective, self.dynamics
        objective, dynamics = (change(function) for function in functions)
        if objective is self.objective and dynamics is self.dynamics:
            return self
        other = copy.copy(self)
        other.objective, other.dynamics = objective, dynamics
        if self.given_jacobian is not None:
            other.given_jacobian = _Given(change(self.given_jacobian.linearize))
        return other

    def find(self, capability: type[CapabilityT]) -> CapabilityT | None:
        """Return what has a `capability` of the dynamics, or None.

        It is looked for on the object behind the dynamics, see `model_behind`. A
        Jacobian that was handed over as `linearize` comes first.
        """
        owner = self._owner()
        if capability is Linearizable and self.given_jacobian is not None:
            owner = self.given_jacobian
        return owner if knows(owner, capability) else None

    @property
    def is_affine(self) -> bool:
        """Return whether the dynamics say that their second derivatives are zero."""
        return getattr(self._owner(), "is_affine", False) is True

    def _owner(self) -> object:
        """Return the object whose capabilities are those of the dynamics."""
        if self._behind[0] is not self.dynamics:
            self._behind = (self.dynamics, model_behind(self.dynamics))
        return self._behind[1]

    def capabilities(self) -> dict[str, bool]:
        """Return which capabilities are known, by the names of their methods.

        * `linearize`: an analytic Jacobian; else autodiff, several times slower.
        * `predict`: the distribution of the next state.
        * `quadratize`: second derivatives of the cost, in all its terms; else autodiff
          for those without.

        Example:
            >>> import torch, diffplan as dp
            >>> from diffplan.models.analytic import Pendulum
            >>> model, box = Pendulum(), dp.Box([-1.0], [1.0])
            >>> goal = dp.objectives.GoalDistance(torch.zeros(2))
            >>> hidden = lambda state, action: model(state, action)
            >>> dp.PlanningProblem(model.step, goal, box).capabilities()["linearize"]
            True
            >>> dp.PlanningProblem(hidden, goal, box).capabilities()["linearize"]
            False
        """
        return {
            "linearize": self.find(Linearizable) is not None,
            "predict": self.find(Predictable) is not None,
            "quadratize": knows_curvature(self.objective),
        }

    def require(self, capability: type[CapabilityT], needed_by: str) -> CapabilityT:
        """Return the dynamics' `capability`.

        Raises:
            UnsupportedProblemError: the dynamics do not have it.
        """
        found = self.find(capability)
        if found is None:
            raise UnsupportedProblemError(
                f"dynamics: {needed_by} needs dynamics with the methods of "
                f"{capability.__name__}, got {describe(self.dynamics)} without them"
            )
        return found

    def require_objective(self, kind: type[CapabilityT], needed_by: str) -> CapabilityT:
        """Return the objective as `kind`, a refinement such as `ResidualObjective`.

        Raises:
            UnsupportedProblemError: the objective is not of that kind, or its cost is
                not the sum of its terms.
        """
        if not isinstance(self.objective, kind):
            raise UnsupportedProblemError(
                f"objective: {needed_by} needs a {kind.__name__}, got "
                f"{describe(self.objective)}"
            )
        if not getattr(self.objective, "sums_steps", True):
            # Terms that do not add up to the cost would be another problem's.
            raise UnsupportedProblemError(
                f"objective: {needed_by} counts the terms of a {kind.__name__}, got "
                f"{describe(self.objective)}, whose `forward` is its own; where a "
                "weight depends on the step, give the terms the argument `time`"
            )
        return self.objective


@dataclass(frozen=True)
class _Given:
    """A Jacobian that was handed over beside the dynamics."""

    linearize: Jacobians


def predicted(
    model: Predictable, state: Tensor, action: Tensor, time: Tensor | None = None
) -> Normal:
    """Return what a model predicts, and check it; see `CheckedModel.predict`."""
    timed = time is not None and takes_time(model.predict)
    predict = at(model.predict, timed, time)
    following = call("dynamics:", predict, state, action, advice=ANY_LEAD)
    if not isinstance(following, Normal):
        raise TensorTypeError(
            "dynamics: expected `predict` to return torch.distributions.Normal, got "
            f"{type(following).__name__}"
        )
    for part in (following.mean, following.stddev):
        require_result("dynamics:", model.predict, part, state.shape, like=state)
    return following
