"""Planning problems with known answers, shared by all tests."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor, nn

import diffplan as dp
from diffplan.objectives import GoalDistance, ResidualObjective


class LinearDynamics(nn.Module):
    """x' = A x + B u, with parameters, for any leading dimensions."""

    def __init__(self, transition: Tensor, control: Tensor) -> None:
        super().__init__()
        self.transition = nn.Parameter(transition)
        self.control = nn.Parameter(control)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return state @ self.transition.mT + action @ self.control.mT


class PendulumDynamics(nn.Module):
    """A damped pendulum, angle 0 upright, in explicit Euler steps."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(5.0, dtype=dtype))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        angle, velocity = state[..., 0], state[..., 1]
        torque = 5.0 * action[..., 0]
        acceleration = self.gravity * angle.sin() + torque - 0.1 * velocity
        velocity = velocity + 0.1 * acceleration
        return torch.stack([angle + 0.1 * velocity, velocity], dim=-1)


class QuadraticCost(ResidualObjective):
    """½ Σ (q‖x_t - goal‖² + r‖u_t‖²) + ½ q_T ‖x_T - goal‖², with parameters."""

    def __init__(self, goal: Tensor, effort: float = 0.1, final: float = 5.0) -> None:
        super().__init__()
        self.goal = nn.Parameter(goal)
        self.effort = effort
        self.final = final

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([state - self.goal, math.sqrt(self.effort) * action], dim=-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        return math.sqrt(self.final) * (state - self.goal)


class TimedCost(ResidualObjective):
    """A distance to a goal whose weight depends on the step, and a little effort.

    Args:
        weights: Of steps 0 … T, `[T+1]`.
        goal: `[2]`; further state numbers cost nothing.
        clock: Whether the step is read off the third state number instead.
    """

    def __init__(self, weights: Tensor, goal: Tensor, clock: bool = False) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("goal", goal)
        self.clock = clock

    def running_residual(self, state: Tensor, action: Tensor, time: Tensor) -> Tensor:
        return torch.cat([self.terminal_residual(state, time), 0.3 * action], dim=-1)

    def terminal_residual(self, state: Tensor, time: Tensor) -> Tensor:
        if self.clock:
            time = state[..., 2].detach().round().long().clamp(0, len(self.weights) - 1)
        root = self.weights[time].sqrt().unsqueeze(-1)
        return root * (state[..., :2] - self.goal)


def timed_problem(
    clock: bool = False, dtype: torch.dtype = torch.float64
) -> dp.PlanningProblem:
    """The bounded double integrator for five steps: weights and wind of each step."""
    plain = double_integrator(dtype, limit=0.6)
    wind = torch.tensor([0.0, 0.1, -0.2, 0.05, 0.3], dtype=dtype)

    def with_wind(state: Tensor, action: Tensor, time: Tensor) -> Tensor:
        return plain.dynamics(state, action) + wind[time].unsqueeze(-1)

    def with_clock(state: Tensor, action: Tensor) -> Tensor:
        time = state[..., 2].detach().round().long().clamp(0, 4)
        moved = with_wind(state[..., :2], action, time)
        return torch.cat([moved, state[..., 2:] + 1], dim=-1)

    weights = torch.tensor([1.0, 3.0, 0.2, 2.0, 0.5, 7.0], dtype=dtype)
    cost = TimedCost(weights, torch.tensor([0.5, 0.0], dtype=dtype), clock)
    dynamics = with_clock if clock else with_wind
    return dp.PlanningProblem(dynamics, cost, plain.action_space)


def timed_cost_by_hand(
    problem: dp.PlanningProblem, states: Tensor, actions: Tensor
) -> float:
    """What one trajectory of `timed_problem` costs, by a loop over plain numbers."""
    weights, goal = problem.objective.weights.tolist(), problem.objective.goal.tolist()
    total = 0.0
    for step, state in enumerate(states.tolist()):
        distance = sum((x - g) ** 2 for x, g in zip(state, goal, strict=False))
        total += 0.5 * weights[step] * distance
    return total + 0.5 * 0.09 * sum(u**2 for u in actions.flatten().tolist())


def gear_problem(
    dtype: torch.dtype = torch.float64,
) -> tuple[dp.PlanningProblem, Tensor]:
    """A point mass with a brake, no drive or a strong one, to choose from; 3 states."""
    forces = torch.tensor([-0.8, 0.0, 1.0], dtype=dtype)

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        position, velocity = state.split(1, dim=-1)
        force = (action[..., -3:] * forces).sum(-1, keepdim=True)
        drag = 0.1 * velocity.sin()
        return torch.cat([position + 0.3 * velocity, velocity + 0.5 * force - drag], -1)

    goal = GoalDistance(torch.tensor([0.5, 0.0], dtype=dtype))
    state = torch.tensor([[0.0, 0.0], [-0.6, 0.4], [0.9, -0.3]], dtype=dtype)
    return dp.PlanningProblem(dynamics, goal, dp.Categorical(3)), state


def mixed_gear_problem(
    dtype: torch.dtype = torch.float64,
) -> tuple[dp.PlanningProblem, Tensor]:
    """The same with two numbers beside: a fine push, and one that does nothing."""
    plain, state = gear_problem(dtype)

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        moved = plain.dynamics(state, action)
        return moved + torch.tensor([0.0, 0.2], dtype=dtype) * action[..., :1]

    box = dp.Box([-1.0, 0.0], [0.7, 0.0])
    space = dp.Categorical(3, box=box)
    return dp.PlanningProblem(dynamics, plain.objective, space), state


def double_integrator(
    dtype: torch.dtype = torch.float64, limit: float = math.inf
) -> dp.PlanningProblem:
    """A point on a line, pushed to position 0.5: linear dynamics, quadratic cost."""
    transition = torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=dtype)
    control = torch.tensor([[0.05], [0.3]], dtype=dtype)
    return dp.PlanningProblem(
        LinearDynamics(transition, control),
        QuadraticCost(torch.tensor([0.5, 0.0], dtype=dtype)),
        dp.Box([-limit], [limit]),
    )


def pendulum(dtype: torch.dtype = torch.float64) -> dp.PlanningProblem:
    """Balance a pendulum that starts near upright."""
    return dp.PlanningProblem(
        PendulumDynamics(dtype),
        QuadraticCost(torch.zeros(2, dtype=dtype), effort=0.01),
        dp.Box([-1.0], [1.0]),
    )


def one_step(
    target: Tensor, low: float = -1.0, high: float = 1.0
) -> dp.PlanningProblem:
    """X' = x + u, cost ½‖x' - target‖² after one step: u* = clip(target - x)."""
    size = target.shape[-1]
    return dp.PlanningProblem(
        lambda state, action: state + action,
        GoalDistance(target, running_weight=0.0),
        dp.Box([low] * size, [high] * size),
    )


def states_of(count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Different start states `[count, 2]` for the problems with two state numbers."""
    angle = torch.arange(count, dtype=dtype)
    return 0.4 * torch.stack([(angle + 1).sin(), (2 * angle).cos()], dim=-1)


