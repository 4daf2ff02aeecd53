"""diffplan on the same problems, with the same counts of iterations and samples."""

from typing import Any

import torch
from _code import without_python
from _problems import Problem
from _worker import Contender, serve
from torch import Tensor, nn

import diffplan as dp


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


def quadratic(problem: Problem) -> dp.objectives.QuadraticCost:
    """Return the cost of `Problem` as the matrices that the second-order peers get."""
    weight = torch.diag(problem.weight)
    eye = torch.eye(problem.width, dtype=problem.weight.dtype)
    return dp.objectives.QuadraticCost(
        weight, problem.effort * eye, state_linear=-problem.weight * problem.goal
    )


class OnArrival(dp.objectives.StageObjective):
    """The cost as the sampling peers count it: of states that are arrived in."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def initial_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the effort of the first action: nothing is paid for the start."""
        del state
        return 0.5 * self.problem.effort * action.square().sum(dim=-1)

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost of a state and of the action taken there."""
        return self.problem.running_cost(state, action)

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost of the last state."""
        return self.problem.terminal_cost(state)


def regulator(problem: Problem, *, compiled: bool) -> Contender:
    """Return the layer that solves a linear problem without bounds."""
    batch, horizon, size = problem.state.shape[0], problem.horizon, problem.size
    weight, linear = torch.diag(problem.weight), -problem.weight * problem.goal
    action_cost = problem.effort * torch.eye(problem.width, dtype=weight.dtype)
    dynamics: Any = problem.dynamics
    layer = dp.functional.lqr
    if compiled:
        layer = torch.compile(layer, fullgraph=True, dynamic=False)

    def many(value: Tensor, count: int) -> Tensor:
        return value.expand(batch, count, *value.shape)

    def solve() -> Tensor:
        found = layer(
            dp.functional.LQRProblem(
                state_cost=many(weight, horizon + 1),
                action_cost=many(action_cost, horizon),
                cross_cost=many(torch.zeros_like(action_cost[:, :1] * linear), horizon),
                state_linear=many(linear, horizon + 1),
                action_linear=many(torch.zeros_like(action_cost[0]), horizon),
                state_jacobian=many(dynamics.state_matrix, horizon),
                action_jacobian=many(dynamics.action_matrix, horizon),
                offset=linear.new_zeros(batch, horizon, size),
                initial_state=problem.state,
            )
        )
        return found.actions

    return Contender(solve)


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
            shared_noise=True,  # as the peer's batched planner
            gradient=dp.Detach(),
        )
    gradient: dp.GradientStrategy = dp.Detach()
    if case["backward"]:
        known = dp.ILQR.supported_gradients
        gradient = dp.Implicit() if dp.Implicit in known else dp.Unroll()
    return dp.ILQR(horizon, iterations=iterations, gradient=gradient)


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Set diffplan up."""
    if case["planner"] == "LQR":
        return regulator(problem, compiled=case["compiled"])
    limit = float("inf") if problem.limit is None else problem.limit
    bound = torch.full((problem.width,), limit, dtype=problem.state.dtype)
    dynamics: Any = problem.dynamics
    sampling = case["planner"] in ("CEM", "MPPI")
    if case["problem"] == "linear" and not sampling:
        matrices = dynamics.state_matrix, dynamics.action_matrix
        dynamics = dp.models.LinearDynamics(*matrices)
    elif case["jacobians"] == "analytic" and not sampling:
        dynamics = WithJacobians(problem.dynamics)
    objective: Any = OnArrival(problem) if sampling else quadratic(problem)
    planning = dp.PlanningProblem(dynamics, objective, dp.Box(-bound, bound))
    planner = planner_for(case)
    if case["compiled"]:
        planner.compile()
    if case["exported"]:
        code, start = without_python(planner, planning, problem.state)
        return Contender(
            lambda: code(problem.state, start)[0], lambda plan: plan["actions"]
        )

    generator = torch.Generator().manual_seed(0)

    def solve() -> dp.Plan:
        # Sampling peers do not roll their answer out either.
        evaluate = not sampling
        return planner(planning, problem.state, generator=generator, evaluate=evaluate)

    return Contender(solve, lambda plan: plan.actions)


if __name__ == "__main__":
    serve(["diffplan"], prepare)
