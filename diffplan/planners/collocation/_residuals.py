"""LatCo's problem, written once: the residuals of a trajectory and their blocks.

Variables are the states x_1 … x_T and the actions u_0 … u_{T-1}; x_0 is given. With
one multiplier per constraint and step, every iteration lowers

    Σ_t λ_t ‖x_{t+1} - f(x_t, u_t)‖²  +  Σ_t ν_t ‖excess(u_t)‖²  +  Σ_t ‖ρ_t‖²,

where excess is how far an action lies outside its box and ρ the residuals of the
objective (LatCo, Eq. 8 as a sum of squares, section 4). Further constraints on actions
add how far an action breaks them to the second sum. Residuals couple neighbouring steps
only, so everything is handed out as the blocks of a chain.

Actions are moved in the units of `units.py`. Elements whose residuals or Jacobians are
not finite are handled as in `planners/failures.py`.
"""

import copy
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffplan.functional._isolation import StandIns
from diffplan.functional.linearize import batched_jacobian
from diffplan.objectives._base import ResidualObjective, half_square
from diffplan.planners._failures import evaluate_soundly, with_value
from diffplan.planners.collocation._units import ActionUnits
from diffplan.problem import PlanningProblem
from diffplan.solvers._least_squares import Trajectory
from diffplan.solvers.blocks import ChainBlocks

ActionViolation = Literal["released", "paper"]


class Residuals(NamedTuple):
    """Residuals at a trajectory; what multipliers and diagnostics need.

    Attributes:
        defect: x_{t+1} - f(x_t, u_t), `[B, T, S]`.
        excess: Signed distance of the actions' variables from their limits, and those
            that are pinned by themselves, `[B, T, A]`.
        breach: How far they break further constraints on actions, `[B, T, K]`; see
            `ActionConstraint.excess`.
        dynamics_violation: ‖defect‖² per step, `[B, T]`.
        action_violation: The action constraint's violation per step, `[B, T]`.
        cost: The objective of the planned states and actions, `[B]`.
    """

    defect: Tensor
    excess: Tensor
    breach: Tensor
    dynamics_violation: Tensor
    action_violation: Tensor
    cost: Tensor