def riccati_actions(problem: dp.PlanningProblem, state: Tensor, horizon: int) -> Tensor:
    """Optimal actions `[T, A]` of an unbounded linear-quadratic problem, by Riccati.

    Backward recursion in numpy on the state extended by a constant one, which turns
    the distance to a goal into a quadratic form.
    """
    a, b, cost = _as_numpy(problem)
    size = a.shape[0]
    extended_a = np.block([[a, np.zeros((size, 1))], [np.zeros((1, size)), 1.0]])
    extended_b = np.vstack([b, np.zeros((1, b.shape[1]))])
    goal = problem.objective.goal.detach().numpy()
    offset = np.hstack([np.eye(size), -goal[:, None]])
    value = cost.final * offset.T @ offset
    gains = []
    for _ in range(horizon):
        inner = cost.effort * np.eye(b.shape[1]) + extended_b.T @ value @ extended_b
        gain = np.linalg.solve(inner, extended_b.T @ value @ extended_a)
        value = offset.T @ offset + extended_a.T @ value @ (
            extended_a - extended_b @ gain
        )
        gains.insert(0, gain)
    current = np.append(state.numpy(), 1.0)
    actions = []
    for gain in gains:
        action = -gain @ current
        actions.append(action)
        current = extended_a @ current + extended_b @ action
    return torch.as_tensor(np.stack(actions))


