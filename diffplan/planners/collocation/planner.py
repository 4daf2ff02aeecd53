"""LatCo: plan by collocation, states and actions together (Rybkin et al., ICML 2021).

Instead of rolling actions out, LatCo also optimises the states and lets them violate
the dynamics at first, so that it finds reward that no rollout near the start would.
Multipliers then grow until the plan is feasible:

1. every iteration takes one damped Gauss-Newton step on states and actions (Eq. 9);
2. the multiplier of each constraint and step follows its violation (Eq. 10).

Where the paper and the released code differ both are settings, and what the paper
leaves open follows the release: residuals normalised by the multipliers (without it
the iteration diverges on learned models), fixed damping, full steps, plans initialised
with N(0, 1) numbers.
"""

from dataclasses import replace
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor

from diffplan.errors import ArgumentError, require_count, require_positive
from diffplan.functional.derivatives import constants
from diffplan.gradients import (
    AT_A_SOLUTION,
    CONSTANT,
    Derivatives,
    Detach,
    GradientStrategy,
    Implicit,
    Truncated,
    Unroll,
)
from diffplan.objectives.base import ResidualObjective
from diffplan.plan import Plan, Status
from diffplan.planners.base import Planner, Solution, standard_normal
from diffplan.planners.collocation.multipliers import LogarithmicRule, MultiplierRule
from diffplan.planners.collocation.primal_dual import (
    Multipliers,
    PrimalDual,
    Progress,
)
from diffplan.planners.collocation.residuals import TrajectoryProblem
from diffplan.planners.collocation.stationary import differentiate_trajectory
from diffplan.planners.implicit import judged
from diffplan.planners.numbers import set_number
from diffplan.problem import PlanningProblem
from diffplan.solvers.blocks import ChainSolver, RiccatiSolver
from diffplan.solvers.least_squares import (
    FixedDamping,
    LevenbergMarquardt,
    Report,
    Trajectory,
    levenberg_marquardt,
)

ENGINES = ("native", "theseus")
INITIALIZATIONS = ("normal", "rollout")


