"""LatCo: plan by collocation, states and actions together (Rybkin et al., ICML 2021).

Instead of rolling actions out, LatCo also optimises the states and lets them violate
the dynamics at first, so that it finds reward that no rollout near the start would.
Multipliers then grow until the plan is feasible:

1. every iteration takes one damped Gauss-Newton step on states and actions (Eq. 9);
2. the multiplier of each constraint and step follows its violation (Eq. 10).

`LatCo.paper(horizon)` is what the paper prints, `LatCo.released(horizon)` what its
authors' code does. What the paper leaves open follows the code: residuals normalised by
the multipliers (without it the iteration diverges on learned models), fixed damping,
full steps, plans initialised with N(0, 1) numbers.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_count, require_positive
from diffplan.errors import ArgumentError
from diffplan.gradients import UNROLLED_OR_SOLVED, GradientStrategy, Implicit, Unroll
from diffplan.objectives._base import ResidualObjective
from diffplan.plan import Plan
from diffplan.planners._compiling import start_plan
from diffplan.planners._failures import where_sound, with_value
from diffplan.planners._numbers import set_number
from diffplan.planners._solution import judged
from diffplan.planners.base import Planner, Solution
from diffplan.planners.collocation._augmented import Augmented, differentiate_optimum
from diffplan.planners.collocation._primal_dual import (
    Multipliers,
    PrimalDual,
    PrimalDualState,
)
from diffplan.planners.collocation._residuals import ActionViolation, TrajectoryProblem
from diffplan.planners.collocation._starts import Starts, actions_before, best_start
from diffplan.planners.collocation._stationary import differentiate_trajectory
from diffplan.planners.collocation.multipliers import (
    LogarithmicRule,
    MethodOfMultipliers,
    MultiplierRule,
)
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem
from diffplan.solvers._least_squares import (
    LevenbergMarquardt,
    Trajectory,
    levenberg_marquardt,
)
from diffplan.solvers.blocks import ChainSolver, RiccatiSolver, ShortSteps

_Engine = Literal["native", "theseus"]
_Init = Literal["normal", "rollout"]


class LatCo(Planner):
    """Latent collocation with Levenberg-Marquardt.

    Needs a `ResidualObjective` (for rewards: `SoftplusReward`). Dynamics with an
    analytic Jacobian (`Linearizable`, such as `RSSM`) are several times faster.

    While it iterates it asks the model about more than a shooting planner would: states
    are variables, so that no actions need lead to them, and action limits are soft, so
    that actions may lie outside their box. A model must be defined there; one with a
    square root, a logarithm or a table gives NaN, and an element that meets NaN stays
    where it is (NON_FINITE). The answer is like every planner's: the actions lie in the
    box exactly, and `plan.states` and `plan.cost` are their rollout.

    That rollout may cost more than the planned states promised, by what the tolerance
    of the dynamics is worth over T steps. Where it costs over a hundredth more than
    that of the warm start's actions, or without one of the box's centre, these are the
    answer (`fall_back`).

    Actions are moved in units of about half the width of their box, see `units.py`.

    `plan.status`: CONVERGED where the violations are within their tolerances. Such a
    plan is feasible, and need not be the best one: over a long horizon it may cost many
    times the optimum, at which `MethodOfMultipliers` ends.

    `plan.diagnostics`: `planned_states` `[…, T, S]` (x_1 … x_T) and `raw_actions`
    `[…, T, A]`, the variables themselves; traces after each
    iteration `[…, iterations]`: `cost` (of the planned states, which may still violate
    the dynamics), `dynamics_violation` and `action_violation` (means over steps of
    squared norms), `dynamics_multiplier` and `action_multiplier` (means).

    `plan.memory`: `states` `[…, T, S]` and `multipliers` `[…, T, 2]`.

    Args:
        horizon: T, at least 1.
        iterations: K, Gauss-Newton steps (paper: 200 on Meta-World, 100 on DMC).
        dynamics_tolerance: ε of ‖x_{t+1} - f(x_t, u_t)‖² (1e-4; DMC 1e-2). This and the
            next are not those of `MethodOfMultipliers`, which has its own.
        action_tolerance: ε of the action limits.
        damping: Added to JᵀJ of the normalised residuals; the release's 1e-3 on 2JᵀJ.
            A number, or a tensor or `nn.Parameter` to learn it.
        multiplier_rule: How multipliers follow violations, see `multipliers.py`. With
            `MethodOfMultipliers` the plan is the constrained optimum: damping adapts,
            CONVERGED says that the KKT system is solved (`plan.diagnostics` has its
            `stationarity` and `violation`), and `plan.memory` holds `shifts`.
        initial_multipliers: λ, above 0, and ν, at least 0, at the start (paper, "no
            relaxation": 1e8, 1); the first penalties, both above 0, of
            `MethodOfMultipliers`.
        normalize: Divide all residuals by mean√λ + mean√ν + 1, as the release does (not
            with `MethodOfMultipliers`).
        init: "normal" draws states and actions from N(0, 1), actions about
            the box's centre in the units above; "rollout" draws the actions only and
            starts feasible.
        num_starts: Initialisations optimised in parallel; the one whose rollout costs
            least is returned.
        fall_back: Whether to answer with the actions that were given where the plan's
            rollout costs more (not with `Implicit()`, whose plan is a minimum, nor
            unevaluated).
        max_step: How far an action may move in one iteration, a trust region: a step
            that is longer is shortened as a whole, states included. None sets no limit.
        keep_multipliers: Whether a warm start also goes on with its multipliers.
        solver: Linear solver of the chain (`RiccatiSolver`, `BlockCholeskySolver`).
        engine: "native", or "theseus" to let Theseus' Levenberg-Marquardt drive it.
        gradient: `Unroll()`, `Truncated(k)`, `Implicit()` or `Detach()`. `Implicit()`
            differentiates the minimum of the penalised problem at the final
            multipliers, or of the constrained one for `MethodOfMultipliers`, and the
            plan is that minimum.

    Raises:
        ArgumentError, UnsupportedGradientError: a setting is out of range.

    References:
        Rybkin et al., "Model-Based Reinforcement Learning via Latent-Space
        Collocation", ICML 2021, Algorithm 1, Eq. 6-10.

    Example:
        >>> import diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.ones(1)),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> plan = dp.LatCo(horizon=3, iterations=50)(problem, torch.zeros(1))
        >>> plan.actions.shape
        torch.Size([3, 1])
    """

    supported_gradients: ClassVar = UNROLLED_OR_SOLVED
    learnable_numbers: ClassVar = ("damping",)
    needs_derivatives = True
    leaves_bounds = True
    damping: float | Tensor
    action_violation: ActionViolation = "released"

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 100,
        dynamics_tolerance: float = 1e-4,
        action_tolerance: float = 1e-4,
        damping: float | Tensor = 5e-4,
        multiplier_rule: MultiplierRule | MethodOfMultipliers | None = None,
        initial_multipliers: tuple[float, float] = (1.0, 1.0),
        normalize: bool = True,
        init: _Init = "normal",
        num_starts: int = 1,
        fall_back: bool = True,
        max_step: float | None = None,
        keep_multipliers: bool = False,
        solver: ChainSolver | None = None,
        engine: _Engine = "native",
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        self.dynamics_tolerance = require_positive(
            "dynamics_tolerance", dynamics_tolerance
        )
        self.action_tolerance = require_positive("action_tolerance", action_tolerance)
        set_number(self, "damping", damping, zero=True)
        self.multiplier_rule = multiplier_rule or LogarithmicRule.released()
        require_positive("initial_multipliers[0]", initial_multipliers[0])
        require_at_least("initial_multipliers[1]", initial_multipliers[1], 0.0)
        if isinstance(multiplier_rule, MethodOfMultipliers):
            require_positive("initial_multipliers[1]", initial_multipliers[1])
        self.initial_multipliers = initial_multipliers
        self.normalize = normalize
        self.init: _Init = init
        self.num_starts = require_count("num_starts", num_starts, 1)
        self.fall_back = fall_back
        if max_step is not None:
            max_step = require_positive("max_step", max_step)
        self.max_step = max_step
        self.keep_multipliers = keep_multipliers
        self.solver = solver or RiccatiSolver()
        self.engine: _Engine = engine
        if engine != "native" and isinstance(multiplier_rule, MethodOfMultipliers):
            raise ArgumentError(
                "engine: MethodOfMultipliers() accepts and refuses steps, which only "
                f"'native' does, got {engine!r}"
            )
        self.configure_gradient(gradient or Unroll())

    @classmethod
    def released(cls, horizon: int = 30, **options: Any) -> "LatCo":
        """Return LatCo as its authors' code has it on Meta-World.

        200 iterations, log10 in the multipliers' rule, Σ max(0, a² - 1) as violation of
        the action limits, and the plan is the answer whatever its rollout costs.
        """
        return cls(horizon, **{"iterations": 200, "fall_back": False, **options})

    @classmethod
    def paper(cls, horizon: int = 30, **options: Any) -> "LatCo":
        """Return LatCo as its paper prints it for Meta-World.

        As `released`, but for the multipliers' rule of Eq. 10, with the natural
        logarithm, and ‖excess‖² as violation of the action limits.
        """
        rule = LogarithmicRule.paper()
        planner = cls.released(horizon, **{"multiplier_rule": rule, **options})
        planner.action_violation = "paper"
        return planner

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the objective has no residuals, or constraints no derivative."""
        problem.require_objective(ResidualObjective, type(self).__name__)
        exact = isinstance(self.multiplier_rule, MethodOfMultipliers)
        if exact and isinstance(self.gradient, Implicit):
            problem.refuse_constraints("LatCo(MethodOfMultipliers(), Implicit())")

    def collocation(self, request: PlanRequest, starts: int = 1) -> TrajectoryProblem:
        """Return what is iterated on, for `starts` starting points of each problem."""
        state = request.state.repeat_interleave(starts, dim=0)
        problem = request.problem.repeated(starts)
        return TrajectoryProblem(problem, state, self.action_violation)

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of the first states and actions, `[starts, T, S + A]`."""
        width = request.state.shape[-1] + request.problem.action_space.dim
        return (self.num_starts, self.horizon, width)

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the first of the random starts, with its multipliers."""
        request = self.with_noise(request)
        primal_dual = self._primal_dual(self.collocation(request))
        start, progress = self._start(primal_dual, request.drawn()[:, :1], None)
        collocation = primal_dual.problem
        memory = {**collocation.told(start.states), **primal_dual.memory(progress)}
        actions = collocation.units.actions(start.actions)
        return start_plan(request.state, actions, memory)

    def solve(self, request: PlanRequest) -> Solution:
        """Run the primal-dual iteration from every start and keep the best."""
        collocation = self.collocation(request, self.num_starts)
        warm_start = request.warm_start
        show = partial(self._show, request, collocation) if request.watch else None
        primal_dual = self._primal_dual(collocation, show)
        noise = request.drawn()[:, : self.num_starts]
        start, progress = self._start(primal_dual, noise, warm_start)
        trajectory, progress, report = primal_dual.run(
            self._engine(collocation),
            start,
            progress,
            iterations=self.iterations,
            damping=self.damping,
            kept=getattr(self.gradient, "iterations", None),
        )
        constant = Trajectory(trajectory.states.detach(), trajectory.actions.detach())
        trajectory = trajectory.where(progress.sound, constant)
        planned = collocation.told(trajectory.states)
        diagnostics = primal_dual.diagnostics(progress)
        diagnostics |= {f"planned_{name}": value for name, value in planned.items()}
        diagnostics["raw_actions"] = collocation.units.actions(trajectory.actions)
        solution = Solution(
            actions=diagnostics["raw_actions"],
            status=primal_dual.status(progress, report, self.iterations),
            iterations=self.iterations,
            diagnostics=diagnostics,
            memory={**planned, **primal_dual.memory(progress)},
        )
        solution = best_start(collocation, solution, self.num_starts)
        if not self.fall_back or isinstance(self.gradient, Implicit):
            return solution
        return replace(solution, known=actions_before(self, request))

    def _show(
        self,
        request: PlanRequest,
        problem: TrajectoryProblem,
        planned: Trajectory,
        cost: Tensor,
    ) -> None:
        """Show an iteration's trajectories of all starts."""
        visited = problem.told(planned.states)["states"]
        states = torch.cat([problem.state[:, None], visited], dim=1)
        values = problem.units.actions(planned.actions), cost, states
        shape = (len(request.state), self.num_starts)
        request.show(*(value.unflatten(0, shape) for value in values))

    def _primal_dual(
        self,
        collocation: TrajectoryProblem,
        show: Callable[[Trajectory, Tensor], None] | None = None,
    ) -> PrimalDual:
        """Return the iteration that goes with the rule of the multipliers."""
        kind: Callable[..., PrimalDual] = PrimalDual
        if isinstance(self.multiplier_rule, MethodOfMultipliers):
            kind = partial(Augmented, solver=self.solver)
        return kind(
            problem=collocation,
            rule=self.multiplier_rule,
            dynamics_tolerance=self.dynamics_tolerance,
            action_tolerance=self.action_tolerance,
            normalize=self.normalize,
            show=show,
        )

    def _engine(self, collocation: TrajectoryProblem) -> LevenbergMarquardt:
        solver = self.solver
        if self.max_step is not None:
            solver = ShortSteps(solver, collocation.units.unit, self.max_step)
        if self.engine == "native":
            return partial(levenberg_marquardt, solver=solver)
        from diffplan.solvers._theseus_trajectory import theseus_levenberg_marquardt

        return partial(theseus_levenberg_marquardt, solver=solver)

    def differentiate(self, request: PlanRequest, solution: Solution) -> Solution:
        """Give the plan the derivative of the minimum that the iteration approaches.

        That of the constrained problem for `MethodOfMultipliers`; else that of the
        penalised one of `_stationary.py`, whose multipliers stay as they are.
        """
        strategy = cast(Implicit, self.gradient)
        if isinstance(self.multiplier_rule, MethodOfMultipliers):
            return differentiate_optimum(request, solution, strategy)
        collocation = self.collocation(request)
        problem, units = request.problem, collocation.units
        planned = Trajectory(
            solution.memory["states"],
            units.variables(solution.diagnostics["raw_actions"]).detach(),
        )
        multipliers = solution.memory["multipliers"]
        trajectory, minimum = differentiate_trajectory(
            collocation,
            planned,
            Multipliers(multipliers[..., 0], multipliers[..., 1]),
            float(torch.as_tensor(self.damping).detach()),
            strategy,
        )
        actions = units.actions(trajectory.actions)
        # An action that failed outside the box would be cut off from `on_failure`.
        inside = with_value(problem.project(actions).detach(), actions)
        actions = where_sound(minimum.sound, actions, inside)
        judgement = judged(solution, actions, minimum.sound, minimum.stationarity)
        return replace(
            judgement,
            diagnostics={
                **judgement.diagnostics,
                "planned_states": trajectory.states,
                "raw_actions": actions,
            },
            memory={**solution.memory, "states": trajectory.states},
        )

    def _start(
        self, primal_dual: PrimalDual, noise: Tensor, warm_start: Plan | None
    ) -> tuple[Trajectory, PrimalDualState]:
        starts = Starts(
            rolled_out=self.init == "rollout",
            count=self.num_starts,
            multipliers=self.initial_multipliers,
            keep_multipliers=self.keep_multipliers,
        )
        collocation = primal_dual.problem
        trajectory, multipliers = starts.cold(collocation, noise.flatten(0, 1))
        progress = primal_dual.begin(multipliers)
        if warm_start is not None:
            return starts.warm(collocation, warm_start, trajectory, progress)
        return trajectory, progress
