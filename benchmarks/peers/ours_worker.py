"""diffplan on the same problems, with the same counts of iterations and samples."""

from typing import Any

import torch
from _problems import Problem
from _worker import Contender, serve
from torch import Tensor, nn

import diffplan as dp
from diffplan.objectives import ResidualObjective


class WithJacobians:
    """The dynamics with the method by which diffplan asks for Jacobians."""

    def __init__(self, dynamics: nn.Module) -> None:
        self.dynamics = dynamics

    def __call__(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the next state."""
        return self.dynamics(state, action)

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state and the Jacobians by state and action."""
        return self.dynamics(state, action), *self.dynamics.jacobians(state, action)


class Quadratic(ResidualObjective):
    """The cost of `Problem`, as residuals."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.goal, self.root = problem.goal, problem.weight.sqrt()
        self.effort = problem.effort**0.5

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the weighted distance to the goal, and the effort."""
        distance = self.terminal_residual(state)
        return torch.cat([distance, self.effort * action], dim=-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return the weighted distance to the goal."""
        return self.root * (state - self.goal)


class OnArrival:
    """The cost as the sampling peers count it: of states that are arrived in."""

    def __init__(self, problem: Problem) -> None:
        self.running_cost = problem.running_cost

    def __call__(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost of trajectories."""
        return self.running_cost(states[..., 1:, :], actions).sum(dim=-1)


def planner_for(case: dict[str, Any]) -> dp.Planner:
    """Return our planner for a case."""
    horizon, iterations = case["horizon"], case["iterations"]
    if case["planner"] == "CEM":
        return dp.CEM(
            horizon,
            num_samples=case["samples"],
            num_elites=case["elites"],
            iterations=iterations,
            initial_std=case["std"],
        )
    if case["planner"] == "MPPI":
        return dp.MPPI(
            horizon,
            num_samples=case["samples"],
            iterations=iterations,
            temperature=case["temperature"],
            initial_std=case["std"],
            fixed_std=True,
            gradient=dp.Detach(),
        )
    gradient: dp.GradientStrategy = dp.Detach()
    if case["backward"]:
        known = dp.ILQR.supported_gradients
        gradient = dp.Implicit() if dp.Implicit in known else dp.Unroll()
    return dp.ILQR(horizon, iterations=iterations, gradient=gradient)


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Set diffplan up."""
    limit = float("inf") if problem.limit is None else problem.limit
    bound = torch.full((problem.width,), limit, dtype=problem.state.dtype)
    dynamics: Any = problem.dynamics
    if case["jacobians"] == "analytic":
        dynamics = WithJacobians(problem.dynamics)
    sampling = case["planner"] in ("CEM", "MPPI")
    objective: Any = OnArrival(problem) if sampling else Quadratic(problem)
    planning = dp.PlanningProblem(dynamics, objective, dp.Box(-bound, bound))
    planner = planner_for(case)
    if case["compiled"]:
        planner.compile()

    generator = torch.Generator().manual_seed(0)

    def solve() -> dp.Plan:
        return planner(planning, problem.state, generator=generator)

    return Contender(solve, lambda plan: plan.actions)


if __name__ == "__main__":
    serve(["diffplan"], prepare)
