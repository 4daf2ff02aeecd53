"""LatCo's implicit gradient: the penalised problem at frozen multipliers.

When LatCo ends, its multipliers λ, ν weigh the constraints of

    F(x, u) = Σ_t λ_t ‖x_{t+1} - f(x_t, u_t)‖² + Σ_t ν_t ‖excess(u_t)‖² + Σ_t ‖ρ_t‖².

Newton steps first make the planned states and actions a minimum of F, because the last
primal-dual step need not have ended in one. That minimum is what is differentiated, the
multipliers held fixed; the larger they are, the nearer it is to the solution of the
constrained problem, whose dynamics hold exactly.
"""

from dataclasses import replace

import torch
from torch import Tensor

from diffplan.functional._conjugate_gradients import Solve
from diffplan.functional._isolation import StandIns
from diffplan.gradients import Implicit
from diffplan.planners._failures import with_value
from diffplan.planners.collocation._primal_dual import Multipliers
from diffplan.planners.collocation._residuals import TrajectoryProblem
from diffplan.solvers._least_squares import Layout, Trajectory
from diffplan.solvers._matrix_free import Minimization, differentiable
from diffplan.solvers._stationary import Minimum, polish
from diffplan.solvers.blocks import RiccatiSolver


def differentiate_trajectory(
    problem: TrajectoryProblem,
    trajectory: Trajectory,
    multipliers: Multipliers,
    damping: float,
    strategy: Implicit,
) -> tuple[Trajectory, Minimum]:
    """Make a planned trajectory a minimum of F and give it its derivative.

    Args:
        problem: Residuals, for states `[B, S]` that may carry a graph.
        trajectory: Where LatCo ended.
        multipliers: Of that point, held fixed.
        damping: Of the preconditioner, the planner's own.
        strategy: Tolerances and limits.

    Returns:
        The minimum, a function of dynamics, objective, state and bounds; and how far
        it is from one. An element that fails stays where it was and has no derivative.
    """
    layout = Layout(trajectory)
    frozen = Multipliers(multipliers.dynamics.detach(), multipliers.action.detach())

    def minimization(sound: Tensor) -> Minimization:
        finite = problem.replaced(sound, linked=strategy.on_failure == "nan")

        def cost(vector: Tensor) -> Tensor:
            residuals = finite.residuals(layout.unflatten(vector))
            dynamics = residuals.defect.square().sum(dim=-1) * frozen.dynamics
            limits = residuals.excess.square().sum(dim=-1)
            limits = (limits + residuals.breach.square().sum(dim=-1)) * frozen.action
            return 2 * residuals.cost + (dynamics + limits).sum(dim=-1)

        def precondition(vector: Tensor) -> Solve:
            return _gauss_newton(finite, layout, vector, frozen, damping)

        return Minimization(cost, precondition, strategy)

    with torch.no_grad():
        _, sound = problem.sound_linearization(trajectory, problem.all_sound)
    start = layout.flatten(trajectory.states, trajectory.actions)
    minimum = polish(minimization(sound), StandIns.of(sound).put(start))
    sound = sound & torch.isfinite(minimum.stationarity)
    point = StandIns.of(sound).put(minimum.variables)
    minimum = replace(
        minimum,
        variables=point,
        stationary=minimum.stationary & sound,
        stationarity=torch.where(sound, minimum.stationarity, torch.inf),
    )
    found = differentiable(minimization(sound), minimum)
    value = torch.where(sound[:, None], found.detach(), start)
    return layout.unflatten(with_value(value, found)), minimum


def _gauss_newton(
    problem: TrajectoryProblem,
    layout: Layout,
    vector: Tensor,
    multipliers: Multipliers,
    damping: float,
) -> Solve:
    """Solve with the damped Gauss-Newton matrix 2 (JᵀWJ + damping) at a trajectory."""
    linearization = problem.linearize(layout.unflatten(vector))
    blocks = linearization.weigh(
        multipliers.dynamics, multipliers.action, torch.full_like(vector[:, 0], damping)
    )
    factor = RiccatiSolver().factorize(blocks)

    def solve(rhs: Tensor) -> Tensor:
        both = layout.unflatten(rhs)
        found = factor.solve(both.states, both.actions)
        step = layout.flatten(found.states, found.actions) / 2
        return torch.where(found.ok[:, None], step, rhs)

    return solve
