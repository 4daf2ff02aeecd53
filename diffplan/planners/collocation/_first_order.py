"""The loop of collocation by first-order steps, for states and for observations.

Variables are the actions u_0 … u_{T-1} and what each of them leads to: the states
x_1 … x_T, or what is seen of them. From a random start, `iterations` times::

    slope       ← ∂/∂z [cost + Σ_t λ_t violation_t + Σ_t ν_t action violation_t]
    λ, ν        ← rules of violation and tolerance, in every `dual_every`-th iteration
    z           ← z - step_size · direction(slope)               Adam

Both steps come from one evaluation. Slopes come from `torch.func.grad` and updates from
pure rules, so the loop can be unrolled, differentiated again and compiled. Elements
that fail are handled as in `planners/_failures.py`.
"""

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_count, require_positive
from diffplan.functional._first_order import RULES, start_moments
from diffplan.functional._isolation import finite_rows
from diffplan.gradients import UNROLLED, GradientStrategy, tracked
from diffplan.plan import Plan, Status
from diffplan.planners._compiling import start_plan
from diffplan.planners._failures import evaluate_soundly, where_sound
from diffplan.planners._numbers import set_number
from diffplan.planners._solution import stack_trace
from diffplan.planners.base import Planner, Solution
from diffplan.planners.collocation._primal_dual import TRACES, next_multiplier
from diffplan.planners.collocation._residuals import (
    ActionViolation,
    Residuals,
    TrajectoryProblem,
)
from diffplan.planners.collocation._starts import actions_before
from diffplan.planners.collocation.multipliers import DualAscent, MultiplierRule
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

CollocationT = TypeVar("CollocationT", bound="FirstOrderCollocation")


class RelaxedProblem(TrajectoryProblem):
    """A trajectory problem whose variables are states, in what the loop asks of it.

    Attributes:
        name: Of the variables beside the actions, in a plan's memory.
        size: How many there are in each step.
    """

    name = "states"

    @property
    def size(self) -> int:
        """How many numbers stand for what an action leads to."""
        return self.state.shape[-1]

    def represent(self, states: Tensor) -> Tensor:
        """Return the variables `[B, T, size]` of states x_1 … x_T `[B, T, S]`."""
        return states

    def states_of(self, state: Tensor, seen: Tensor, variables: Tensor) -> Tensor:
        """Return the states x_1 … x_T `[B, T, S]` that variables stand for.

        Args:
            state: `[B, S]`.
            seen: `[B, T, size]`.
            variables: Those of the actions `[B, T, A]`.
        """
        del state, variables
        return seen

    def held(self, state: Tensor, seen: Tensor, variables: Tensor) -> Tensor:
        """Return what a slope takes for constant; here nothing is.

        Args:
            state: See `states_of`; so are the others.
            seen: `[B, T, size]`.
            variables: `[B, T, A]`.
        """
        del seen, variables
        return state

    def measure(
        self, held: Tensor, state: Tensor, seen: Tensor, variables: Tensor
    ) -> Residuals:
        """Return cost and violations, given what is `held`."""
        del held
        return self._evaluate(state, seen, variables)


