"""Where collocation starts: random or rolled-out trajectories, or an earlier plan."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.functional._isolation import finite_rows
from diffplan.plan import Plan
from diffplan.planners._compiling import known_before
from diffplan.planners._failures import evaluate_soundly, where_sound
from diffplan.planners.base import Planner, Solution
from diffplan.planners.collocation._primal_dual import Multipliers, PrimalDualState
from diffplan.planners.collocation._residuals import TrajectoryProblem
from diffplan.planners.request import PlanRequest
from diffplan.solvers._least_squares import Trajectory


@dataclass(frozen=True)
class Starts:
    """How the starting points of each problem are made; see `LatCo`'s arguments."""

    rolled_out: bool
    count: int
    multipliers: tuple[float, float]
    keep_multipliers: bool

    def cold(
        self, collocation: TrajectoryProblem, noise: Tensor
    ) -> tuple[Trajectory, Multipliers]:
        """Return trajectories and multipliers made of noise.

        Args:
            collocation: What is planned, for the states of all starts `[B·count, S]`.
            noise: N(0, 1) numbers `[B·count, T, S + A]`.
        """
        size, units = collocation.state.shape[-1], collocation.units
        states, variables = noise[..., :size], units.pin(noise[..., size:])
        if self.rolled_out:
            problem = collocation.problem
            actions = problem.project(units.actions(variables))
            rolled, sound = evaluate_soundly(
                type(problem).rollout,
                problem,
                (collocation.state, actions),
                collocation.all_sound,
            )
            # where the rollout left the finite numbers states are random after all
            states = where_sound(sound, rolled[:, 1:], states)
            variables = units.variables(actions)
        ones = torch.ones_like(noise[..., 0])
        dynamics, action = self.multipliers
        multipliers = Multipliers(dynamics * ones, action * ones)
        return Trajectory(collocation.lifted(states, {}), variables), multipliers

    def warm(
        self,
        collocation: TrajectoryProblem,
        warm_start: Plan,
        trajectory: Trajectory,
        progress: PrimalDualState,
    ) -> tuple[Trajectory, PrimalDualState]:
        """Put the warm start in the place of each problem's first start.

        Args:
            collocation: As for `cold`.
            warm_start: Of B problems; states that are not finite are left out.
            trajectory: The cold ones.
            progress: Of each start.
        """

        def repeated(value: Tensor) -> Tensor:
            return value.repeat_interleave(self.count, dim=0)

        states = warm_start.memory.get("states", warm_start.states[:, 1:])
        states = repeated(collocation.lifted(states, warm_start.memory))
        variables = collocation.units.variables(repeated(warm_start.actions))
        index = torch.arange(variables.shape[0], device=variables.device)
        first = index % self.count == 0
        trajectory = Trajectory(
            where_sound(first & finite_rows((states,), 1), states, trajectory.states),
            where_sound(first, variables, trajectory.actions),
        )
        if self.keep_multipliers:
            kept = {name: repeated(v) for name, v in warm_start.memory.items()}
            progress = progress.warmed(first, kept)
        return trajectory, progress


def actions_before(planner: Planner, request: PlanRequest) -> Tensor:
    """Return the actions `[B, T, A]` that are known before planning."""
    middle = planner.initial_actions(request.afresh())
    if request.warm_start is None:
        return middle
    given = planner.initial_actions(request)
    return known_before(request.warm_start, middle, given)


def best_start(
    collocation: TrajectoryProblem, solution: Solution, count: int
) -> Solution:
    """Keep, per problem, the start whose allowed actions cost least to roll out.

    Args:
        collocation: For the states of all starts `[B·count, S]`.
        solution: Of all starts.
        count: Starts per problem.
    """
    if count == 1:
        return solution
    with torch.no_grad():
        actions = collocation.problem.project(solution.actions)
        cost = collocation.rollout_cost(collocation.state, actions)
        cost = cost.nan_to_num(nan=torch.inf)
    best = cost.reshape(-1, count).argmin(dim=1)
    chosen = best + count * torch.arange(len(best), device=best.device)
    assert solution.status is not None  # set by LatCo; narrows the type
    return Solution(
        actions=solution.actions[chosen],
        status=solution.status[chosen],
        iterations=solution.iterations,
        diagnostics={k: v[chosen] for k, v in solution.diagnostics.items()},
        memory={k: v[chosen] for k, v in solution.memory.items()},
    )
