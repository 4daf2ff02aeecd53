"""Random linear-quadratic problems and their oracles: a dense system, and cvxpy."""

import numpy as np
import torch
from torch import Tensor

import diffplan as dp
from diffplan.functional import IncrementalLQR, LQRProblem
from diffplan.objectives import ResidualObjective


def random_lqr(
    batch: tuple[int, ...], horizon: int, size: int, width: int, *, seed: int
) -> LQRProblem:
    """Draw a strictly convex problem in float64, open loop near stability."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    both = size + width
    root = draw(horizon + 1, both, both) / both**0.5
    cost = root @ root.mT + 0.1 * torch.eye(both, dtype=torch.float64)
    return LQRProblem(
        state_cost=cost[..., :size, :size].contiguous(),
        action_cost=cost[..., :-1, size:, size:].contiguous(),
        cross_cost=cost[..., :-1, size:, :size].contiguous(),
        state_linear=draw(horizon + 1, size),
        action_linear=draw(horizon, width),
        state_jacobian=draw(horizon, size, size) / size**0.5,
        action_jacobian=draw(horizon, size, width) / size**0.5,
        offset=draw(horizon, size),
        initial_state=draw(size),
    )


def increments(batch: tuple[int, ...], *sizes: int, seed: int) -> LQRProblem:
    """A problem about a rollout: no offsets, and the first state does not move."""
    problem = random_lqr(batch, *sizes, seed=seed)
    return problem._replace(
        offset=torch.zeros_like(problem.offset),
        initial_state=torch.zeros_like(problem.initial_state),
    )


def packed(problem: LQRProblem) -> IncrementalLQR:
    """The same, with one matrix for the cost of each step."""
    cross, state_cost = problem.cross_cost, problem.state_cost
    rows = (problem.action_cost, cross), (cross.mT, state_cost[..., :-1, :, :])
    linear = problem.state_linear
    return IncrementalLQR(
        problem.action_jacobian,
        problem.state_jacobian,
        torch.cat([torch.cat(row, -1) for row in rows], -2),
        torch.cat((problem.action_linear, linear[..., :-1, :]), -1),
        state_cost[..., -1, :, :],
        linear[..., -1, :],
    )


def element(problem: LQRProblem, index: int | tuple[int, ...]) -> LQRProblem:
    """One problem of a batch."""
    return LQRProblem(*(tensor[index] for tensor in problem))


def lqr_cost(problem: LQRProblem, states: Tensor, actions: Tensor) -> Tensor:
    """The objective `[…]` of the module's formula."""
    p, x, u = problem, states, actions

    def form(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("...i,...ij,...j->...", left, matrix, right).sum(-1)

    before = x[..., :-1, :]
    return (
        0.5 * form(x, p.state_cost, x)
        + 0.5 * form(u, p.action_cost, u)
        + form(u, p.cross_cost, before)
        + (p.state_linear * x).sum((-1, -2))
        + (p.action_linear * u).sum((-1, -2))
    )


def dense_lqr(problem: LQRProblem) -> tuple[Tensor, Tensor, Tensor]:
    """States, actions and costates λ_1 … λ_T of one problem, by one dense solve.

    The unknowns are (x, u, λ_0 … λ_T) of the module's conditions of optimality.
    """
    p = LQRProblem(*(tensor.numpy() for tensor in problem))
    horizon, size, width = p.action_jacobian.shape
    states, actions = (horizon + 1) * size, horizon * width
    total = 2 * states + actions
    matrix, right = np.zeros((total, total)), np.zeros(total)

    def x(t: int) -> slice:
        return slice(t * size, (t + 1) * size)

    def u(t: int) -> slice:
        return slice(states + t * width, states + (t + 1) * width)

    def dual(t: int) -> slice:
        start = states + actions
        return slice(start + t * size, start + (t + 1) * size)

    for t in range(horizon + 1):
        matrix[x(t), x(t)], right[x(t)] = p.state_cost[t], p.state_linear[t]
        matrix[x(t), dual(t)] = matrix[dual(t), x(t)] = -np.eye(size)
    right[dual(0)] = p.initial_state
    for t in range(horizon):
        matrix[u(t), u(t)], right[u(t)] = p.action_cost[t], p.action_linear[t]
        matrix[u(t), x(t)], matrix[x(t), u(t)] = p.cross_cost[t], p.cross_cost[t].T
        for column, block in (
            (x(t), p.state_jacobian[t]),
            (u(t), p.action_jacobian[t]),
        ):
            matrix[dual(t + 1), column], matrix[column, dual(t + 1)] = block, block.T
        right[dual(t + 1)] = p.offset[t]
    found = torch.as_tensor(np.linalg.solve(matrix, -right))
    return (
        found[:states].view(horizon + 1, size),
        found[states : states + actions].view(horizon, width),
        found[states + actions + size :].view(horizon, size),
    )


def cvxpy_lqr(
    problem: LQRProblem, limit: float = float("inf")
) -> tuple[Tensor, Tensor]:
    """States and actions of one problem with |u| ≤ limit, by an interior-point method.

    The stage costs go in as squares of their Cholesky factors.
    """
    import cvxpy

    p = LQRProblem(*(tensor.numpy() for tensor in problem))
    horizon, size, width = p.action_jacobian.shape
    states = cvxpy.Variable((horizon + 1, size))
    actions = cvxpy.Variable((horizon, width))
    cost = 0.5 * cvxpy.sum_squares(np.linalg.cholesky(p.state_cost[-1]).T @ states[-1])
    cost += p.state_linear[-1] @ states[-1]
    constraints = [states[0] == p.initial_state]
    for t in range(horizon):
        both = cvxpy.hstack([states[t], actions[t]])
        stage = np.block(
            [[p.state_cost[t], p.cross_cost[t].T], [p.cross_cost[t], p.action_cost[t]]]
        )
        cost += 0.5 * cvxpy.sum_squares(np.linalg.cholesky(stage).T @ both)
        cost += p.state_linear[t] @ states[t] + p.action_linear[t] @ actions[t]
        following = p.state_jacobian[t] @ states[t] + p.action_jacobian[t] @ actions[t]
        constraints.append(states[t + 1] == following + p.offset[t])
    if limit < float("inf"):
        constraints += [actions <= limit, actions >= -limit]
    exact = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    cvxpy.Problem(cvxpy.Minimize(cost), constraints).solve(
        solver=cvxpy.CLARABEL, **exact
    )
    return torch.as_tensor(states.value), torch.as_tensor(actions.value)


class SquaredResiduals(ResidualObjective):
    """½ z'C z + c'z of z = (x, u) as a squared residual, up to a constant."""

    def __init__(self, problem: LQRProblem) -> None:
        super().__init__()
        p = problem
        stage = torch.cat(
            [
                torch.cat([p.state_cost[0], p.cross_cost[0].mT], -1),
                torch.cat([p.cross_cost[0], p.action_cost[0]], -1),
            ]
        )
        linear = torch.cat([p.state_linear[0], p.action_linear[0]])
        self.stage, self.shift = _root(stage, linear)
        self.end, self.end_shift = _root(p.state_cost[-1], p.state_linear[-1])

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([state, action], -1) @ self.stage + self.shift

    def terminal_residual(self, state: Tensor) -> Tensor:
        return state @ self.end + self.end_shift


def _root(matrix: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    root = torch.linalg.cholesky(matrix)
    shift = torch.linalg.solve_triangular(root, linear[:, None], upper=False)
    return root, shift[:, 0]


def planning_lqr(
    horizon: int, size: int, width: int, *, limit: float, seed: int
) -> tuple[dp.PlanningProblem, Tensor, list[LQRProblem]]:
    """The same random problem for planners and for the oracles.

    Returns:
        The problem, three start states `[3, S]`, and one `LQRProblem` per start.
    """
    drawn = random_lqr((), 1, size, width, seed=seed)
    steady = LQRProblem(
        *(
            tensor[:1].expand(horizon + extra, *tensor.shape[1:])
            for tensor, extra in zip(drawn[:-1], (1, 0, 0, 1, 0, 0, 0, 0), strict=True)
        ),
        drawn.initial_state,
    )
    by_state, by_action = drawn.state_jacobian[0], drawn.action_jacobian[0]
    offset = drawn.offset[0]
    problem = dp.PlanningProblem(
        lambda state, action: state @ by_state.mT + action @ by_action.mT + offset,
        SquaredResiduals(steady),
        dp.Box(
            *(
                torch.full((width,), side, dtype=torch.float64)
                for side in (-limit, limit)
            )
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    starts = 2 * torch.randn(3, size, generator=generator, dtype=torch.float64)
    return problem, starts, [steady._replace(initial_state=start) for start in starts]
