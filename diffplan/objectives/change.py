"""A price of changing the action, also called slew rate or control rate.

The cost of a step that depends on the action before it is no cost of a state and an
action, unless the state remembers that action. `with_action_change` makes it do so:
states become [x (S), u_{t-1} (A)], and every planner then plans for it, those that need
second derivatives included. The action that was executed last is the end of the state
that is planned from, so that each problem has its own, differentiable and lined up.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffplan._checks import require_finite
from diffplan._problem_data import aligned, hold
from diffplan._segments import takes_time
from diffplan._user_functions import require_result
from diffplan.capabilities import Linearizable, Part
from diffplan.constraints.state import StateConstraint
from diffplan.errors import ArgumentError, ShapeError
from diffplan.objectives._base import (
    Forms,
    ResidualObjective,
    StageObjective,
    no_end,
    no_residual,
    root_of_weight,
)
from diffplan.objectives.combine import SumOfResiduals, WeightedSum
from diffplan.problem import Objective, PlanningProblem


class ActionChange(ResidualObjective):
    """The price of changing the action: ½ Σ_{t=0}^{T-1} w ‖u_t - u_{t-1}‖².

    For states that end with the action before, [x, u_{t-1}], such as those of
    `with_action_change`.

    Args:
        weight: w, at least zero: a number, a tensor `[A]`, or `[…, A]` with one for
            each problem.

    Raises:
        ArgumentError: a weight is negative.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> remembered = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0]])  # [x, u]
        >>> ActionChange(1.0)(remembered, torch.tensor([[1.0], [3.0]]))
        tensor(2.)
    """

    per_problem: ClassVar[Mapping[str, int]] = {"weight": 1}
    weight: Tensor

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(weight)
        value = value if value.is_floating_point() else value.double()
        require_finite("weight", value)
        if not bool((value >= 0).all()):
            raise ArgumentError(f"weight: expected at least 0, got {weight}")
        if value.ndim == 0:
            value = value.reshape(1)
        hold(self, "weight", weight if isinstance(weight, nn.Parameter) else value)

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return √w (u_t - u_{t-1}) `[…, A]`."""
        root = root_of_weight(self.weight, action)
        root = self._aligned(root, state, action)
        return root * (action - state[..., -action.shape[-1] :])

    def quadratize(self, states: Tensor, actions: Tensor) -> Forms:
        """Return Hessians and gradients along a trajectory; see `Quadratizable`."""
        before = states[..., :-1, :]
        width, size = actions.shape[-1], states.shape[-1]
        weight = self._aligned(self.weight, before, actions)
        eye = torch.eye(width, dtype=states.dtype, device=states.device)
        # of u_t - u_{t-1} by (u, x), which ends with u_{t-1}
        jacobian = torch.cat((eye, eye.new_zeros(width, size - width), -eye), -1)
        hessian = jacobian.mT @ (weight.unsqueeze(-1) * jacobian)
        slope = weight * (actions - before[..., -width:])
        return (
            hessian.expand(*actions.shape[:-1], -1, -1),
            slope @ jacobian,
            *no_end(states),
        )

    def _aligned(self, weight: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """Make w, or its root, line up with the actions."""
        width = action.shape[-1]
        if state.shape[-1] <= width:
            raise ShapeError(
                f"state: expected […, S + {width}], a state and the action before, for "
                f"ActionChange, got {list(state.shape)}; see with_action_change"
            )
        weight = weight.reshape(1) if weight.ndim == 0 else weight
        if weight.shape[-1] not in (1, width):
            raise ShapeError(
                f"weight: expected [], [{width}] or […, {width}] for actions of size "
                f"{width}, got {list(weight.shape)}"
            )
        return aligned("weight", weight, action, own=1, covers=1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return no residual `[…, 0]`."""
        return no_residual(state)


def with_action_change(
    problem: PlanningProblem, weight: float | Tensor
) -> PlanningProblem:
    """Return a problem that also prices changes of the action; see `ActionChange`.

    Its states are [x (S), action before (A)]: plan from
    `torch.cat([state, last_action], -1)`, and read `plan.states[..., :S]`. Dynamics,
    objective, constraints and bounds are those of the problem.

    Args:
        problem: With dynamics that are not random.
        weight: w, see `ActionChange`.

    Raises:
        UnsupportedProblemError: the dynamics are random.
        ArgumentError, NonFiniteError: see `ActionChange`.

    Example:
        >>> import diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.ones(1)),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> smooth = dp.objectives.with_action_change(problem, weight=2.0)
        >>> state, last_action = torch.zeros(3, 1), torch.zeros(3, 1)
        >>> plan = dp.ILQR(4)(smooth, torch.cat([state, last_action], -1))
        >>> plan.states.shape
        torch.Size([3, 5, 2])
    """
    problem.refuse_noise("with_action_change")
    width = problem.action_space.dim
    found = problem.find(Linearizable)
    jacobian = None
    if found is not None:
        jacobian = _Jacobian(found.linearize, width, problem.uses_time)
    return PlanningProblem(
        _Remembering(problem.dynamics, width, problem.uses_time),
        _with_term(problem.objective, ActionChange(weight), width),
        problem.action_space,
        (
            *problem.action_constraints,
            *(_forgetting(item, width) for item in problem.state_constraints),
        ),
        linearize=jacobian,
    )


class _Held(nn.Module):
    """A user's function that sees states without the action that they remember.

    What has data of each problem is held as a submodule, where planners look for them.
    """

    def __init__(self, function: Callable[..., Any], width: int, timed: bool) -> None:
        super().__init__()
        self.width, self.takes_time = width, timed
        owner = getattr(function, "__self__", None)
        self.method = ""
        if isinstance(owner, nn.Module):  # a method, such as `model.step`
            self.held: object = owner
            self.method = getattr(function, "__name__", "")
        else:
            self.held = function

    def call(self, state: Tensor, *others: Tensor, **time: Tensor) -> Any:
        function = getattr(self.held, self.method) if self.method else self.held
        seen = state[..., : state.shape[-1] - self.width]
        return function(seen, *others, **time)  # type: ignore[operator]

    def forward(self, state: Tensor, *others: Tensor, **time: Tensor) -> Tensor:
        return self.call(state, *others, **time)


class _Remembering(_Held):
    """Dynamics whose states remember the action that led to them."""

    def forward(self, state: Tensor, *others: Tensor, **time: Tensor) -> Tensor:
        (action,) = others
        following = self.call(state, action, **time)
        expected = (*state.shape[:-1], state.shape[-1] - self.width)
        require_result("dynamics:", self.held, following, expected, like=state)
        return torch.cat([following, action], dim=-1)


class _Jacobian(_Held):
    """The Jacobian of such dynamics."""

    def forward(  # type: ignore[override]
        self, state: Tensor, action: Tensor, **time: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        following, by_state, by_action = self.call(state, action, **time)
        size, width = following.shape[-1], self.width
        rows = by_state.new_zeros(*by_state.shape[:-2], width, size)
        columns = by_state.new_zeros(*by_state.shape[:-2], size + width, width)
        eye = torch.eye(width, dtype=action.dtype, device=action.device)
        return (
            torch.cat([following, action], dim=-1),
            torch.cat([torch.cat([by_state, rows], dim=-2), columns], dim=-1),
            torch.cat([by_action, eye.expand(*by_action.shape[:-2], -1, -1)], dim=-2),
        )


class _Seeing:
    """Of a sum of one objective: states without the action that they remember."""

    def __init__(self, width: int, *given: Any) -> None:
        super().__init__(*given)
        self.width = width

    def parts(self) -> list[Part]:
        parts = super().parts()  # type: ignore[misc]  # of the sum beside it
        return [part._replace(hides=self.width) for part in parts]

    def _each(self, name: str, time: Tensor | None, *given: Tensor) -> list[Tensor]:
        state, *action = given
        given = (state[..., : -self.width], *action)
        return super()._each(name, time, *given)  # type: ignore[misc]


class _Residuals(_Seeing, SumOfResiduals):
    """A residual objective."""


class _Stages(_Seeing, WeightedSum):
    """An objective with stages."""


class _Whole(nn.Module):
    """The sum of an objective that has no terms of steps and one that has.

    Args:
        objective: Any.
        term: What is added.
        width: How many numbers at the end of a state `objective` does not see.
    """

    def __init__(self, objective: Objective, term: StageObjective, width: int) -> None:
        super().__init__()
        self.objective = _Held(objective, width, timed=False)
        self.term = term

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost `[…]` of trajectories."""
        cost = self.objective(states, actions)
        lead = states.shape[:-2]
        held = self.objective.held
        require_result("objective:", held, cost, lead, like=states)
        return cost + self.term(states, actions)


def _with_term(objective: Objective, term: ResidualObjective, width: int) -> Objective:
    """Return the sum of an objective and a term, of the objective's structure.

    Args:
        objective: Any.
        term: What is added.
        width: How many numbers at the end of a state `objective` does not see.

    Returns:
        A `ResidualObjective` or a `StageObjective` if `objective` is one whose cost is
        the sum of its terms.
    """
    sums = getattr(objective, "sums_steps", False)
    if sums and isinstance(objective, ResidualObjective):
        seen = _Residuals(width, [objective]) if width else objective
        return SumOfResiduals([seen, term])
    if sums and isinstance(objective, StageObjective):
        stages = _Stages(width, [objective], [1.0]) if width else objective
        return WeightedSum([stages, term], [1.0, 1.0])
    return _Whole(objective, term, width)


def _forgetting(constraint: StateConstraint, width: int) -> StateConstraint:
    terminal = constraint.terminal
    return StateConstraint(
        _Held(constraint.function, width, takes_time(constraint.function)),
        None if terminal is None else _Held(terminal, width, takes_time(terminal)),
        initial=constraint.initial,
    )
