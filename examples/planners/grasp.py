"""GRASP: descend on states and actions at once, with noise and without brittle slopes.

Psenka, Rabbat, Krishnapriyan, LeCun and Bar 2026, "Parallel stochastic gradient-based
planning for world models" (arXiv:2602.00475), section 3, with the numbers of the
authors' code. What the paper does with the distance to a goal is done with the
problem's objective here, which judges the one-step predictions.
"""

from operator import index

import torch
from torch import Tensor

import diffplan as dp
from diffplan.planners import Planner, PlanRequest, Solution, candidate_costs


class GRASP(Planner):
    """First-order collocation: every step of the dynamics is asked at the same time.

    States z_t of a plan are variables. With p_t = f(z̄_t, u_t), where no gradient goes
    into z̄_t, descent is on Σ ‖z_{t+1} - p_t‖² + γ · objective(x_0, p_0 … p_{T-1}; u).
    They begin with the rollout of the warm start, or of the middle of the box. What was
    there at first is the answer where the descent has not found better actions.

    Args:
        horizon: T, number of planned actions.
        iterations: Steps of this descent.
        step_size: Of actions.
        state_step_size: Of states.
        state_noise: σ of the noise that each step adds to the states.
        objective_weight: γ.
        sync_every: After so many steps actions descend the cost of their rollout.
        sync_steps: How many such steps, of `step_size` too.
    """

    needs_derivatives = True

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 100,
        step_size: float = 0.01,
        state_step_size: float = 0.01,
        state_noise: float = 0.01,
        objective_weight: float = 1.0,
        sync_every: int = 20,
        sync_steps: int = 5,
        gradient: dp.GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.horizon, self.iterations = index(horizon), index(iterations)
        self.step_size, self.state_step_size = step_size, state_step_size
        self.state_noise, self.objective_weight = state_noise, objective_weight
        self.sync_every, self.sync_steps = index(sync_every), index(sync_steps)
        lows = {"horizon": 1, "sync_every": 1}
        for name, x in vars(self).items():  # a learnable number may be anything
            if isinstance(x, float | int) and not (low := lows.get(name, 0)) <= x < 1e9:
                raise dp.errors.ArgumentError(f"{name}: expected {low} … 1e9, got {x}")
        self.configure_gradient(gradient)

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of the states' noise, `[iterations, T-1, S]`."""
        return (self.iterations, self.horizon - 1, request.state.shape[-1])

    def solve(self, request: PlanRequest) -> Solution:
        """Descend (equations 5 and 8 to 10), and now and then on the true cost."""
        problem, state, noise = request.problem, request.state, request.drawn()
        first, trace = state.unsqueeze(1), state.new_empty(len(state), 0)
        times = problem.times(0, self.horizon, state)  # None but for timed dynamics
        known = actions = self.initial_actions(request)
        states = problem.rollout(state, actions)[:, 1:-1]

        def relaxed(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
            before = torch.cat([first, states.detach()], dim=1)
            reached = problem.step(before, actions, times)
            gap = (states - reached[:, :-1]).square().sum(dim=(-2, -1))
            cost = problem.trajectory_cost(torch.cat([first, reached], 1), actions)
            return (gap + self.objective_weight * cost).sum(), cost.detach()

        def moved(actions: Tensor, slope: Tensor) -> Tensor:
            # Actions whose slope failed stay.
            return problem.project(actions - self.step_size * slope.nan_to_num(0, 0, 0))

        slopes = torch.func.grad(relaxed, argnums=(0, 1), has_aux=True)
        true_slope = torch.func.grad(lambda u: problem.cost(state, u).sum())
        for iteration, kick in enumerate((self.state_noise * noise).unbind(1)):
            (up, slope), cost = slopes(states, actions)
            trace = torch.cat([trace, cost.unsqueeze(1)], dim=1)
            request.show(actions.unsqueeze(1), cost.unsqueeze(1))
            states = states - self.state_step_size * up.nan_to_num(0, 0, 0) + kick
            actions = moved(actions, slope)
            for _ in range(self.sync_steps * ((iteration + 1) % self.sync_every == 0)):
                actions = moved(actions, true_slope(actions))
        cost = candidate_costs(problem, state, torch.stack([actions, known], dim=1))
        cost = cost.nan_to_num(torch.inf, torch.inf, torch.inf)  # failures never win
        best = torch.where((cost[:, 0] <= cost[:, 1])[:, None, None], actions, known)
        return Solution(best, iterations=self.iterations, diagnostics={"cost": trace})
