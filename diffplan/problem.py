"""What is planned: dynamics, an objective and the actions that are allowed.

A planner receives a `PlanningProblem` when it is called and keeps nothing of it, so
one planner serves any model and a checkpoint of a planner never holds a world model.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Normal

from diffplan.constraints.base import ActionConstraint
from diffplan.constraints.box import Box as Box
from diffplan.constraints.intersection import project_onto_all
from diffplan.constraints.state import StateConstraint
from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
    is_traced,
    require_finite,
    require_shape,
    require_tensor,
)
from diffplan.functional.rollout import inside_transform, rollout

Dynamics = Callable[[Tensor, Tensor], Tensor]
"""`(state […, S], action […, A]) → next_state […, S]`, for any leading dimensions."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""`(states […, T+1, S], actions […, T, A]) → cost […]`, to be minimised."""


@runtime_checkable
class Linearizable(Protocol):
    """Dynamics that know their own Jacobian (for an RSSM 6× faster than autodiff)."""

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return next state `[…, S]` and Jacobians `[…, S, S]` and `[…, S, A]`."""
        ...


@runtime_checkable
class Predictable(Protocol):
    """Dynamics that know the distribution of the next state."""

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        """Return the distribution of the next state, mean and spread `[…, S]`."""
        ...


CapabilityT = TypeVar("CapabilityT")


class PlanningProblem:
    """Dynamics, objective and allowed actions: all that a planner needs to know.

    Args:
        dynamics: `(state, action) → next_state`, see `Dynamics`; a world model or
            its `step` method, an analytic system, or any function.
        objective: `(states, actions) → cost`, see `Objective`.
        action_space: The box that every returned action lies in.
        constraints: Objects of `diffplan.constraints`. An `ActionConstraint` (a ball,
            a simplex, a polytope …) holds for every returned action too. A
            `StateConstraint` needs the planner `AugmentedLagrangian`.

    Attributes:
        action_constraints: Those of `constraints` that are sets of actions.
        state_constraints: Those that speak of states.

    Raises:
        TensorTypeError: an argument is not of the kind above.
        ShapeError: a constraint is on actions of another size.
        ArgumentError: no action keeps both the action space and some constraint.

    Example:
        >>> import diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + 0.1 * action,
        ...     objective=lambda states, actions: states.square().sum((-1, -2)),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> problem.action_space.dim
        1
    """

    def __init__(
        self,
        dynamics: Dynamics,
        objective: Objective,
        action_space: Box,
        constraints: Sequence[ActionConstraint | StateConstraint] = (),
    ) -> None:
        for name, value in (("dynamics", dynamics), ("objective", objective)):
            if not callable(value):
                raise TensorTypeError(
                    f"{name}: expected a callable, got {type(value).__name__}"
                )
        if not isinstance(action_space, Box):
            raise TensorTypeError(
                "action_space: expected a diffplan.Box, got "
                f"{type(action_space).__name__}"
            )
        self.dynamics = dynamics
        self.objective = objective
        self.action_space = action_space
        self.action_constraints = _of_kind(constraints, ActionConstraint)
        self.state_constraints = _of_kind(constraints, StateConstraint)
        self._passed: tuple[object, ...] | None = None
        self._compiled: Callable[[PlanningProblem, Tensor, Tensor], Tensor] | None
        self._compiled = None
        self._check_constraints(constraints)

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest actions that keep box and constraints, same `[…, A]`.

        The box is kept exactly and the constraints up to rounding, except where
        several kinds of them meet; see `diffplan.constraints.intersection`.
        Differentiable with respect to the actions, the bounds and the constraints' own
        numbers.
        """
        if not self.action_constraints:
            return self.action_space.project(actions)
        box = self.action_space.to(actions)
        return project_onto_all(actions, self.action_constraints, box.low, box.high)

    def contains(self, actions: Tensor, tolerance: float | None = None) -> Tensor:
        """Return where actions `[…, A]` keep box and constraints; booleans `[…]`.

        Args:
            actions: `[…, A]`.
            tolerance: Of the constraints, see `ActionConstraint.contains`; the box is
                kept exactly.
        """
        inside = self.action_space.contains(actions)
        for constraint in self.action_constraints:
            inside = inside & constraint.contains(actions, tolerance)
        return inside

    def evaluate(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states `[…, T+1, S]` that actions lead to, and their cost `[…]`.

        Args:
            state: `[…, S]`.
            actions: `[…, T, A]`, with the state's leading dimensions.
        """
        states = rollout(self.dynamics, state, actions)
        return states, self.objective(states, actions)

    def cost(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the cost `[…]` of actions `[…, T, A]` from a state `[…, S]`."""
        if self._compiled is not None and not inside_transform():
            return self._compiled(self, state, actions)
        return self._cost(state, actions)

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._compiled is not None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `cost`: rollout and objective become one graph.

        Planners that judge sampled action sequences spend their time there. It takes as
        long as the horizon asks for, not iterations times that as `planner.compile()`
        does; every new shape is compiled once more, and after eight PyTorch goes on
        without, silently unless `fullgraph=True`. Transforms of `torch.func`, and so
        planners that differentiate candidates by them (`GradMPC`), see the cost itself.
        Copies of the problem are compiled too; a pickled one is not.

        Args:
            args: As for `torch.compile`.
            kwargs: Likewise; `dynamic` is False unless given.
        """
        kwargs = {"dynamic": False, **kwargs}
        self._compiled = torch.compile(type(self)._cost, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was compiled, as `nn.Module` does."""
        return {**vars(self), "_compiled": None}

    def __copy__(self) -> "PlanningProblem":
        """Return a copy that is compiled if this one is."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def _cost(self, state: Tensor, actions: Tensor) -> Tensor:
        return self.evaluate(state, actions)[1]

    def realize(
        self,
        state: Tensor,  # noqa: ARG002
        horizon: int,  # noqa: ARG002
        generator: torch.Generator | None = None,  # noqa: ARG002
    ) -> "PlanningProblem":
        """Return this problem with its noise drawn for one plan; here: itself.

        `Planner` calls it once per plan; see `StochasticProblem`.

        Args:
            state: The states to plan from `[…, S]`.
            horizon: T.
            generator: Source of the noise.
        """
        return self

    def relaxed(self, objective: Objective) -> "PlanningProblem":
        """Return this problem with another objective and no state constraints.

        Args:
            objective: What stands for both, such as an augmented Lagrangian.
        """
        relaxed = copy.copy(self)
        relaxed.objective = objective
        relaxed.state_constraints = ()
        return relaxed

    def refuse_constraints(self, needed_by: str) -> None:
        """Refuse a problem whose actions are constrained by more than the box.

        For `Planner.check_problem` of planners that handle a box only.

        Args:
            needed_by: Who cannot handle them.

        Raises:
            UnsupportedProblemError: there are such constraints.
        """
        if self.action_constraints:
            raise UnsupportedProblemError(
                f"constraints: {needed_by} keeps a box of actions and nothing more, "
                f"got {_listed(self.action_constraints)}"
            )

    def refuse_state_constraints(self, needed_by: str) -> None:
        """Refuse a problem with constraints on states.

        Args:
            needed_by: Who cannot handle them.

        Raises:
            UnsupportedProblemError: there are such constraints.
        """
        if self.state_constraints:
            raise UnsupportedProblemError(
                f"constraints: {needed_by} by itself does not keep constraints on "
                f"states, got {_listed(self.state_constraints)}; wrap it: "
                f"AugmentedLagrangian({needed_by}(…))"
            )

    def refuse_noise(self, needed_by: str) -> None:
        """Refuse a problem whose dynamics are random; this one's are not.

        Args:
            needed_by: Who cannot handle them.
        """

    def find(self, capability: type[CapabilityT]) -> CapabilityT | None:
        """Return the dynamics' `capability`, or None.

        It is looked for on the dynamics and, where these are the bound method `step`
        of a model, on the model: `model` and `model.step` mean the same dynamics.
        """
        owner = self.dynamics
        if getattr(owner, "__name__", "") == "step" and hasattr(owner, "__self__"):
            owner = owner.__self__
        return owner if isinstance(owner, capability) else None

    def require(self, capability: type[CapabilityT], needed_by: str) -> CapabilityT:
        """Return the dynamics' `capability`.

        Raises:
            UnsupportedProblemError: the dynamics do not have it.
        """
        found = self.find(capability)
        if found is None:
            raise UnsupportedProblemError(
                f"dynamics: {needed_by} needs dynamics with the methods of "
                f"{capability.__name__}, got {_describe(self.dynamics)} without them"
            )
        return found

    def require_objective(self, kind: type[CapabilityT], needed_by: str) -> CapabilityT:
        """Return the objective as `kind`, a refinement such as `ResidualObjective`.

        Raises:
            UnsupportedProblemError: the objective is not of that kind.
        """
        if not isinstance(self.objective, kind):
            raise UnsupportedProblemError(
                f"objective: {needed_by} needs a {kind.__name__}, got "
                f"{_describe(self.objective)}"
            )
        return self.objective

    def check_state(self, state: Tensor) -> Tensor:
        """Check the given planning state `[…, S]` before any work is done.

        One step of the dynamics is tried, so a wrong state size or a wrong callable
        fails here with its own name; for states of one shape, dtype and device in a row
        only once.

        Raises:
            TensorTypeError: not a floating-point tensor, or on another device.
            NonFiniteError: it holds NaN or infinity.
            ShapeError: the dynamics do not accept it or do not return its shape.
        """
        require_tensor("state", state)
        if state.ndim == 0:
            raise ShapeError("state: expected […, S], got a scalar")
        require_finite("state", state)
        kind = (
            self.dynamics,
            self.action_space,
            state.shape,
            state.dtype,
            state.device,
        )
        if kind != self._passed:
            self._try_dynamics(state)
            self._passed = kind
        return state

    def _try_dynamics(self, state: Tensor) -> None:
        action = self.action_space.to(state).center.expand(*state.shape[:-1], -1)
        with torch.no_grad():
            try:
                following = self.dynamics(state, action)
            except DiffplanError:
                raise  # world models name the argument themselves
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise ShapeError(
                    f"state: dynamics {_describe(self.dynamics)} fail on a state of "
                    f"shape {list(state.shape)} ({state.dtype}, {state.device}) and "
                    f"an action of shape {list(action.shape)}: {error}"
                ) from error
        if not isinstance(following, Tensor) or following.shape != state.shape:
            shape = list(getattr(following, "shape", []))
            raise ShapeError(
                f"dynamics: expected a next state of the state's shape "
                f"{list(state.shape)}, got {shape} from {_describe(self.dynamics)}"
            )

    def check_actions(self, name: str, actions: Tensor, horizon: int) -> Tensor:
        """Check a sequence of actions `[…, T, A]` against horizon and action space.

        Raises:
            ShapeError: the last two dimensions are not `[horizon, A]`.
        """
        require_tensor(name, actions)
        trailing = (horizon, self.action_space.dim)
        return require_shape(
            name, actions, trailing, "must be [horizon, action_space.dim]"
        )

    def _check_constraints(
        self, constraints: Sequence[ActionConstraint | StateConstraint]
    ) -> None:
        box = self.action_space
        for index, constraint in enumerate(constraints):
            name = f"constraints[{index}]"
            if isinstance(constraint, StateConstraint):
                continue
            if not isinstance(constraint, ActionConstraint):
                raise TensorTypeError(
                    f"{name}: expected an ActionConstraint or a StateConstraint of "
                    f"diffplan.constraints, got {type(constraint).__name__}"
                )
            constraint.check_dim(name, box.dim)
            with torch.no_grad():
                nearest = constraint.project_within(box.center, box.low, box.high)
                met = constraint.contains(nearest)
            if not is_traced(met) and not met:
                raise ArgumentError(
                    f"{name}: expected a set that meets the action space, got "
                    f"{constraint} and {box}"
                )


ConstraintT = TypeVar("ConstraintT", ActionConstraint, StateConstraint)


def _of_kind(
    constraints: Sequence[ActionConstraint | StateConstraint], kind: type[ConstraintT]
) -> tuple[ConstraintT, ...]:
    return tuple(item for item in constraints if isinstance(item, kind))


def _listed(constraints: Sequence[object]) -> str:
    return ", ".join(map(repr, constraints))


def _describe(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__name__)