class LatCo(Planner):
    """Latent collocation with Levenberg-Marquardt.

    Needs a `ResidualObjective` (for rewards: `SoftplusReward`). Dynamics with an
    analytic Jacobian (`Linearizable`, such as `RSSM`) are several times faster. Action
    limits are soft while it iterates; the plan holds the projected actions, and
    `plan.states` and `plan.cost` are their rollout, as for every planner.

    `plan.diagnostics`: `planned_states` `[…, T, S]` and `raw_actions` `[…, T, A]`,
    the variables themselves; traces after each iteration `[…, iterations]`: `cost` (of
    the planned states, which may still violate the dynamics), `dynamics_violation` and
    `action_violation` (means over steps of squared norms), `dynamics_multiplier` and
    `action_multiplier` (means); with `record=True` also `trace_states`
    `[…, iterations, T, S]`.

    `plan.memory`: `states` `[…, T, S]` and `multipliers` `[…, T, 2]`.

    Args:
        horizon: T, at least 1.
        iterations: K, Gauss-Newton steps (paper: 200 on Meta-World, 100 on DMC).
        dynamics_tolerance: ε of ‖x_{t+1} - f(x_t, u_t)‖² (1e-4; DMC 1e-2).
        action_tolerance: ε of the action limits.
        damping: Added to JᵀJ of the normalised residuals; the release's 1e-3 on 2JᵀJ.
            A number, or a tensor or `nn.Parameter` to learn it.
        multiplier_rule: See `multipliers.py`.
        initial_multipliers: λ and ν at the start (paper, "no relaxation": 1e8, 1).
        normalize: Divide all residuals by mean√λ + mean√ν + 1, as the release does.
        action_violation: "released" or "paper", see `TrajectoryProblem`.
        initialization: "normal" draws states and actions from N(0, 1); "rollout" draws
            the actions only and starts feasible.
        num_starts: Initialisations optimised in parallel; the one whose rollout costs
            least is returned.
        keep_multipliers: Whether a warm start also goes on with its multipliers.
        solver: Linear solver of the chain (`RiccatiSolver`, `BlockCholeskySolver`).
        engine: "native", or "theseus" to let Theseus' Levenberg-Marquardt drive it.
        gradient: `Unroll()`, `Truncated(k)`, `Implicit()` or `Detach()`. `Implicit()`
            differentiates the minimum of the penalised problem at the final
            multipliers, and the plan is that minimum.
        record: Keep the states of every iterate in the diagnostics.

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

    supported_gradients: ClassVar = {
        Unroll: Derivatives(order=2),
        Truncated: Derivatives(order=2),
        Implicit: AT_A_SOLUTION,
        Detach: CONSTANT,
    }
    learnable_numbers: ClassVar = ("damping",)
    needs_derivatives = True
    leaves_bounds = True
    damping: float | Tensor

    def __init__(
        self,
        horizon: int,
        iterations: int = 200,
        *,
        dynamics_tolerance: float = 1e-4,
        action_tolerance: float = 1e-4,
        damping: float | Tensor = 5e-4,
        multiplier_rule: MultiplierRule | None = None,
        initial_multipliers: tuple[float, float] = (1.0, 1.0),
        normalize: bool = True,
        action_violation: str = "released",
        initialization: str = "normal",
        num_starts: int = 1,
        keep_multipliers: bool = False,
        solver: ChainSolver | None = None,
        engine: str = "native",
        gradient: GradientStrategy | None = None,
        record: bool = False,
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
        self.initial_multipliers = initial_multipliers
        self.normalize = normalize
        self.action_violation = action_violation
        self.initialization = _one_of("initialization", initialization, INITIALIZATIONS)
        self.num_starts = require_count("num_starts", num_starts, 1)
        self.keep_multipliers = keep_multipliers
        self.solver = solver or RiccatiSolver()
        self.engine = _one_of("engine", engine, ENGINES)
        self.record = record
        self.configure_gradient(gradient or Unroll())

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the objective has no residuals."""
        problem.require_objective(ResidualObjective, "LatCo")

    def draw_noise(
        self,
        problem: PlanningProblem,
        state: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Draw the initial states and actions `[B, num_starts, T, S + A]`."""
        width = state.shape[-1] + problem.action_space.dim
        shape = (state.shape[0], self.num_starts, self.horizon, width)
        return standard_normal(shape, state, generator)

    def solve(
        self,
        problem: PlanningProblem,
        state: Tensor,
        noise: Tensor | None,
        warm_start: Plan | None,
    ) -> Solution:
        """Run the primal-dual iteration from every start and keep the best."""
        repeated = state.repeat_interleave(self.num_starts, dim=0)
        problem = problem.repeated(self.num_starts)
        start, multipliers = self._start(problem, repeated, noise, warm_start)
        primal_dual = PrimalDual(
            problem=TrajectoryProblem(problem, repeated, self.action_violation),
            rule=self.multiplier_rule,
            dynamics_tolerance=self.dynamics_tolerance,
            action_tolerance=self.action_tolerance,
            normalize=self.normalize,
            keep_states=self.record,
        )
        trajectory, progress, report = self._iterate(
            primal_dual, start, Progress(multipliers)
        )
        residuals = primal_dual.problem.residuals(trajectory)
        progress = primal_dual.observe(trajectory, progress, residuals)
        solution = self._solution(trajectory, progress, report)
        solution = self._best_start(problem, repeated, solution)
        if warm_start is None:
            return solution
        return replace(solution, known=problem.project(warm_start.actions))

    def _iterate(
        self, primal_dual: PrimalDual, trajectory: Trajectory, progress: Progress
    ) -> tuple[Trajectory, Progress, Report]:
        """Run all iterations; those that `Truncated` cuts off leave no graph."""
        engine = partial(
            _engine(self.engine),
            primal_dual.linearize,
            damping=FixedDamping(self.damping),
            solver=self.solver,
        )
        if not isinstance(self.gradient, Truncated):
            return engine(trajectory, progress, iterations=self.iterations)
        kept = min(self.iterations, self.gradient.iterations)
        with constants():
            cut = self.iterations - kept
            trajectory, progress, _ = engine(trajectory, progress, iterations=cut)
            residuals = primal_dual.problem.residuals(trajectory)
            progress = primal_dual.observe(trajectory, progress, residuals)
        goes_on = Progress(progress.multipliers)
        trajectory, later, report = engine(trajectory, goes_on, iterations=kept)
        # both parts have recorded the iterate between them
        records = (*progress.records[:-1], *later.records)
        return trajectory, replace(later, records=records), report

    def differentiate(
        self, problem: PlanningProblem, state: Tensor, solution: Solution
    ) -> Solution:
        """Give the plan the derivative of the penalised problem's minimum.

        That of `stationary.py`: multipliers stay as they are.
        """
        strategy = cast(Implicit, self.gradient)
        planned = Trajectory(
            solution.memory["states"], solution.diagnostics["raw_actions"]
        )
        multipliers = solution.memory["multipliers"]
        trajectory, minimum = differentiate_trajectory(
            TrajectoryProblem(problem, state, self.action_violation),
            planned,
            Multipliers(multipliers[..., 0], multipliers[..., 1]),
            float(torch.as_tensor(self.damping).detach()),
            strategy,
        )
        judgement = judged(solution, minimum, trajectory.actions)
        return replace(
            judgement,
            diagnostics={
                **judgement.diagnostics,
                "planned_states": trajectory.states,
                "raw_actions": trajectory.actions,
            },
            memory={**solution.memory, "states": trajectory.states},
        )

    def _start(
        self,
        problem: PlanningProblem,
        state: Tensor,
        noise: Tensor | None,
        warm_start: Plan | None,
    ) -> tuple[Trajectory, Multipliers]:
        assert noise is not None  # drawn by draw_noise; narrows the type
        size = state.shape[-1]
        flat = noise.flatten(0, 1)
        trajectory = Trajectory(flat[..., :size], flat[..., size:])
        if self.initialization == "rollout":
            actions = problem.project(trajectory.actions)
            states = problem.rollout(state, actions)[:, 1:]
            trajectory = Trajectory(states, actions)
        ones = torch.ones_like(flat[..., 0])
        multipliers = Multipliers(
            self.initial_multipliers[0] * ones, self.initial_multipliers[1] * ones
        )
        if warm_start is not None:
            trajectory, multipliers = self._warm(warm_start, trajectory, multipliers)
        return trajectory, multipliers

    def _warm(
        self, warm_start: Plan, trajectory: Trajectory, multipliers: Multipliers
    ) -> tuple[Trajectory, Multipliers]:
        """Put the warm start in the place of each problem's first start."""
        states = warm_start.memory.get("states", warm_start.states[:, 1:])
        warm = Trajectory(
            states.repeat_interleave(self.num_starts, dim=0),
            warm_start.actions.repeat_interleave(self.num_starts, dim=0),
        )
        count = trajectory.states.shape[0]
        index = torch.arange(count, device=trajectory.states.device)
        first = index % self.num_starts == 0
        trajectory = warm.where(first, trajectory)
        if self.keep_multipliers and "multipliers" in warm_start.memory:
            kept = warm_start.memory["multipliers"]
            kept = kept.repeat_interleave(self.num_starts, dim=0)
            multipliers = Multipliers(
                torch.where(first[:, None], kept[..., 0], multipliers.dynamics),
                torch.where(first[:, None], kept[..., 1], multipliers.action),
            )
        return trajectory, multipliers

    def _solution(
        self, trajectory: Trajectory, progress: Progress, report: Report
    ) -> Solution:
        diagnostics = {
            name: progress.trace(name)[:, 1:]
            for name in (
                "cost",
                "dynamics_violation",
                "action_violation",
                "dynamics_multiplier",
                "action_multiplier",
            )
        }
        if self.record:
            diagnostics["trace_states"] = progress.trace("states")[:, 1:]
        diagnostics["planned_states"] = trajectory.states
        diagnostics["raw_actions"] = trajectory.actions
        multipliers = progress.multipliers
        return Solution(
            actions=trajectory.actions,
            status=self._status(progress.records[-1].dynamics_violation, report),
            iterations=self.iterations,
            diagnostics=diagnostics,
            memory={
                "states": trajectory.states,
                "multipliers": torch.stack(
                    [multipliers.dynamics, multipliers.action], dim=-1
                ),
            },
        )

    def _status(self, violation: Tensor, report: Report) -> Tensor:
        # The logarithmic rule settles near its tolerance; twice that is "feasible".
        feasible = violation <= 2 * self.dynamics_tolerance
        status = torch.where(
            feasible, int(Status.CONVERGED), int(Status.ITERATION_LIMIT)
        )
        status = torch.where(report.failed, int(Status.FACTORIZATION_FAILED), status)
        return torch.where(report.non_finite, int(Status.NON_FINITE), status)

    def _best_start(
        self, problem: PlanningProblem, state: Tensor, solution: Solution
    ) -> Solution:
        """Keep, per problem, the start whose allowed actions cost least to roll out."""
        if self.num_starts == 1:
            return solution
        with torch.no_grad():
            actions = problem.project(solution.actions)
            states = problem.rollout(state, actions)
            cost = problem.trajectory_cost(states, actions).nan_to_num(nan=torch.inf)
        best = cost.reshape(-1, self.num_starts).argmin(dim=1)
        chosen = best + self.num_starts * torch.arange(len(best), device=best.device)
        assert solution.status is not None  # set by _solution; narrows the type
        return Solution(
            actions=solution.actions[chosen],
            status=solution.status[chosen],
            iterations=solution.iterations,
            diagnostics={k: v[chosen] for k, v in solution.diagnostics.items()},
            memory={k: v[chosen] for k, v in solution.memory.items()},
        )


def _engine(name: str) -> LevenbergMarquardt:
    if name == "native":
        return levenberg_marquardt
    from diffplan.solvers.theseus_trajectory import theseus_levenberg_marquardt

    return theseus_levenberg_marquardt


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ArgumentError(f"{name}: expected one of {allowed}, got {value!r}")
    return value