def bounded_actions(problem: dp.PlanningProblem, state: Tensor, horizon: int) -> Tensor:
    """Optimal actions `[T, A]` of a bounded linear-quadratic problem, by scipy.

    The bounds may depend on the step, `[T, A]`.

    All residuals are stacked into one least-squares problem with bounds.
    """
    a, b, cost = _as_numpy(problem)
    size, width = b.shape
    goal = problem.objective.goal.detach().numpy()
    rows, right = [], []
    effect, drift = np.zeros((size, horizon * width)), state.numpy()
    for step in range(horizon):
        rows.append(effect)
        right.append(goal - drift)
        effect = a @ effect
        effect[:, step * width : (step + 1) * width] += b
        drift = a @ drift
    rows += [math.sqrt(cost.final) * effect]
    right += [math.sqrt(cost.final) * (goal - drift)]
    rows += [math.sqrt(cost.effort) * np.eye(horizon * width)]
    right += [np.zeros(horizon * width)]
    box, shape = problem.action_space, (horizon, width)
    low, high = (side.expand(shape).numpy().ravel() for side in (box.low, box.high))
    matrix, right, free = np.vstack(rows), np.concatenate(right), low < high
    actions = low.astype(float)
    if free.any():  # scipy wants low < high: what is fixed moves to the right side
        actions[free] = lsq_linear(
            matrix[:, free],
            right - matrix[:, ~free] @ low[~free],
            bounds=(low[free], high[free]),
            tol=1e-14,
        ).x
    return torch.as_tensor(actions.reshape(horizon, width))


def quadratic_optimum(
    cost: Callable[[np.ndarray], float], low: np.ndarray, high: np.ndarray
) -> Tensor:
    """Minimise a convex quadratic function of a vector inside bounds, by scipy.

    Hessian and gradient are read off its values, which are exact up to rounding.
    """
    units, at_zero = np.eye(len(low)), cost(np.zeros(len(low)))
    ones = np.array([cost(e) for e in units])
    both = np.array([[cost(e + f) for f in units] for e in units])
    hessian = both - ones[:, None] - ones[None, :] + at_zero
    root = np.linalg.cholesky(hessian)
    right = -np.linalg.solve(root, ones - at_zero - 0.5 * np.diag(hessian))
    found = lsq_linear(root.T, right, bounds=(low, high), tol=1e-14)
    return torch.as_tensor(found.x)


def cost_of(problem: dp.PlanningProblem, state: Tensor, actions: Tensor) -> Tensor:
    """The cost of actions by an explicit loop over time."""
    states = [state]
    for step in range(actions.shape[-2]):
        states.append(problem.dynamics(states[-1], actions[..., step, :]))
    return problem.objective(torch.stack(states, dim=-2), actions)


def central_difference(
    function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6
) -> Tensor:
    """Gradient of a scalar function by central differences.

    In float64 the error is about step² + 1e-16 / step: 1e-6 gives 1e-10.
    """
    gradient = torch.zeros_like(at)
    flat = gradient.view(-1)
    for index in range(at.numel()):
        shift = torch.zeros_like(at)
        shift.view(-1)[index] = step
        with torch.no_grad():
            difference = function(at + shift) - function(at - shift)
        flat[index] = difference / (2 * step)
    return gradient


def _as_numpy(
    problem: dp.PlanningProblem,
) -> tuple[np.ndarray, np.ndarray, QuadraticCost]:
    transition = problem.dynamics.transition.detach().numpy()
    control = problem.dynamics.control.detach().numpy()
    return transition, control, problem.objective


def same_to_rounding(got: Tensor, expected: Tensor) -> None:
    """Assert equality in float64 up to rounding, which the kernel decides.

    A product of matrices sums in an order that depends on the processor, the number of
    threads and the size of the batch: the same element in another batch is equal to
    rounding and not to the last bit.
    """
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
