"""What is planned: dynamics, an objective and the actions that are allowed.

A planner receives a `PlanningProblem` when it is called and keeps nothing of it, so
one planner serves any model and a checkpoint of a planner never holds a world model.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffplan._border import try_problem
from diffplan._checked_model import CheckedModel
from diffplan._checked_model import Dynamics as Dynamics
from diffplan._checked_model import Objective as Objective
from diffplan._checks import (
    describe,
    require_finite,
    require_precision,
    require_shape,
    require_tensor,
)
from diffplan._problem_data import with_one_batch_dimension, with_repeated_problems
from diffplan._user_functions import require_result
from diffplan.capabilities import Jacobians
from diffplan.capabilities import Linearizable as Linearizable
from diffplan.capabilities import Predictable as Predictable
from diffplan.constraints._base import ActionConstraint
from diffplan.constraints._box import Box as Box
from diffplan.constraints._box import BoxLike, as_box
from diffplan.constraints._intersection import checked_constraints, project_onto_all
from diffplan.constraints.state import StateConstraint
from diffplan.errors import ShapeError, UnsupportedProblemError
from diffplan.functional._isolation import guarded_evaluation
from diffplan.functional._rollout import inside_transform


class PlanningProblem(CheckedModel):
    """Dynamics, objective and allowed actions: all that a planner needs to know.

    Args:
        dynamics: `(state, action) → next_state`, see `Dynamics`; a world model or
            its `step` method, an analytic system, or any function.
        objective: `(states, actions) → cost`, see `Objective`.
        action_space: The box that every returned action lies in; its bounds may depend
            on the step and on the problem, see `Box`. Another box with vectors `low`
            and `high`, such as `gymnasium.spaces.Box`, is converted.
        constraints: Objects of `diffplan.constraints`. An `ActionConstraint` (a ball,
            a simplex, a polytope …) holds for every returned action too. A
            `StateConstraint` needs the planner `AugmentedLagrangian`.
        linearize: The Jacobian of the dynamics, see `Linearizable`, where they are a
            function that does not know it, such as a lambda about a model. None looks
            for it on the object behind the dynamics, see `model_behind`;
            `capabilities()` says what was found.

    Attributes:
        action_constraints: Those of `constraints` that are sets of actions.
        state_constraints: Those that speak of states.
        is_random: Whether a plan draws numbers for the problem too.
        common_noise: Whether all candidates of a plan see the same ones.
        guarded: Whether rollouts are, see `diffplan.functional._isolation`.
        differentiated: What was last asked of derivatives, by `Planner`.

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

    is_random: bool = False
    common_noise: bool = True
    guarded: bool = False
    differentiated: tuple[object, ...] | None = None

    def __init__(
        self,
        dynamics: Dynamics,
        objective: Objective,
        action_space: BoxLike,
        constraints: Iterable[ActionConstraint | StateConstraint] = (),
        *,
        linearize: Jacobians | None = None,
    ) -> None:
        super().__init__(dynamics, objective, linearize)
        self.action_space = as_box("action_space", action_space)
        kinds = checked_constraints(constraints, self.action_space)
        self.action_constraints, self.state_constraints = kinds
        self._passed: tuple[tuple[object, ...], tuple[object, ...]] | None = None
        self._compiled: Callable[[PlanningProblem, Tensor, Tensor], Tensor] | None
        self._compiled = None

    def project(self, actions: Tensor, step: int | None = None) -> Tensor:
        """Return the nearest actions that keep box and constraints, same `[…, A]`.

        The box is kept exactly and the constraints up to rounding, except where
        several kinds of them meet; see `diffplan.constraints._intersection`.
        Differentiable with respect to the actions, the bounds and the constraints' own
        numbers. With `step` they are actions of that step alone, see `Box.project`.
        """
        constraints, space = self.action_constraints, self.action_space
        if not constraints:
            return space.project(actions, step)
        alone = step is not None and space.low.ndim > 1
        if step is not None and alone:  # bounds that vary line up with a step dimension
            space, actions = space.at(step), actions.unsqueeze(-2)
        box = space.aligned(actions)
        nearest = project_onto_all(actions, constraints, box.low, box.high)
        kinds = ", ".join(type(constraint).__name__ for constraint in constraints)
        require_result("constraints:", kinds, nearest, actions.shape, actions)
        return nearest.squeeze(-2) if alone else nearest

    def middle(self, state: Tensor, horizon: int) -> Tensor:
        """Return the middle of the allowed actions, `[…, T, A]`.

        Args:
            state: `[…, S]`, on the device, in the dtype and of the batch.
            horizon: T.
        """
        center = self.project(self.action_space.to(state).center)
        return center.expand(*state.shape[:-1], horizon, -1)

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

    def rollout(
        self,
        state: Tensor,
        actions: Tensor,
        segment: int | None = None,
        first: int = 0,
    ) -> Tensor:
        """Return the states `[…, T+1, S]` that actions lead to, the given one first.

        Args:
            state: `[…, S]`.
            actions: `[…, T, A]`, with the state's leading dimensions.
            segment: See `diffplan.functional.rollout`.
            first: The number of the first of these steps in the whole horizon.

        Raises:
            ShapeError: leading dimensions or the size of the actions differ.
        """
        lead = state.shape[:-1]
        if actions.shape[:-2] != lead or actions.shape[-1] != self.action_space.dim:
            expected = ", ".join(map(str, (*lead, "T", self.action_space.dim)))
            raise ShapeError(
                f"actions: expected [{expected}] for states {list(state.shape)}, got "
                f"{list(actions.shape)}"
            )
        times = self.times(first, actions.shape[-2], state)
        return self.follow(state, actions, segment, times)

    def evaluate(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states `[…, T+1, S]` that actions lead to, and their cost `[…]`.

        Args:
            state: `[…, S]`.
            actions: `[…, T, A]`, with the state's leading dimensions.
        """
        if self.guarded:
            times = self.times(0, actions.shape[-2], state)
            functions = self.step, self.trajectory_cost
            return guarded_evaluation(*functions, state, actions, times)
        states = self.rollout(state, actions)
        return states, self.trajectory_cost(states, actions)

    def cost(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the cost `[…]` of actions `[…, T, A]` from a state `[…, S]`."""
        if self._compiled is not None and not inside_transform():
            return self._compiled(self, state, actions)
        return self._cost(state, actions)

    @property
    def is_compiled(self) -> bool:
        """Return whether `compile` was called."""
        return self._compiled is not None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `cost`: rollout and objective become one graph.

        That takes as long as the horizon asks for, not iterations times that as
        `planner.compile()` does; every new shape is compiled once more, and after eight
        PyTorch goes on without, silently unless `fullgraph=True`. Transforms of
        `torch.func` (as in `GradMPC`) see the cost itself. Copies of the problem are
        compiled too; a pickled one is not.

        Args:
            args: As for `torch.compile`.
            kwargs: As for `torch.compile`; `dynamic` is False unless given.
        """
        kwargs = {"dynamic": False, **kwargs}
        self._compiled = torch.compile(type(self)._cost, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was compiled, as `nn.Module` does."""
        return {**vars(self), "_compiled": None, "differentiated": None}

    def __copy__(self) -> "PlanningProblem":
        """Return a copy that is compiled if this one is."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def _cost(self, state: Tensor, actions: Tensor) -> Tensor:
        return self.evaluate(state, actions)[1]

    def realize(
        self, state: Tensor, horizon: int, keys: Tensor | None = None
    ) -> "PlanningProblem":
        """Return this problem with its noise drawn for one plan; here: itself.

        Args:
            state: The states to plan from `[…, S]`.
            horizon: T.
            keys: Of the noise, int64 `[…]`, one for each problem.
        """
        return self

    def redrawn(self, iteration: int, first: int, count: int) -> "PlanningProblem":
        """Return the problem that some candidates of an iteration see; here: itself.

        `count` of them, from number `first` on; both numbers begin with 0.
        """
        return self

    def relaxed(self, objective: Objective) -> "PlanningProblem":
        """Return this problem with another objective and no state constraints.

        Args:
            objective: What stands for both.
        """
        relaxed = copy.copy(self)
        relaxed.objective = objective
        relaxed.state_constraints = ()
        return relaxed

    def refuse_constraints(self, needed_by: str) -> None:
        """Refuse a problem whose actions are constrained by more than the box.

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
        """Refuse a problem whose dynamics are random; this one's are not."""

    def for_batch(self, batch: torch.Size) -> "PlanningProblem":
        """Return this problem for states whose leading dimensions are made one.

        Args:
            batch: The leading dimensions of the states.

        Raises:
            ShapeError: data of each problem (a goal …) have other leading dimensions.
        """
        bounds = list(self.action_space.low.shape)
        if bounds[:-2] not in ([], list(batch)):
            raise ShapeError(
                f"action_space: expected bounds [{', '.join(map(str, batch))}, T, A] "
                f"for the batch {list(batch)}, or [T, A] or [A] for all, got {bounds}"
            )
        return self._changed(partial(with_one_batch_dimension, batch=batch))

    def repeated(self, count: int) -> "PlanningProblem":
        """Return this problem for `[B · count, S]`: neighbours are starts of one.

        Args:
            count: How often a planner starts from each problem.
        """
        return self._changed(partial(with_repeated_problems, count=count))

    def _changed(self, change: Callable[..., Any]) -> "PlanningProblem":
        constraints = tuple(item.changed(change) for item in self.state_constraints)
        box: Box = change(self.action_space)
        other = super()._changed(change)
        assert isinstance(other, PlanningProblem)  # a copy of this one
        pairs = zip(constraints, self.state_constraints, strict=True)
        same = all(one is before for one, before in pairs)
        if not same or box is not self.action_space:
            other = copy.copy(other)
            other.state_constraints, other.action_space = constraints, box
        return other

    def check_horizon(self, horizon: int) -> None:
        """Check that what the problem has for each step is there for T steps.

        Args:
            horizon: T of the planner.

        Raises:
            ShapeError: the action space, or dynamics that say `only_horizon`, are for
                another number of steps. Objectives see to it themselves.
        """
        self.action_space.require_steps(horizon)
        only = getattr(self._behind[1], "only_horizon", None)
        if only not in (None, horizon):
            raise ShapeError(
                f"horizon: dynamics {describe(self.dynamics)} have data for {only} "
                f"steps, got a planner of horizon {horizon}"
            )

    def check_state(
        self, state: Tensor, horizon: int | None = None, between: int = 1
    ) -> Tensor:
        """Check the given planning state `[…, S]` before any work is done.

        One step of the dynamics is tried, so that a wrong state size or a wrong
        callable fails here with its own name; with a horizon also one of candidates,
        and the objective. For states of one kind in a row that happens once.

        Args:
            state: `[…, S]`.
            horizon: T of the planner; None tries one step of the dynamics alone.
            between: How many dimensions candidates add to the batch.

        Raises:
            TensorTypeError: not in float32 or float64, or on another device.
            NonFiniteError: it holds NaN or infinity.
            ShapeError: the dynamics do not accept it or do not return its shape, or the
                objective does not return one cost per trajectory.
        """
        require_tensor("state", state)
        if state.ndim == 0:
            raise ShapeError("state: expected […, S], got a scalar")
        require_finite("state", require_precision("state", state))
        # Objects are told apart by what they are: comparing might compare tensors.
        fixed = (self.dynamics, self.objective, self.action_space)
        objects = (*fixed, *self.state_constraints)
        kind = (state.shape, state.dtype, state.device, horizon, between)
        passed, same = self._passed, False
        if passed is not None and passed[1] == kind and len(passed[0]) == len(objects):
            pairs = zip(passed[0], objects, strict=True)
            same = all(before is now for before, now in pairs)
        if not same:
            flat = state.reshape(state.shape[:-1].numel(), state.shape[-1])
            try_problem(self.for_batch(state.shape[:-1]), flat, horizon, between)
            self._passed = (objects, kind)
        return state

    def check_actions(self, name: str, actions: Tensor, horizon: int) -> Tensor:
        """Check a sequence of actions `[…, T, A]` against horizon and action space.

        Raises:
            ShapeError: the last two dimensions are not `[horizon, A]`.
        """
        require_tensor(name, actions)
        trailing, what = (horizon, self.action_space.dim), "[horizon, action_space.dim]"
        return require_shape(name, actions, trailing, f"must be {what}")


def _listed(constraints: Sequence[object]) -> str:
    return ", ".join(map(repr, constraints))