class Linearization(NamedTuple):
    """Residuals at a trajectory together with their Jacobians, without any weights."""

    residuals: Residuals
    state_jacobian: Tensor
    action_jacobian: Tensor
    stage_residual: Tensor
    stage_state_jacobian: Tensor
    stage_action_jacobian: Tensor
    terminal_residual: Tensor
    terminal_jacobian: Tensor
    limit_slope: Tensor
    breach_jacobian: Tensor

    def weigh(
        self, dynamics_weight: Tensor, action_weight: Tensor, damping: Tensor
    ) -> ChainBlocks:
        """Return the damped Gauss-Newton subproblem for given weights.

        Args:
            dynamics_weight: λ `[B, T]`, multiplies squared residuals.
            action_weight: ν `[B, T]`, likewise.
            damping: `[B]`, added to the diagonal of JᵀJ.
        """
        stage = (
            self.stage_residual,
            self.stage_state_jacobian,
            self.stage_action_jacobian,
        )
        if self.residuals.breach.shape[-1]:
            stage = self._with_breach(action_weight)
        return ChainBlocks(
            state_jacobian=self.state_jacobian,
            action_jacobian=self.action_jacobian,
            defect=self.residuals.defect,
            # A step whose λ dual ascent drove to zero is still part of the chain.
            transition_weight=dynamics_weight.clamp_min(1e-12),
            residual=stage[0],
            stage_state_jacobian=stage[1],
            stage_action_jacobian=stage[2],
            terminal_residual=self.terminal_residual,
            terminal_jacobian=self.terminal_jacobian,
            limit_residual=self.residuals.excess,
            limit_slope=self.limit_slope,
            limit_weight=action_weight,
            damping=damping,
        )

    def _with_breach(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stage residuals and Jacobians, and below them those of √ν breach."""
        # The floor keeps √ differentiable where dual ascent drove ν to zero.
        root = weight.clamp_min(1e-12).sqrt()[..., None]
        breach, by_action = self.residuals.breach, self.breach_jacobian
        states = self.stage_state_jacobian
        none = states.new_zeros(*breach.shape, states.shape[-1])
        return (
            torch.cat([self.stage_residual, root * breach], dim=-1),
            torch.cat([states, none], dim=-2),
            torch.cat(
                [self.stage_action_jacobian, root[..., None] * by_action], dim=-2
            ),
        )


@runtime_checkable
class Linearized(Protocol):
    """What an iteration needs of a trajectory: a `Linearization`, or what is like it.

    A tuple of tensors, and of such tuples.
    """

    @property
    def residuals(self) -> Residuals:
        """Return the residuals at the trajectory."""
        ...

    def weigh(
        self, dynamics_weight: Tensor, action_weight: Tensor, damping: Tensor
    ) -> ChainBlocks:
        """Return the damped Gauss-Newton subproblem; see `Linearization.weigh`."""
        ...


ProblemT = TypeVar("ProblemT", bound="TrajectoryProblem")


class TrajectoryProblem:
    """A planning problem seen by collocation, for states `[B, S]`.

    The actions of its trajectories are variables, see `units`.

    Args:
        problem: To be linearised its objective must be a `ResidualObjective`; dynamics
            that are `Linearizable` are asked for their Jacobian, others are
            differentiated.
        state: The given states x_0 `[B, S]`.
        action_violation: "released" measures Σ max(0, a² - 1) for the multipliers, as
            the authors' code does (in units of the box's half-width); "paper" measures
            ‖excess‖². The residual is the excess in both.

    Attributes:
        draws: Random numbers `[B, …]` that the residuals are a function of too.
    """

    draws: tuple[Tensor, ...] = ()

    def __init__(
        self,
        problem: PlanningProblem,
        state: Tensor,
        action_violation: ActionViolation = "released",
    ) -> None:
        self.problem = problem
        self.units = ActionUnits.of(problem.action_space.to(state))
        self.constraints = problem.action_constraints
        self.state = state
        self.action_violation = action_violation

    @property
    def objective(self) -> ResidualObjective:
        """Return the objective, whose residuals a linearisation needs.

        Raises:
            UnsupportedProblemError: it has none.
        """
        return self.problem.require_objective(ResidualObjective, "collocation")

    @property
    def all_sound(self) -> Tensor:
        """Return whether no element has failed, `[B]` bool."""
        return torch.ones_like(self.state[:, 0], dtype=torch.bool)

    def lifted(self, states: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        """Return the variables of states `[…, T, S]`: themselves.

        Args:
            states: x_1 … x_T.
            memory: Of an earlier plan, see `told`.
        """
        return states

    def told(self, states: Tensor) -> dict[str, Tensor]:
        """Return what a plan tells and remembers of its variables' states, by name."""
        return {"states": states}

    def rollout_cost(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the cost `[B]` of following actions `[B, T, A]` from `[B, S]`."""
        states = self.problem.rollout(state, actions)
        return self.problem.trajectory_cost(states, actions)

    def standing_in(self: ProblemT, rows: StandIns) -> ProblemT:
        """Return this problem with the data of those that stand in for failed elements.

        State and draws stay as they are: what is evaluated is given both.

        Args:
            rows: Who stands in.
        """
        problem = self.problem.standing_in(rows)
        if problem is self.problem:
            return self
        changed = copy.copy(self)
        changed.problem = problem
        changed.units = ActionUnits.of(problem.action_space.to(self.state))
        return changed

    def replaced(self, sound: Tensor, linked: bool) -> "TrajectoryProblem":
        """Return this problem with a sound element in the place of those that are not.

        Args:
            sound: Which are, `[B]` bool.
            linked: Whether what flows back to a stand-in reaches the element's state.
        """
        rows = StandIns.of(sound)
        changed = copy.copy(self.standing_in(rows))
        changed.state = rows.put(self.state)
        changed.draws = tuple(map(rows.put, self.draws))
        if linked:
            changed.state = with_value(changed.state.detach(), self.state)
        return changed

    def residuals(self, trajectory: Trajectory) -> Residuals:
        """Evaluate the residuals alone; cheaper than `linearize`."""
        return self._evaluate(*self._inputs(trajectory))

    def linearize(self, trajectory: Trajectory) -> Linearized:
        """Evaluate residuals and Jacobians."""
        return self._linearize(*self._inputs(trajectory))

    def sound_residuals(
        self, trajectory: Trajectory, sound: Tensor
    ) -> tuple[Residuals, Tensor]:
        """Evaluate the residuals so that failed elements have no part in backward.

        Args:
            trajectory: Where.
            sound: Which elements have not failed before, `[B]` bool.

        Returns:
            The residuals, and which elements are sound.
        """
        evaluate = type(self)._evaluate
        return evaluate_soundly(evaluate, self, self._inputs(trajectory), sound)

    def sound_linearization(
        self, trajectory: Trajectory, sound: Tensor
    ) -> tuple[Linearized, Tensor]:
        """Do with `linearize` what `sound_residuals` does with `residuals`."""
        linearize = type(self)._linearize
        return evaluate_soundly(linearize, self, self._inputs(trajectory), sound)

    def _inputs(self, trajectory: Trajectory) -> tuple[Tensor, ...]:
        return (self.state, trajectory.states, trajectory.actions, *self.draws)

    def _evaluate(
        self, state: Tensor, states: Tensor, variables: Tensor, *draws: Tensor
    ) -> Residuals:
        visited = self._visited(state, states)
        actions = self.units.actions(variables)
        following = self._following(visited[:, :-1], actions, *draws)
        cost = self._cost(visited, actions, *draws)
        breach = self._breach(actions)
        return self._residuals(states - following, variables, cost, breach)

    def _linearize(
        self, state: Tensor, states: Tensor, variables: Tensor, *draws: Tensor
    ) -> Linearized:
        previous = self._visited(state, states)[:, :-1]
        actions, unit = self.units.actions(variables), self.units.unit.unsqueeze(-2)
        dynamics = self._linearized_dynamics(previous, actions, *draws)
        following, by_state, by_action = dynamics
        stage, stage_by_state, stage_by_action = self._stages(previous, actions, *draws)
        end = self._end(states[:, -1], actions.shape[1], *draws)
        terminal, terminal_by_state = end
        breach, breach_by_action = self._linearized_breach(actions)
        cost = half_square(stage).sum(dim=-1) + half_square(terminal)
        residuals = self._residuals(states - following, variables, cost, breach)
        active = self.units.pinned | (residuals.excess != 0)
        return Linearization(
            residuals=residuals,
            state_jacobian=by_state,
            action_jacobian=by_action * unit,
            stage_residual=stage,
            stage_state_jacobian=stage_by_state,
            stage_action_jacobian=stage_by_action * unit,
            terminal_residual=terminal,
            terminal_jacobian=terminal_by_state,
            limit_slope=active.to(variables.dtype),
            breach_jacobian=breach_by_action * unit,
        )

    def _visited(self, state: Tensor, states: Tensor) -> Tensor:
        """Return x_0 … x_T."""
        return torch.cat([state[:, None], states], dim=1)

    def _times(self, actions: Tensor) -> Tensor | None:
        return self.problem.times(0, actions.shape[-2], actions)

    def _following(self, states: Tensor, actions: Tensor, *_: Tensor) -> Tensor:
        return self.problem.step(states, actions, self._times(actions))

    def _linearized_dynamics(
        self, states: Tensor, actions: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.problem.linearize(states, actions, self._times(actions))

    def _cost(self, visited: Tensor, actions: Tensor, *_: Tensor) -> Tensor:
        return self.problem.trajectory_cost(visited, actions)

    def _end(self, state: Tensor, horizon: int, *_: Tensor) -> tuple[Tensor, Tensor]:
        """Residual of the last state `[…, S]`, and its Jacobian."""
        term = self.objective.end_term("residual", horizon, state)
        residual, (by_state,) = batched_jacobian(term, state)
        return residual, by_state

    def _breach(self, actions: Tensor) -> Tensor:
        parts = [constraint.excess(actions) for constraint in self.constraints]
        return torch.cat([actions[..., :0], *parts], dim=-1)

    def _linearized_breach(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far actions break constraints `[B, T, K]`, and `[B, T, K, A]`."""
        size = actions.shape[-1]
        breach, by_action = (
            [actions[..., :0]],
            [actions.new_zeros(*actions.shape[:-1], 0, size)],
        )
        for constraint in self.constraints:
            value, jacobian = constraint.linearized_excess(actions)
            breach.append(value)
            by_action.append(jacobian)
        return torch.cat(breach, dim=-1), torch.cat(by_action, dim=-2)

    def _residuals(
        self, defect: Tensor, variables: Tensor, cost: Tensor, breach: Tensor
    ) -> Residuals:
        excess = self.units.excess(variables)
        action_violation = excess.square()
        if self.action_violation == "released":
            # An open side has no width to measure by: there the excess serves.
            scaled, limited = self.units.relative(variables)
            beyond = torch.where(limited, scaled.square() - 1, action_violation)
            action_violation = torch.where(excess != 0, beyond, 0.0)
        action_violation = action_violation.sum(dim=-1)
        return Residuals(
            defect=defect,
            excess=excess,
            breach=breach,
            dynamics_violation=defect.square().sum(dim=-1),
            action_violation=action_violation + breach.square().sum(dim=-1),
            cost=cost,
        )

    def _stages(
        self, states: Tensor, actions: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals of steps 0 … T-1 with Jacobians, padded to one size."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        count = actions.shape[-2]
        for term, where in self.objective.stage_terms("residual", 0, count, states):
            inputs = states[..., where, :], actions[..., where, :]
            value, (by_state, by_action) = batched_jacobian(term, *inputs)
            parts.append((value, by_state, by_action))
        if len(parts) == 1:
            return parts[0]
        size = max(part[0].shape[-1] for part in parts)
        residuals = [pad(part[0], (0, size - part[0].shape[-1])) for part in parts]
        return (
            torch.cat(residuals, dim=-2),
            torch.cat([_pad_rows(part[1], size) for part in parts], dim=-3),
            torch.cat([_pad_rows(part[2], size) for part in parts], dim=-3),
        )


def _pad_rows(jacobian: Tensor, size: int) -> Tensor:
    return pad(jacobian, (0, 0, 0, size - jacobian.shape[-2]))