class FirstOrderCollocation(Planner):
    """Base of `FirstOrderLatCo`, which explains its arguments, and `ImageCollocation`.

    It owns the loop above.
    """

    supported_gradients: ClassVar = UNROLLED
    learnable_numbers: ClassVar = ("step_size",)
    needs_derivatives = True
    leaves_bounds = True
    step_size: float | Tensor
    action_violation: ActionViolation = "released"

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 500,
        step_size: float | Tensor = 0.1,
        dual_every: int = 5,
        multiplier_rules: tuple[MultiplierRule, MultiplierRule] | None = None,
        initial_multipliers: tuple[float, float] = (10.0, 10.0),
        dynamics_tolerance: float = 1e-4,
        action_tolerance: float = 1e-4,
        fall_back: bool = True,
        keep_multipliers: bool = False,
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        set_number(self, "step_size", step_size)
        self.dual_every = require_count("dual_every", dual_every)
        self.multiplier_rules = multiplier_rules or (DualAscent(10.0), DualAscent(10.0))
        for index, multiplier in enumerate(initial_multipliers):
            require_at_least(f"initial_multipliers[{index}]", multiplier, 0.0)
        self.initial_multipliers = initial_multipliers
        self.tolerances = (
            require_positive("dynamics_tolerance", dynamics_tolerance),
            require_positive("action_tolerance", action_tolerance),
        )
        self.fall_back, self.keep_multipliers = fall_back, keep_multipliers
        self.configure_gradient(gradient)

    @classmethod
    def paper(
        cls: type[CollocationT], horizon: int = 30, **options: Any
    ) -> CollocationT:
        """Return the planner as the paper prints it.

        5,000 steps of 0.05; λ = ν = 1 at the start, and in every fifth step 1.5 times
        violation less tolerance more; ‖excess‖² as violation of the action limits.
        """
        given = {
            "iterations": 5000,
            "step_size": 0.05,
            "fall_back": False,
            "multiplier_rules": (DualAscent(1.5), DualAscent(1.5)),
            "initial_multipliers": (1.0, 1.0),
        }
        planner = cls(horizon, **{**given, **options})
        planner.action_violation = "paper"
        return planner

    @abstractmethod
    def relaxed(self, problem: PlanningProblem, state: Tensor) -> RelaxedProblem:
        """Return what is minimised, for states `[B, S]`."""

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of the first variables, `[T, size + A]`."""
        size = self.relaxed(request.problem, request.state).size
        return (self.horizon, size + request.problem.action_space.dim)

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the random start, with its multipliers."""
        request = self.with_noise(request.afresh())
        relaxed = self.relaxed(request.problem, request.state)
        point, multipliers = self._start(relaxed, request)
        actions = relaxed.units.actions(point[..., relaxed.size :])
        memory = self._memory(relaxed, point, multipliers)
        return start_plan(request.state, actions, memory)

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop; see `Planner.solve`."""
        relaxed = self.relaxed(request.problem, request.state)
        point, multipliers = self._start(relaxed, request)
        moments, sound = start_moments(point), relaxed.all_sound
        traces: dict[str, list[Tensor]] = {name: [] for name in TRACES}
        rule = RULES["adam"]
        for iteration in range(self.iterations):
            with tracked(self.gradient, iteration, self.iterations):
                inputs = relaxed.state, point, *multipliers
                found, sound = evaluate_soundly(self._slope, relaxed, inputs, sound)
                slope, measured = found[0], found[2:]
                if iteration:
                    _record(traces, measured, multipliers, sound)
                self._show(request, relaxed, point, measured[0])
                # What is NaN must not enter: the moments remember.
                slope = where_sound(sound, slope, 0.0)
                direction, moments = rule.direction(slope, moments)
                moved = point - self.step_size * direction
                dual = multipliers
                if (iteration + 1) % self.dual_every == 0:
                    dual = self._dual_step(multipliers, *measured[1:])
                sound = sound & finite_rows((moved, *dual), 1)
                point = where_sound(sound, moved, point.detach())
                multipliers = (
                    where_sound(sound, dual[0], multipliers[0].detach()),
                    where_sound(sound, dual[1], multipliers[1].detach()),
                )
        with torch.no_grad():
            given = relaxed.state, point
            measured, sound = evaluate_soundly(_measured, relaxed, given, sound)
        if self.iterations:
            _record(traces, measured, multipliers, sound)
        point = where_sound(sound, point, point.detach())
        violation = where_sound(sound, measured[1].mean(dim=1), torch.inf)
        return self._solution(request, relaxed, point, multipliers, violation, traces)

    def _slope(
        self,
        relaxed: RelaxedProblem,
        state: Tensor,
        point: Tensor,
        dynamics: Tensor,
        action: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return slopes by variables and state, cost `[B]` and violations `[B, T]`.

        Nothing moves along the second, but a plan that is unrolled has a derivative
        only where it is finite. `held` is computed outside of what is differentiated
        here, so that such a plan knows how it depends on everything.
        """
        held = relaxed.held(state, *_parts(relaxed, point))

        def lagrangian(
            point: Tensor, state: Tensor
        ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
            found = relaxed.measure(held, state, *_parts(relaxed, point))
            by_dynamics, by_action = found.dynamics_violation, found.action_violation
            penalty = (dynamics * by_dynamics + action * by_action).sum(dim=-1)
            total = (found.cost + penalty).sum()
            return total, (found.cost, by_dynamics, by_action)

        gradient = torch.func.grad(lagrangian, argnums=(0, 1), has_aux=True)
        slopes, measured = gradient(point, state)
        return *slopes, *measured

    def _dual_step(
        self, multipliers: tuple[Tensor, Tensor], dynamics: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        name, (first, second) = "multiplier_rules", self.multiplier_rules
        by_dynamics, by_action = self.tolerances
        return (
            next_multiplier(name, first, multipliers[0], dynamics, by_dynamics),
            next_multiplier(name, second, multipliers[1], action, by_action),
        )

    def _start(
        self, relaxed: RelaxedProblem, request: PlanRequest
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the first variables `[B, T, size + A]` and λ, ν, each `[B, T]`."""
        units, size, noise = relaxed.units, relaxed.size, request.drawn()
        seen, variables = noise[..., :size], units.pin(noise[..., size:])
        ones = torch.ones_like(noise[..., 0])
        dynamics, action = self.initial_multipliers
        multipliers = dynamics * ones, action * ones
        warm = request.warm_start
        if warm is not None:
            variables = units.variables(warm.actions)
            kept = warm.memory.get(relaxed.name)
            if kept is None:
                kept = relaxed.represent(warm.states[:, 1:])
            seen = where_sound(finite_rows((kept,), 1), kept, seen)
            if self.keep_multipliers and "multipliers" in warm.memory:
                kept = warm.memory["multipliers"]
                multipliers = kept[..., 0], kept[..., 1]
        return torch.cat([seen, variables], dim=-1), multipliers

    def _show(
        self, request: PlanRequest, relaxed: RelaxedProblem, point: Tensor, cost: Tensor
    ) -> None:
        if request.watch is None:
            return
        with torch.no_grad():
            seen, variables = _parts(relaxed, point)
            states = relaxed.states_of(relaxed.state, seen, variables)
            visited = torch.cat([relaxed.state[:, None], states], dim=1)
            actions = relaxed.units.actions(variables)
        request.show(actions[:, None], cost[:, None], visited[:, None])

    def _solution(
        self,
        request: PlanRequest,
        relaxed: RelaxedProblem,
        point: Tensor,
        multipliers: tuple[Tensor, Tensor],
        violation: Tensor,
        traces: dict[str, list[Tensor]],
    ) -> Solution:
        seen, variables = _parts(relaxed, point)
        actions = relaxed.units.actions(variables)
        feasible = (violation <= 2 * self.tolerances[0]) & (self.iterations > 0)
        limit = int(Status.ITERATION_LIMIT)
        status = torch.where(feasible, int(Status.CONVERGED), limit)
        status = torch.where(violation == torch.inf, int(Status.NON_FINITE), status)
        known = actions_before(self, request) if self.fall_back else None
        diagnostics = {k: stack_trace(v, request.state) for k, v in traces.items()}
        diagnostics["planned_states"] = relaxed.states_of(
            relaxed.state, seen, variables
        )
        diagnostics["raw_actions"] = actions
        return Solution(
            actions=actions,
            status=status,
            iterations=self.iterations,
            diagnostics=diagnostics,
            memory=self._memory(relaxed, point, multipliers),
            known=known,
        )

    def _memory(
        self,
        relaxed: RelaxedProblem,
        point: Tensor,
        multipliers: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        return {
            relaxed.name: point[..., : relaxed.size],
            "multipliers": torch.stack(multipliers, dim=-1),
        }


def _parts(relaxed: RelaxedProblem, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is seen `[B, T, size]`, and the actions' variables `[B, T, A]`."""
    return point[..., : relaxed.size], point[..., relaxed.size :]


def _measured(
    relaxed: RelaxedProblem, state: Tensor, point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cost `[B]` and both violations `[B, T]`."""
    held = relaxed.held(state, *_parts(relaxed, point))
    found = relaxed.measure(held, state, *_parts(relaxed, point))
    return found.cost, found.dynamics_violation, found.action_violation


def _record(
    traces: dict[str, list[Tensor]],
    measured: tuple[Tensor, ...] | list[Tensor],
    multipliers: tuple[Tensor, Tensor],
    sound: Tensor,
) -> None:
    """Add an iterate to the traces; its violations are NaN where it has failed."""
    cost, *violations = measured
    values = [cost, *(violation.mean(dim=1) for violation in violations)]
    values = [where_sound(sound, value.detach(), torch.nan) for value in values]
    values += [multiplier.detach().mean(dim=1) for multiplier in multipliers]
    for name, value in zip(TRACES, values, strict=True):
        traces[name].append(value)
